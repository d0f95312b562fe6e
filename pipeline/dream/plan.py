"""The plan of `[dream]`: subjects and their octaves, checked against the network and the images before any work is done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.ascent import objectives
from pipeline.ascent.objectives import Objective
from pipeline.errors import WrongSpec
from pipeline.job import Job
from pipeline.models.network import LOGITS
from pipeline.sources.picking import check_picks, count_picks, named, pick
from pipeline.spec.dream import DreamSpec, VisualizationSpec

LONGEST_DREAM = 4096  # pixels of the longer side of a picture, where dream.longest says nothing: memory grows with its pixels
_DEVIATION = 8.0  # of 255: standard deviation of the noise that is added to a class's background
_MAX_REPEATS = 3  # a tile may be this many times larger than an octave, whose copies then fill it side by side
_MAX_PIXELS = 2**27  # of one picture: more is probably a mistake in the spec


@dataclass(frozen=True)
class Octave:
    """One size of a picture, in pixels, and the steps made at it, with the filter's sigma at its start and its end."""

    height: int
    width: int
    steps: int
    start_sigma: float = 0.0
    end_sigma: float = 0.0


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
        """The value of the index's column `kind`: "picture" or "class"."""
        return "picture" if self.number is None else "class"


def subjects(job: Job) -> Iterator[tuple[Subject, np.ndarray]]:
    """All pictures, then all classes, each with its starting picture, uint8 RGB (h, w, 3); one in memory at a time.

    Raises: MissingInput, UnusableData; TooManyBad, as `pick` does; UnusableModel, for a network without logits.
    """
    yield from _pictures(job)
    visualization = job.spec.dream.visualization
    if visualization:
        names = job.class_names() if visualization.layer is None else None
        for number in visualization.classes:
            key = names[number] if names else str(number)
            yield Subject(f"class-{number:04}", key, class_objective(visualization, number), number), _background(job, number)


def _pictures(job: Job) -> Iterator[tuple[Subject, np.ndarray]]:
    spec = job.spec.dream
    picks = pick(job.source, job.fit, spec, spec.longest or LONGEST_DREAM, job.passed_over) if has_pictures(spec) else ()
    for picked, name in named(picks):
        yield Subject(name, picked.image.key, picture_objective(job)), picked.drawn


def count_pictures(job: Job) -> int:
    """How many pictures are dreamed on, if all can be read."""
    return count_picks(job.source, job.spec.dream) if has_pictures(job.spec.dream) else 0


def has_pictures(spec: DreamSpec) -> bool:
    """Whether there are pictures: those that the spec names, or the first few if it names no classes either."""
    return bool(spec.examples or spec.keys or spec.files) or spec.visualization is None


def all_layers(job: Job) -> list[str]:
    """The layers of all subjects' objectives, each once."""
    spec = job.spec.dream
    raised = [picture_objective(job)] if has_pictures(spec) else []
    if spec.visualization:
        raised.append(class_objective(spec.visualization, spec.visualization.classes[0]))
    return list(dict.fromkeys(name for objective in raised for name in objective.layers))


def count_frames(spec: DreamSpec, kind: str) -> int:
    """The number of frames of a subject."""
    return spec.zoom.frames if spec.zoom and kind == "picture" else 1


def count_steps(spec: DreamSpec, kind: str) -> int:
    """Steps of one picture of a subject, at most."""
    if kind == "picture" or spec.visualization is None:
        return spec.num_octave * spec.iterations
    return sum(octave.iter_n for octave in spec.visualization.octaves)


def count_all_steps(job: Job) -> int:
    """Steps of all pictures, at most."""
    spec = job.spec.dream
    counts = {"picture": count_pictures(job), "class": len(spec.visualization.classes) if spec.visualization else 0}
    return sum(count * count_frames(spec, kind) * count_steps(spec, kind) for kind, count in counts.items())


def picture_objective(job: Job) -> Objective:
    """The objective of DeepDream: the weighted mean squares of the layers named, or of all layers of the job."""
    weights = job.spec.dream.layers or {layer.name: 1.0 for layer in job.layers}
    first, *others = (weight * objectives.layer(name) for name, weight in weights.items())
    return sum(others, start=first)


def class_objective(spec: VisualizationSpec, number: int) -> Objective:
    """The objective of a class: its logit, or its channel in the layer that the spec names."""
    return objectives.logit(number) if spec.layer is None else objectives.channel(spec.layer, number)


def picture_octaves(spec: DreamSpec, height: int, width: int, tile: tuple[int, int]) -> list[Octave]:
    """The octaves from small to the picture's own size, without those that are too small for the network's tiles."""
    sizes = [
        (int(height / spec.octave_scale**number), int(width / spec.octave_scale**number)) for number in range(spec.num_octave)
    ]
    return [Octave(*size, spec.iterations) for size in reversed(sizes) if fits_tiles(size, tile)]


def class_octaves(spec: VisualizationSpec, height: int, width: int) -> list[Octave]:
    """The octaves of a class: each is `scale` times as large as the previous one, starting from the network's input size."""
    octaves = []
    for octave in spec.octaves:
        height, width = int(height * octave.scale), int(width * octave.scale)
        octaves.append(Octave(height, width, octave.iter_n, octave.start_sigma, octave.end_sigma))
    return octaves


def fits_tiles(size: tuple[int, int], tile: tuple[int, int]) -> bool:
    """Whether a picture is large enough for a network's tiles."""
    return all(_MAX_REPEATS * side >= length for side, length in zip(size, tile, strict=True))


def check_dream(job: Job) -> None:
    """Check `[dream]` against the network and the images, before any work is done.

    Raises: UnknownLayer; MissingInput, UnusableData and TooManyBad, for pictures; UnusableModel, for the logits of a network
        without any; WrongSpec, for an unknown class or example, or an impossible size.
    """
    spec, channels = job.spec.dream, job.network.input_shape[2]
    if channels not in (1, 3):
        raise WrongSpec(
            f"dream paints RGB pictures, and {job.network.name} takes {channels} bands. Leave it out, or see patterns."
        )
    known = {layer.name: layer for layer in job.network.layers()}
    if has_pictures(spec):
        check_picks(job.source, spec, "[dream]")
        picture_objective(job).check(known, f"{job.network.name} (dream.layers)")
    if spec.visualization:
        if spec.visualization.layer is None:
            known[LOGITS] = job.logits_layer()
        for number in spec.visualization.classes:
            class_objective(spec.visualization, number).check(known, f"{job.network.name} (dream.visualization.classes)")
        octaves = class_octaves(spec.visualization, *job.network.input_shape[:2])
        for number, octave in enumerate(octaves):
            _check_size(job, octave.height, octave.width, f"octave {number} of dream.visualization", "Raise its scale")
    for subject, picture in _pictures(job):
        _check_size(job, picture.shape[0], picture.shape[1], subject.key, "Enlarge it, or raise dream.longest")


def _check_size(job: Job, height: int, width: int, subject: str, remedy: str) -> None:
    tile = job.network.input_shape[:2]
    if not fits_tiles((height, width), tile):
        raise WrongSpec(
            f"{subject} is {height} x {width} pixels, too small for {job.network.name}, which takes {tile[0]} x {tile[1]}: "
            f"height and width must be at least a third of that. {remedy}, or set a smaller model.size if the network allows it."
        )
    if height * width > _MAX_PIXELS:
        raise WrongSpec(f"{subject} is {height:,} x {width:,} pixels, more than {_MAX_PIXELS:,} in all. Make it smaller.")


def _background(job: Job, number: int) -> np.ndarray:
    """The starting picture of a class: its background with some noise, at the network's input size."""
    spec = job.spec.dream
    assert spec.visualization is not None
    random = np.random.default_rng([spec.seed, number])
    noise = random.normal(spec.visualization.background_color, _DEVIATION, (*job.network.input_shape[:2], 3))
    return np.round(np.clip(noise, 0, 255)).astype(np.uint8)
