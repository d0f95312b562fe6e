"""The stage `dream`: DeepDream on pictures, zooms into them, and classes drawn from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.drawing.pixels import encode_png
from pipeline.dream.contact_sheet import SHEETS, draw_sheets, shrink_to_tile
from pipeline.dream.plan import Subject, all_layers, check_dream, count_all_steps, subjects
from pipeline.dream.results import DreamResult, WrittenDream, index_columns, summarise
from pipeline.job import Job
from pipeline.report.pictures import dreams as section_of_dreams
from pipeline.report.section import Section
from pipeline.spec.dream import DreamSpec
from pipeline.stages.stage import Outcome, Stage
from pipeline.store.files import write_bytes
from pipeline.store.places import Place
from pipeline.store.tables import write_index


def dream(job: Job) -> Outcome:
    """Make, measure and show the pictures of `[dream]`.

    Finished pictures, and the checkpoint of an unfinished one, stay in parts/dream until all are done; a stage that was
    interrupted goes on from there.

    Raises: UnusableModel, for layers that no gradient reaches; UnusableData, MissingInput, StoreFailed.
    """
    from pipeline.ascent.measure import deterministic

    with deterministic():
        return _make(job)


def _make(job: Job) -> Outcome:
    from pipeline.ascent.measure import check_gradients
    from pipeline.dream.runner import DreamRunner

    check_gradients(job.network, all_layers(job))
    folder = job.folder / "mosaics" / "dream"
    dreams: list[WrittenDream] = []
    films: list[str] = []
    with job.reporter.step("dream", "steps") as advance:
        runner = DreamRunner(job, advance, count_all_steps(job))
        for subject, original in subjects(job):
            frames = [_write(job, folder, result) for result in runner.make(subject, original)]
            films += _write_film(job, folder, subject, frames)
            dreams += frames
    draw_sheets(folder, dreams)
    write_index(job.folder, "dreams", index_columns(job.spec.dream, dreams))
    _keep_only(folder, [dream.path for dream in dreams] + films)
    for path in [*(job.folder / "parts" / "dream").glob("*.npz")]:
        path.unlink()
    return summarise(job, dreams, films)


def _is_zoom(job: Job, subject: Subject) -> bool:
    return job.spec.dream.zoom is not None and subject.kind == "picture"


def _write(job: Job, folder: Place, result: DreamResult) -> WrittenDream:
    name = result.subject.name
    path = f"{name}/{result.frame:05}.png" if _is_zoom(job, result.subject) else f"{name}.png"
    write_bytes(folder / path, encode_png(result.picture))
    small, small_original = shrink_to_tile(result.picture), shrink_to_tile(result.original)
    nothing = np.zeros((0, 0, 3), np.uint8)  # memory does not grow with the number of pictures
    without_pixels = replace(result, picture=nothing, original=nothing)
    return WrittenDream(without_pixels, path, result.picture.shape[:2], small, small_original)


def _write_film(job: Job, folder: Place, subject: Subject, frames: Sequence[WrittenDream]) -> list[str]:
    """The file of a zoom's film, or none."""
    from pipeline.dream.film import write_film

    zoom = job.spec.dream.zoom
    if zoom is None or subject.kind != "picture":
        return []
    film = write_film(folder, subject.name, [folder / frame.path for frame in frames], zoom.fps)
    if film is None:
        job.reporter.say(f"OpenCV can write no video on this machine: the frames are in {folder / subject.name}.")
        return []
    return [film]


def _keep_only(folder: Place, written: Sequence[str]) -> None:
    """Remove what an earlier run left of pictures that this one does not have."""
    kept = {*written, *(f"{name}{suffix}.png" for name in SHEETS.values() for suffix in ("", "-loss"))}
    for path in [*folder.rglob("*")]:
        if path.is_file() and path.relative_to(folder).as_posix() not in kept:
            path.unlink()


STAGE = Stage(
    "dream",
    dream,
    table=DreamSpec,
    check=check_dream,
    names_classes=True,
    index=("dreams",),
    folders=("mosaics/dream",),
    section=Section("dreams", {"dreams": section_of_dreams}),
)
