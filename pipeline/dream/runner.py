"""Making: the pictures of a subject, one frame after the other, each measured; what is done is kept in parts/dream."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from pipeline.ascent.checkpoint import load, save
from pipeline.ascent.objectives import Form, stack
from pipeline.compiled.compile import compile_pass
from pipeline.compiled.freezing import Pass
from pipeline.dream.octaves import Course, FromNothing, FromPicture, Octave, Saving, dream
from pipeline.dream.plan import Subject, class_octaves, picture_octaves
from pipeline.dream.tiles import Tiled, TiledWay, compile_look
from pipeline.job import Job
from pipeline.models.network import LOGITS
from pipeline.progress import Advance
from pipeline.spec.picks import Picks


@dataclass(frozen=True, eq=False)
class Made:
    """One finished picture, and what came of its ascent.

    picture, original: uint8 RGB (h, w, 3), as it is and as it began. octaves: how many sizes it went through.
    losses: float32 (steps,): the objective before each step, the mean over tiles.
    state: "done"; "dead", without any gradient; or "stopped", by NaN or infinity.
    before, reached: the objective's value for `original` and for `picture`; of a class, both scaled to the network's input.
    probability: that the network gives to the class; None for pictures.
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


@dataclass
class Studio:
    """Makes one subject after another; keeps what is compiled, and counts the steps that are done."""

    job: Job
    advance: Advance
    total: int
    done: int = 0
    _tiled: dict[tuple[Form, TiledWay, int], Tiled] = field(default_factory=dict)
    _looks: dict[tuple[Form, int] | str, Pass] = field(default_factory=dict)

    def make(self, subject: Subject, original: np.ndarray) -> Iterator[Made]:
        """The pictures of a subject: one, or the frames of a journey, the first from `original`. Raises: StoreFailed."""
        spec = self.job.spec.dream
        for frame in range(frames_of(self.job, subject.kind)):
            made = self._frame(subject, frame, original)
            self.done += steps_of(self.job, subject.kind)
            yield made
            if spec.zoom:
                original = nearer(made.picture, spec.zoom.scale)

    def _frame(self, subject: Subject, frame: int, original: np.ndarray) -> Made:
        path = self.job.folder / "parts" / "dream" / f"{self._key(subject, frame, original)}.npz"
        arrays = load(path)
        if not arrays:
            snapshot = path.parent / f"climbing-{path.name}"
            arrays = self._climbed(subject, original, Saving(snapshot, self.job.spec.dream.snapshot))
            save(path, arrays)
            snapshot.unlink(missing_ok=True)
        picture, losses, octaves, dead, stopped, before, reached, probability = arrays
        state = "dead" if dead else "stopped" if stopped else "done"
        known = float(probability) if np.isfinite(probability) else None
        return Made(subject, frame, picture, original, int(octaves), losses, state, float(before), float(reached), known)

    def _climbed(self, subject: Subject, original: np.ndarray, saving: Saving) -> list[Any]:
        course, way, limit = self._course(subject, original)

        def tell(steps: int, loss: float) -> None:
            self.advance(self.done + steps, self.total, f"{subject.name}, loss {loss:.4g}")

        first = course.original if isinstance(course, FromPicture) else original.astype(np.float32) / 255
        dreamt = dream(lambda octave: self._compiled(subject, way, octave), subject.objective, course, first, saving, tell, limit)
        picture = np.round(255 * dreamt.picture).astype(np.uint8)
        before, reached = self._value(subject, original), self._value(subject, picture)
        told = float("nan")
        if subject.number is not None and subject.objective.layers == (LOGITS,):
            told = self._probability(picture, subject.number)
        return [picture, dreamt.losses, len(course.octaves), dreamt.dead, dreamt.stopped, before, reached, told]

    def _course(self, subject: Subject, original: np.ndarray) -> tuple[Course, TiledWay, float | None]:
        spec, tile = self.job.spec.dream, self.job.network.input_shape[:2]
        if subject.kind == "picture":
            octaves = picture_octaves(spec, original.shape[0], original.shape[1], tile)
            way = TiledWay(spec.step, spec.shift, spec.levels, 0.0, spec.seed)
            return FromPicture(octaves, original.astype(np.float32) / 255), way, spec.max_loss
        drawn = spec.visualization
        assert drawn is not None
        octaves = class_octaves(drawn, *tile)
        largest = max(max(one.start_sigma, one.end_sigma) for one in octaves) if drawn.use_bilateral else 0.0
        return (
            FromNothing(octaves, drawn.use_tv_bregman),
            TiledWay(drawn.step, drawn.shift, drawn.levels, largest, spec.seed),
            None,
        )

    def _compiled(self, subject: Subject, way: TiledWay, octave: Octave) -> Tiled:
        batch = self._batch(octave.height, octave.width)
        if any((form, known) != (subject.objective.form, way) for form, known, _ in self._tiled):
            self._tiled.clear()  # each holds the network's weights
        key = (subject.objective.form, way, batch)
        if key not in self._tiled:
            self._tiled[key] = Tiled.compile(self.job.network, subject.objective, way, batch)
        return self._tiled[key]

    def _batch(self, height: int, width: int) -> int:
        """Tiles at once: no more than there are."""
        tile = self.job.network.input_shape
        return min(self.job.spec.dream.batch, -(-height // tile[0]) * -(-width // tile[1]))

    def _value(self, subject: Subject, picture: np.ndarray) -> float:
        seen = picture if subject.kind == "picture" else self._as_input(picture)
        batch = self._batch(*seen.shape[:2])
        look = self._kept((subject.objective.form, batch), lambda: compile_look(self.job.network, subject.objective, batch))
        pixels = tf.constant(seen[np.newaxis], tf.float32) / 255
        return float(look(pixels, *tf.nest.flatten(stack([subject.objective] * batch))))

    def _probability(self, picture: np.ndarray, number: int) -> float:
        look = self._kept(
            "softmax", lambda: compile_pass(self.job.network, [LOGITS], 1, lambda maps: tf.nn.softmax(maps[LOGITS]))
        )
        return float(look(self._as_input(picture)[np.newaxis])[0, number])

    def _kept(self, key: tuple[Form, int] | str, compile: Callable[[], Pass]) -> Pass:
        if key not in self._looks:
            self._looks[key] = compile()
        return self._looks[key]

    def _as_input(self, picture: np.ndarray) -> np.ndarray:
        height, width, _ = self.job.network.input_shape
        return (
            picture
            if picture.shape[:2] == (height, width)
            else cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        )

    def _key(self, subject: Subject, frame: int, original: np.ndarray) -> str:
        """The name of a picture among the parts: another spec, network or original has another."""
        spec = self.job.spec.dream.model_dump(mode="json", exclude={*Picks.model_fields, "snapshot", "visualization"})
        drawn = self.job.spec.dream.visualization
        told = [self.job.network.digest(), spec, subject.name, str(subject.objective), frame, list(original.shape)]
        told += [drawn.model_dump(mode="json", exclude={"classes"})] if drawn and subject.kind == "class" else []
        digest = hashlib.sha256(json.dumps(told).encode())
        digest.update(original.tobytes())
        return digest.hexdigest()[:20]


def frames_of(job: Job, kind: str) -> int:
    """How many pictures a subject becomes."""
    zoom = job.spec.dream.zoom
    return zoom.frames if zoom and kind == "picture" else 1


def steps_of(job: Job, kind: str) -> int:
    """Steps of one picture of a subject, at most."""
    spec = job.spec.dream
    if kind == "picture" or spec.visualization is None:
        return spec.num_octave * spec.iterations
    return sum(octave.iter_n for octave in spec.visualization.octaves)


def nearer(picture: np.ndarray, scale: float) -> np.ndarray:
    """The middle of a picture, so many times enlarged; its size stays. uint8 (h, w, 3)."""
    height, width = picture.shape[:2]
    middle = ((width - 1) / 2, (height - 1) / 2)
    matrix = cv2.getRotationMatrix2D(middle, 0, scale)
    return np.asarray(cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT))
