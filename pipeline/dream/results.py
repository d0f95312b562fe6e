"""Results: a finished dream, its row in the index, and the summary of all dreams."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.dream.plan import Subject
from pipeline.job import Job
from pipeline.progress import counted
from pipeline.spec.dream import DreamSpec
from pipeline.spec.picks import Picks

_NAMED = 5  # pictures in one message


@dataclass(frozen=True, eq=False)
class DreamResult:
    """One finished picture, and the result of its ascent.

    picture, original: uint8 RGB (h, w, 3), finished and at the start. octaves: how many there were.
    losses: float32 (steps,): the objective before each step, the mean over tiles.
    state: "done"; "dead", without any gradient; or "stopped", by NaN or infinity.
    before, reached: the objective's value for `original` and for `picture`; of a class, both scaled to the network's input.
    probability: of the class, by the network's head; None for pictures, and where the head gives none.
    """

    subject: Subject
    frame: int
    picture: np.ndarray
    original: np.ndarray
    octaves: int
    losses: np.ndarray
    state: str
    before: float
    reached: float
    probability: float | None


@dataclass(frozen=True, eq=False)
class WrittenDream:
    """A dream whose picture is written, and of which only small pixels stay in memory.

    path: within mosaics/dream. size: (height, width) of the picture.
    small, small_original: uint8 RGB, at most a tile large.
    """

    result: DreamResult
    path: str
    size: tuple[int, int]
    small: np.ndarray
    small_original: np.ndarray

    @property
    def subject(self) -> Subject:
        return self.result.subject

    @property
    def title(self) -> str:
        """Its name in messages, with the number of the frame after the first."""
        return f"{self.subject.name} {self.result.frame}" if self.result.frame else self.subject.name


def index_columns(spec: DreamSpec, dreams: Sequence[WrittenDream]) -> dict[str, list[Any]]:
    """The columns of index/dreams.parquet."""
    of_class = spec.visualization.model_dump(mode="json", exclude={"classes"}) if spec.visualization else {}
    of_picture = spec.model_dump(mode="json", exclude={*Picks.model_fields, "snapshot", "seed", "visualization"})
    parameters = {"picture": json.dumps(of_picture), "class": json.dumps(of_class)}
    subjects, results = [dream.subject for dream in dreams], [dream.result for dream in dreams]
    return {
        "name": [subject.name for subject in subjects],
        "kind": [subject.kind for subject in subjects],
        "key": [subject.key for subject in subjects],
        "number": [subject.number for subject in subjects],
        "frame": [result.frame for result in results],
        "objective": [str(subject.objective) for subject in subjects],
        "state": [result.state for result in results],
        "seed": [spec.seed] * len(results),
        "octaves": [result.octaves for result in results],
        "steps": [len(result.losses) for result in results],
        "height": [dream.size[0] for dream in dreams],
        "width": [dream.size[1] for dream in dreams],
        "parameters": [parameters[subject.kind] for subject in subjects],
        "loss": [result.losses[-1] for result in results],
        "losses": [result.losses for result in results],
        "before": [result.before for result in results],
        "reached": [result.reached for result in results],
        "probability": [result.probability for result in results],
        "path": [f"mosaics/dream/{dream.path}" for dream in dreams],
    }


def summarise(job: Job, dreams: Sequence[WrittenDream], films: Sequence[str]) -> dict[str, Any]:
    """The stage's entry in run.json; reports dreams that are dead or stopped."""
    counts = {kind: sum(dream.subject.kind == kind for dream in dreams) for kind in ("picture", "class")}
    words = [f"{counted(counts['picture'], 'picture')}, {counted(counts['class'], 'class')}"]
    if films:
        words.append(counted(len(films), "film"))
    octaves = job.spec.dream.num_octave
    fewer = sum(dream.subject.kind == "picture" and dream.result.octaves < octaves for dream in dreams)
    if fewer:
        job.reporter.say(
            f"{fewer:,} of {counted(counts['picture'], 'picture')} had fewer octaves than dream.num_octave = {octaves}: "
            "the smallest are under a third of the network's input."
        )
    failed = {}
    for state, problem in (
        ("dead", "have no gradient"),
        ("stopped", "stopped at NaN or infinity; their last good state is kept"),
    ):
        titles = [dream.title for dream in dreams if dream.result.state == state]
        failed[state] = len(titles)
        if titles:
            more = f" and {len(titles) - _NAMED} more" if len(titles) > _NAMED else ""
            names = ", ".join(titles[:_NAMED])
            job.reporter.say(f"dreams that {problem}: {names}{more}. See index/dreams.parquet, column state.")
            words.append(f"{len(titles):,} {state}")
    return {
        "summary": ", ".join(words),
        "pictures": counts["picture"],
        "classes": counts["class"],
        "films": list(films),
        **failed,
    }
