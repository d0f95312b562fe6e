"""The stage `dream`: DeepDream on pictures, journeys into them, and classes drawn from nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from pipeline.ascent.measure import check_reach
from pipeline.drawing.pixels import encode_png
from pipeline.dream.contact_sheet import SHEETS, Shown, draw_exhibition, small
from pipeline.dream.film import write_film
from pipeline.dream.plan import Subject, check_dream, class_objective, count_pictures, has_pictures, picture_objective, subjects
from pipeline.dream.runner import Made, Studio, frames_of, steps_of
from pipeline.job import Job
from pipeline.report.pictures import dreams
from pipeline.report.section import Section
from pipeline.spec.dream import DreamSpec
from pipeline.spec.picks import Picks
from pipeline.stages.stage import Outcome, Stage
from pipeline.store.files import write_bytes
from pipeline.store.places import Place
from pipeline.store.tables import write_index


def dream(job: Job) -> Outcome:
    """Make, measure and show the pictures of `[dream]`.

    Pictures that are done, and how far another has come, stay in parts/dream until all are done; a stage that was
    interrupted goes on from there.

    Raises: UnusableModel, for layers that no gradient reaches; UnusableData, MissingInput, StoreFailed.
    """
    if tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
    check_reach(job.network, _layers(job))
    folder = job.folder / "mosaics" / "dream"
    shown: list[Shown] = []
    films: list[str] = []
    with job.reporter.step("dream", "steps") as advance:
        studio = Studio(job, advance, _steps(job))
        for subject, original in subjects(job):
            frames = [_shown(folder, job, made) for made in studio.make(subject, original)]
            if _is_film(job, subject):
                films += _film(job, folder, subject, frames)
            shown += frames
    draw_exhibition(folder, shown)
    write_index(job.folder, "dreams", _columns(job, shown))
    _remove_others(folder, [one.path for one in shown] + films)
    for path in [*(job.folder / "parts" / "dream").glob("*.npz")]:
        path.unlink()
    return _told(job, shown, films)


def _layers(job: Job) -> list[str]:
    """All layers that anything is to raise, each once."""
    spec = job.spec.dream
    wanted = [picture_objective(job)] if has_pictures(spec) else []
    if spec.visualization:
        wanted.append(class_objective(spec.visualization, spec.visualization.classes[0]))
    return list(dict.fromkeys(name for objective in wanted for name in objective.layers))


def _steps(job: Job) -> int:
    """All steps that are to be made, at most."""
    classes = len(job.spec.dream.visualization.classes) if job.spec.dream.visualization else 0
    counts = {"picture": count_pictures(job), "class": classes}
    return sum(count * frames_of(job, kind) * steps_of(job, kind) for kind, count in counts.items())


def _is_film(job: Job, subject: Subject) -> bool:
    return job.spec.dream.zoom is not None and subject.kind == "picture"


def _shown(folder: Place, job: Job, made: Made) -> Shown:
    """Write a picture, and let go of it."""
    name = made.subject.name
    path = f"{name}/{made.frame:05}.png" if _is_film(job, made.subject) else f"{name}.png"
    write_bytes(folder / path, encode_png(made.picture))
    lighter = replace(made, picture=made.picture[:0], original=made.original[:0])
    return Shown(lighter, path, made.picture.shape[:2], (small(made.picture), small(made.original)))


def _film(job: Job, folder: Place, subject: Subject, frames: Sequence[Shown]) -> list[str]:
    assert job.spec.dream.zoom is not None
    film = write_film(folder, subject.name, [folder / one.path for one in frames], job.spec.dream.zoom.fps)
    if film is None:
        job.reporter.say(f"OpenCV can write no video on this machine: the frames are in {folder / subject.name}.")
        return []
    return [film]


def _columns(job: Job, shown: Sequence[Shown]) -> dict[str, list[Any]]:
    spec = job.spec.dream
    drawn = spec.visualization.model_dump(mode="json", exclude={"classes"}) if spec.visualization else {}
    dreamed = spec.model_dump(mode="json", exclude={*Picks.model_fields, "snapshot", "seed", "visualization"})
    parameters = {"picture": json.dumps(dreamed), "class": json.dumps(drawn)}
    made = [one.made for one in shown]
    return {
        "name": [one.subject.name for one in made],
        "kind": [one.subject.kind for one in made],
        "key": [one.subject.key for one in made],
        "number": [one.subject.number for one in made],
        "frame": [one.frame for one in made],
        "objective": [str(one.subject.objective) for one in made],
        "state": [one.state for one in made],
        "seed": [spec.seed] * len(made),
        "octaves": [one.octaves for one in made],
        "steps": [len(one.losses) for one in made],
        "height": [one.size[0] for one in shown],
        "width": [one.size[1] for one in shown],
        "parameters": [parameters[one.subject.kind] for one in made],
        "loss": [one.losses[-1] for one in made],
        "losses": [one.losses for one in made],
        "before": [one.before for one in made],
        "reached": [one.reached for one in made],
        "probability": [one.probability for one in made],
        "path": [f"mosaics/dream/{one.path}" for one in shown],
    }


def _told(job: Job, shown: Sequence[Shown], films: Sequence[str]) -> Outcome:
    """The receipt; and a word to the user on what did not go well."""
    of_kind = {kind: sum(one.made.subject.kind == kind for one in shown) for kind in SHEETS}
    words = [f"{of_kind['picture']:,} pictures, {of_kind['class']:,} classes"]
    if films:
        words.append(f"{len(films):,} films")
    lost = [one for one in shown if one.made.subject.kind == "picture" and one.made.octaves < job.spec.dream.num_octave]
    if lost:
        job.reporter.say(
            f"{len(lost):,} of {of_kind['picture']:,} pictures had fewer octaves than dream.num_octave = "
            f"{job.spec.dream.num_octave}: the smallest are under a third of the network's input."
        )
    counts = {}
    for state, what in (("dead", "have no gradient"), ("stopped", "stopped at NaN or infinity; their last good state is kept")):
        titles = [f"{one.title} {one.made.frame}" if one.made.frame else one.title for one in shown if one.made.state == state]
        counts[state] = len(titles)
        if titles:
            more = f" and {len(titles) - 5} more" if len(titles) > 5 else ""
            job.reporter.say(f"dreams that {what}: {', '.join(titles[:5])}{more}. See index/dreams.parquet, column state.")
            words.append(f"{len(titles):,} {state}")
    return {"told": ", ".join(words), "pictures": of_kind["picture"], "classes": of_kind["class"], "films": list(films), **counts}


def _remove_others(folder: Place, kept: Sequence[str]) -> None:
    """Remove what an earlier run left of pictures that this one does not have."""
    wanted = {*kept, *(f"{name}{suffix}.png" for name in SHEETS.values() for suffix in ("", "-loss"))}
    for path in [*folder.rglob("*")]:
        if path.is_file() and path.relative_to(folder).as_posix() not in wanted:
            path.unlink()


STAGE = Stage(
    "dream",
    dream,
    table=DreamSpec,
    check=check_dream,
    names_classes=True,
    index=("dreams",),
    folders=("mosaics/dream",),
    section=Section("dreams", "dreams", dreams),
)
