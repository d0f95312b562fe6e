"""The runner: makes the pictures of a subject frame by frame, measures each, and saves finished ones in parts/dream."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from pipeline.ascent.checkpoint import Checkpoint
from pipeline.ascent.loop import Loop
from pipeline.ascent.objectives import Form
from pipeline.compiled.compile import compile_pass
from pipeline.dream.octaves import ClassPlan, OctavePlan, PicturePlan, ascend_octaves
from pipeline.dream.plan import Octave, Subject, class_octaves, count_frames, count_steps, picture_octaves
from pipeline.dream.results import DreamResult
from pipeline.dream.tiles import TileConfig, TiledAscent, compile_tiled_measure
from pipeline.job import Job
from pipeline.models.network import LOGITS
from pipeline.progress import Advance
from pipeline.spec.picks import Picks
from pipeline.store.arrays import load, save


@dataclass
class DreamRunner:
    """Makes the pictures of one subject after another, reuses compiled functions, and counts the steps done.

    total, done: steps of all pictures.
    """

    job: Job
    advance: Advance
    total: int
    done: int = 0
    _ascents: dict[tuple[Form, TileConfig, int], TiledAscent] = field(default_factory=dict)
    _measures: dict[tuple[Form, int] | str, Callable[..., Any]] = field(default_factory=dict)

    def make(self, subject: Subject, original: np.ndarray) -> Iterator[DreamResult]:
        """The pictures of a subject: one, or the frames of a zoom, the first from `original`. Raises: StoreFailed."""
        spec = self.job.spec.dream
        for frame in range(count_frames(spec, subject.kind)):
            result = self._frame(subject, frame, original)
            self.done += count_steps(spec, subject.kind)
            yield result
            if spec.zoom:
                original = zoomed(result.picture, spec.zoom.scale)

    def _frame(self, subject: Subject, frame: int, original: np.ndarray) -> DreamResult:
        key = self._key(subject, frame, original)
        finished, unfinished = (self.job.folder / "parts" / "dream" / f"{key}{suffix}.npz" for suffix in (".done", ".part"))
        arrays = load(finished)
        if not arrays:
            arrays = self._ascend(subject, original, Checkpoint(unfinished, self.job.spec.dream.snapshot))
            save(finished, arrays)
            unfinished.unlink(missing_ok=True)
        picture, losses, octaves, dead, stopped, before, reached, probability = arrays
        state = "dead" if dead else "stopped" if stopped else "done"
        known = float(probability) if np.isfinite(probability) else None
        return DreamResult(subject, frame, picture, original, int(octaves), losses, state, float(before), float(reached), known)

    def _ascend(self, subject: Subject, original: np.ndarray, checkpoint: Checkpoint) -> list[Any]:
        plan, config = plan_octaves(self.job, subject, original)

        def report(steps: int, loss: float) -> None:
            self.advance(self.done + steps, self.total, f"{subject.name}, loss {loss:.4g}")

        first = plan.original if isinstance(plan, PicturePlan) else original.astype(np.float32) / 255
        loop = Loop(checkpoint, report)
        result = ascend_octaves(lambda octave: self._compiled(subject, config, octave), subject.objective, plan, first, loop)
        picture = np.round(255 * result.values[0]).astype(np.uint8)
        before, reached = self._measure(subject, original), self._measure(subject, picture)
        probability = float("nan")
        if subject.number is not None and subject.objective.layers == (LOGITS,):
            probability = self._probability(picture, subject.number)
        octaves, losses = len(plan.octaves), result.losses[:, 0]
        return [picture, losses, octaves, result.dead[0], result.stopped[0], before, reached, probability]

    def _compiled(self, subject: Subject, config: TileConfig, octave: Octave) -> TiledAscent:
        batch = self.batch(octave.height, octave.width)
        if any((form, known) != (subject.objective.form, config) for form, known, _ in self._ascents):
            self._ascents.clear()  # each holds the network's weights
        key = (subject.objective.form, config, batch)
        if key not in self._ascents:
            self._ascents[key] = TiledAscent.compile(self.job.of_image, subject.objective, config, batch)
        return self._ascents[key]

    def batch(self, height: int, width: int) -> int:
        """How many tiles of a picture go through the network at once: no more than it has."""
        tile = self.job.network.input_shape
        return min(self.job.spec.dream.batch, -(-height // tile[0]) * -(-width // tile[1]))

    def _measure(self, subject: Subject, picture: np.ndarray) -> float:
        pixels = picture if subject.kind == "picture" else self._as_input(picture)
        batch, objective = self.batch(*pixels.shape[:2]), subject.objective
        compile = lambda: compile_tiled_measure(self.job.of_image, objective, batch)  # noqa: E731
        return float(self._cached((objective.form, batch), compile)(pixels, objective))

    def _probability(self, picture: np.ndarray, number: int) -> float:
        """By the network's head; NaN where that gives none."""
        compile = lambda: compile_pass(self.job.of_image, [LOGITS], 1, lambda maps: maps[LOGITS])  # noqa: E731
        logits = np.asarray(self._cached(LOGITS, compile)(self._as_input(picture)[np.newaxis]))
        probabilities = self.job.head().probabilities(logits)
        return float("nan") if probabilities is None else float(probabilities[..., number].mean())

    def _cached(self, key: tuple[Form, int] | str, compile: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        if key not in self._measures:
            self._measures[key] = compile()
        return self._measures[key]

    def _as_input(self, picture: np.ndarray) -> np.ndarray:
        height, width, _ = self.job.network.input_shape
        if picture.shape[:2] == (height, width):
            return picture
        return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)

    def _key(self, subject: Subject, frame: int, original: np.ndarray) -> str:
        """The name of a picture's part; it depends on the spec, the network and the original."""
        spec = self.job.spec.dream.model_dump(mode="json", exclude={*Picks.model_fields, "snapshot", "visualization"})
        of_class = self.job.spec.dream.visualization
        parts = [self.job.network.digest(), spec, subject.name, str(subject.objective), frame, list(original.shape)]
        parts += [self.job.head().kind] if subject.number is not None and LOGITS in subject.objective.layers else []
        parts += [of_class.model_dump(mode="json", exclude={"classes"})] if of_class and subject.kind == "class" else []
        digest = hashlib.sha256(json.dumps(parts).encode())
        digest.update(original.tobytes())
        return digest.hexdigest()[:20]


def plan_octaves(job: Job, subject: Subject, original: np.ndarray) -> tuple[OctavePlan, TileConfig]:
    """How a subject goes through its octaves, and how it is optimised at each."""
    spec, tile = job.spec.dream, job.network.input_shape[:2]
    if subject.kind == "picture":
        octaves = picture_octaves(spec, original.shape[0], original.shape[1], tile)
        max_loss = float("inf") if spec.max_loss is None else spec.max_loss
        config = TileConfig(spec.step, spec.shift, spec.levels, 0.0, spec.seed)
        return PicturePlan(octaves, original.astype(np.float32) / 255, max_loss), config
    of_class = spec.visualization
    assert of_class is not None
    octaves = class_octaves(of_class, *tile)
    sigma = max(max(octave.start_sigma, octave.end_sigma) for octave in octaves) if of_class.use_bilateral else 0.0
    config = TileConfig(of_class.step, of_class.shift, of_class.levels, sigma, spec.seed)
    return ClassPlan(octaves, of_class.use_tv_bregman), config


def zoomed(picture: np.ndarray, scale: float) -> np.ndarray:
    """A picture enlarged about its centre, its size kept. uint8 (h, w, 3)."""
    height, width = picture.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), 0, scale)
    return np.asarray(cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT))
