"""Subjects: what `[dream]` asks for, held against the network and the files before any work is done."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.dream import objectives
from pipeline.dream.objectives import Objective
from pipeline.dream.octaves import Octave
from pipeline.errors import MissingInput, UnusableData, WrongSpec
from pipeline.job import Job
from pipeline.models.labels import count_classes
from pipeline.models.network import LOGITS, LayerInfo
from pipeline.sections.dream import DreamSpec, VisualizationSpec
from pipeline.sources.decode import Unreadable, decode
from pipeline.store.files import file_name
from pipeline.store.places import Place, place
from pipeline.store.remote import has_scheme

_LEAST = 3  # an octave may be so many times smaller than a tile, which then shows it as often, side by side
_MOST_PIXELS = 2**27  # of one picture: more is a slip of the pen


@dataclass(frozen=True)
class Subject:
    """A picture to dream on, or a class to draw.

    name: of its files. key: the picture's path, or the data set's own name for it, or the class's name.
    path, example: where the picture is: a file, or an image of the data set. number: of the class.
    """

    name: str
    key: str
    objective: Objective
    path: Place | None = None
    example: int | None = None
    number: int | None = None

    @property
    def kind(self) -> str:
        return "picture" if self.number is None else "class"


def subjects(job: Job) -> list[Subject]:
    """All pictures, then all classes. Raises: MissingInput; UnusableModel, for a network without logits."""
    spec = job.spec.dream
    found, taken = [], set()
    for path in _files(spec.pictures):
        name = file_name(path.stem)
        if name in taken:  # two folders may hold pictures of one name
            name = f"{name}-{hashlib.sha256(str(path).encode()).hexdigest()[:6]}"
        taken.add(name)
        found.append(Subject(name, str(path), picture_objective(job), path=path))
    found += [
        Subject(f"example-{example:06}", str(example), picture_objective(job), example=example) for example in spec.examples
    ]
    if spec.visualization:
        names = job.class_names() if spec.visualization.layer is None else None
        for number in spec.visualization.classes:
            key = names[number] if names else str(number)
            found.append(Subject(f"class-{number:04}", key, class_objective(spec.visualization, number), number=number))
    return found


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


def read_picture(job: Job, subject: Subject) -> np.ndarray:
    """The picture of a subject, at most `dream.longest` long: uint8 RGB (h, w, 3). Raises: UnusableData, MissingInput."""
    if subject.path is None:
        ((_, image),) = job.source.fetch([subject.example or 0])
        return _limited(image.pixels, job.spec.dream.longest)
    try:
        return _limited(decode(subject.path.read_bytes()), job.spec.dream.longest)
    except OSError as error:
        raise MissingInput(f"{subject.path} in dream.pictures cannot be read ({error.strerror}). Make it readable.") from None
    except Unreadable as error:
        raise UnusableData(f"{subject.path} in dream.pictures is not a picture: {error}. Take it out, or mend it.") from None


def check_dream(job: Job) -> None:
    """Hold `[dream]` against the network, the data and the pictures, before any work is done.

    Raises: UnknownLayer; MissingInput and UnusableData, for pictures; UnusableModel, for the logits of a network
        without any; WrongSpec, for a class or example that is not there, a size that is none, or nothing to do.
    """
    spec = job.spec.dream
    if not (spec.pictures or spec.examples or spec.visualization):
        raise WrongSpec("[dream] has nothing to do. Name pictures (dream.pictures) or classes (dream.visualization.classes).")
    for example in spec.examples:
        if example >= len(job.source):
            raise WrongSpec(f"dream.examples names {example}, but the data set has {len(job.source):,} examples, from 0.")
    known = {layer.name: layer for layer in job.network.layers()}
    if spec.visualization and spec.visualization.layer is None:
        known[LOGITS] = LayerInfo(LOGITS, "", (1, 1, count_classes(job.network)))
    if spec.pictures or spec.examples:
        picture_objective(job).check(known, f"{job.network.name} (dream.layers)")
    if spec.visualization:
        for number in spec.visualization.classes:
            class_objective(spec.visualization, number).check(known, f"{job.network.name} (dream.visualization.classes)")
        octaves = class_octaves(spec.visualization, *job.network.input_shape[:2])
        for place_, octave in enumerate(octaves):
            _check_size(job, octave.height, octave.width, f"octave {place_} of dream.visualization", "Raise its scale")
    for subject in subjects(job):
        if subject.kind == "picture":
            height, width, _ = read_picture(job, subject).shape
            _check_size(job, height, width, subject.key, "Enlarge it, or raise dream.longest")


def _check_size(job: Job, height: int, width: int, what: str, now: str) -> None:
    tile = job.network.input_shape[:2]
    if not holds((height, width), tile):
        raise WrongSpec(
            f"{what} is {height} x {width} pixels, too small for {job.network.name}, which takes {tile[0]} x {tile[1]}: "
            f"at least a third of it is needed. {now}, or set a smaller model.size where the network allows one."
        )
    if height * width > _MOST_PIXELS:
        raise WrongSpec(f"{what} is {height:,} x {width:,} pixels, more than {_MOST_PIXELS:,} in all. Make it smaller.")


def _files(pictures: Sequence[str]) -> Iterator[Place]:
    for pattern in pictures:
        if has_scheme(pattern) or not glob.has_magic(pattern) or place(pattern).exists():
            path = place(pattern)
            if not path.is_file():
                raise MissingInput(
                    f"{pattern!r} in dream.pictures is not a file. Name a picture, or a glob such as photos/*.jpg."
                )
            yield path
        else:
            found = sorted(glob.glob(pattern, recursive=True))
            if not found:
                raise MissingInput(f"{pattern!r} in dream.pictures matches nothing. Name a picture, or another glob.")
            yield from map(place, found)


def _limited(pixels: np.ndarray, longest: int | None) -> np.ndarray:
    import cv2

    height, width = pixels.shape[:2]
    if longest is None or max(height, width) <= longest:
        return pixels
    scale = longest / max(height, width)
    return cv2.resize(pixels, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA)
