"""Subjects: what `[dream]` asks for, held against the network and the images before any work is done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.ascent import objectives
from pipeline.ascent.objectives import Objective
from pipeline.drawing.pixels import shrink
from pipeline.dream.octaves import Octave
from pipeline.errors import WrongSpec
from pipeline.job import Job
from pipeline.models.labels import count_classes
from pipeline.models.network import LOGITS, LayerInfo
from pipeline.sources.picking import check_picks, count_picks, named, pick
from pipeline.spec.dream import DreamSpec, VisualizationSpec

_SPREAD = 8.0  # of 255: the deviation of the noise about its background from which a class begins
_LEAST = 3  # an octave may be so many times smaller than a tile, which then shows it as often, side by side
_MOST_PIXELS = 2**27  # of one picture: more is a slip of the pen


@dataclass(frozen=True)
class Subject:
    """A picture to dream on, or a class to draw.

    name: of its files. key: the data set's own name for the picture, or its path; or the class's name.
    number: of the class; None for pictures.
    """

    name: str
    key: str
    objective: Objective
    number: int | None = None

    @property
    def kind(self) -> str:
        """As the index has it: "picture" or "class"."""
        return "picture" if self.number is None else "class"


def subjects(job: Job) -> Iterator[tuple[Subject, np.ndarray]]:
    """All pictures, then all classes, each with what it begins with: uint8 RGB (h, w, 3), one in memory at a time.

    Raises: MissingInput, UnusableData; UnusableModel, for a network without logits.
    """
    yield from _pictures(job)
    visualization = job.spec.dream.visualization
    if visualization:
        names = job.class_names() if visualization.layer is None else None
        for number in visualization.classes:
            key = names[number] if names else str(number)
            yield Subject(f"class-{number:04}", key, class_objective(visualization, number), number), _ground(job, number)


def _pictures(job: Job) -> Iterator[tuple[Subject, np.ndarray]]:
    spec = job.spec.dream
    for one, name in named(pick(job.source, job.fit, spec)) if has_pictures(spec) else ():
        pixels = one.image.seen if spec.longest is None else shrink(one.image.seen, spec.longest)
        yield Subject(name, one.image.key, picture_objective(job)), pixels


def count_pictures(job: Job) -> int:
    """How many pictures are dreamed on, if all can be read."""
    return count_picks(job.source, job.spec.dream) if has_pictures(job.spec.dream) else 0


def has_pictures(spec: DreamSpec) -> bool:
    """Whether there are any: those that are named, or the first few where no classes are to be drawn."""
    return bool(spec.examples or spec.keys or spec.files) or spec.visualization is None


def picture_objective(job: Job) -> Objective:
    """What DeepDream raises: the layers' mean squares, weighted; of all layers of the job where none is named."""
    weights = job.spec.dream.layers or {layer.name: 1.0 for layer in job.layers}
    first, *others = (weight * objectives.layer(name) for name, weight in weights.items())
    return sum(others, start=first)


def class_objective(spec: VisualizationSpec, number: int) -> Objective:
    """What a class raises: its logit, or its channel of the layer that was named."""
    return objectives.logit(number) if spec.layer is None else objectives.channel(spec.layer, number)


def picture_octaves(spec: DreamSpec, height: int, width: int, tile: tuple[int, int]) -> list[Octave]:
    """From small to the picture's own size; octaves that are too small for the network's tiles are left out."""
    sizes = [
        (int(height / spec.octave_scale**number), int(width / spec.octave_scale**number)) for number in range(spec.num_octave)
    ]
    return [Octave(*size, spec.iterations) for size in reversed(sizes) if holds(size, tile)]


def class_octaves(spec: VisualizationSpec, height: int, width: int) -> list[Octave]:
    """Each octave is `scale` times as large as the one before; the first, as the network's input."""
    octaves = []
    for one in spec.octaves:
        height, width = int(height * one.scale), int(width * one.scale)
        octaves.append(Octave(height, width, one.iter_n, one.start_sigma, one.end_sigma))
    return octaves


def holds(size: tuple[int, int], tile: tuple[int, int]) -> bool:
    """Whether a picture is large enough for a network's tiles."""
    return all(_LEAST * side >= length for side, length in zip(size, tile, strict=True))


def check_dream(job: Job) -> None:
    """Hold `[dream]` against the network and the images, before any work is done.

    Raises: UnknownLayer; MissingInput and UnusableData, for pictures; UnusableModel, for the logits of a network
        without any; WrongSpec, for a class or example that is not there, or a size that is none.
    """
    spec = job.spec.dream
    known = {layer.name: layer for layer in job.network.layers()}
    if has_pictures(spec):
        check_picks(job.source, spec, "[dream]")
        picture_objective(job).check(known, f"{job.network.name} (dream.layers)")
    if spec.visualization:
        if spec.visualization.layer is None:
            known[LOGITS] = LayerInfo(LOGITS, "", (1, 1, count_classes(job.network)))
        for number in spec.visualization.classes:
            class_objective(spec.visualization, number).check(known, f"{job.network.name} (dream.visualization.classes)")
        octaves = class_octaves(spec.visualization, *job.network.input_shape[:2])
        for place, octave in enumerate(octaves):
            _check_size(job, octave.height, octave.width, f"octave {place} of dream.visualization", "Raise its scale")
    for subject, picture in _pictures(job):
        _check_size(job, picture.shape[0], picture.shape[1], subject.key, "Enlarge it, or raise dream.longest")


def _check_size(job: Job, height: int, width: int, what: str, now: str) -> None:
    tile = job.network.input_shape[:2]
    if not holds((height, width), tile):
        raise WrongSpec(
            f"{what} is {height} x {width} pixels, too small for {job.network.name}, which takes {tile[0]} x {tile[1]}: "
            f"at least a third of it is needed. {now}, or set a smaller model.size where the network allows one."
        )
    if height * width > _MOST_PIXELS:
        raise WrongSpec(f"{what} is {height:,} x {width:,} pixels, more than {_MOST_PIXELS:,} in all. Make it smaller.")


def _ground(job: Job, number: int) -> np.ndarray:
    """What a class begins with: its background with some noise, as large as the network's input."""
    spec = job.spec.dream
    assert spec.visualization is not None
    random = np.random.default_rng([spec.seed, number])
    noise = random.normal(spec.visualization.background_color, _SPREAD, (*job.network.input_shape[:2], 3))
    return np.round(np.clip(noise, 0, 255)).astype(np.uint8)
