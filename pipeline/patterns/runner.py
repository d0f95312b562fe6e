"""The runner: makes patterns batch by batch, measures them, and saves finished batches in parts/patterns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from pipeline.ascent.checkpoint import Checkpoint
from pipeline.ascent.loop import AscentResult, Loop, Trajectory
from pipeline.ascent.measure import Measure, compile_measure
from pipeline.ascent.objectives import Form, Objective
from pipeline.ascent.optimizer import Ascent, AscentConfig
from pipeline.ascent.parametrization import PARAMETRIZATIONS, Parametrization, fast_size
from pipeline.ascent.starts import Noise, find_starts
from pipeline.ascent.transforms import Transforms
from pipeline.models.network import Network, feed_of
from pipeline.patterns.plan import Pattern
from pipeline.patterns.results import PatternResult
from pipeline.progress import Advance
from pipeline.spec.patterns import PatternsSpec
from pipeline.store.arrays import load, save
from pipeline.store.places import Place


@dataclass
class PatternRunner:
    """Makes batch after batch, and reuses the compiled ascent while the form of the objectives is the same.

    network: as a function of the image alone. bands: of its input, those that pictures show as red, green and blue.
    parts: the folder of finished and unfinished batches. total, done: pictures of all batches.
    """

    network: Network
    spec: PatternsSpec
    parts: Place
    advance: Advance
    total: int
    bands: tuple[int, int, int] = (0, 1, 2)
    done: int = 0
    _compiled: dict[tuple[Form, int], tuple[Ascent, Measure]] = field(default_factory=dict)

    def make(self, batch: Sequence[Pattern]) -> list[PatternResult]:
        """The pictures of one batch, made or read from the parts. Raises: UnusableModel, StoreFailed."""
        key = self._key(batch)
        finished = self.parts / f"{key}.done.npz"
        arrays = load(finished)
        if arrays is None:
            arrays = self._make(batch, Checkpoint(self.parts / f"{key}.npz", self.spec.snapshot))
            save(finished, arrays)
        self.done += len(batch)
        return [_result(pattern, values) for pattern, *values in zip(batch, *arrays, strict=True)]

    def _make(self, batch: Sequence[Pattern], checkpoint: Checkpoint) -> list[np.ndarray]:
        ascent, measure = self._compile([pattern.raised for pattern in batch])

        def report(steps: int, loss: float) -> None:
            done = self.done * self.spec.steps + steps * len(batch)
            self.advance(done, self.total * self.spec.steps, f"loss {loss:.4g}")

        result, starts = self._ascend(ascent, batch, Loop(checkpoint, report))
        pictures = ascent.pictures(result.values)
        values, high, low = measure(pictures, [pattern.objective for pattern in batch])
        lowered = np.array([pattern.sign < 0 for pattern in batch])
        named = np.array([pattern.channel is None for pattern in batch])
        reached = np.where(named, values, np.where(lowered, low, high))
        return [pictures[..., list(self.bands)], result.losses.T, starts, result.dead, result.stopped, reached]

    def _ascend(self, ascent: Ascent, batch: Sequence[Pattern], loop: Loop) -> tuple[AscentResult, np.ndarray]:
        """All steps of a batch, resuming from a checkpoint if there is one; and the number of starts, int32 (batch,)."""
        objectives = [pattern.raised for pattern in batch]
        trajectory = Trajectory.load(loop.checkpoint)
        if trajectory is None:
            keys = [f"{pattern.raised} {pattern.variant}" for pattern in batch]
            state, starts = find_starts(ascent, objectives, keys, Noise(self.spec.seed, self.spec.contrast))
            trajectory = Trajectory(state, notes=[starts])
        loop.ascend(partial(ascent.run, objectives=objectives), trajectory, self.spec.steps)
        dead = np.asarray(trajectory.state.inactive) >= self.spec.steps
        losses = np.concatenate(trajectory.losses)
        return AscentResult(trajectory.state.good, losses, dead, trajectory.stopped), trajectory.notes[0]

    def _compile(self, objectives: Sequence[Objective]) -> tuple[Ascent, Measure]:
        key = (objectives[0].form, len(objectives))
        if key not in self._compiled:
            self._compiled.clear()  # each holds the network's weights
            config = config_of(self.spec)
            parametrization = parametrization_of(self.spec, self.network, config.transforms)
            ascent = Ascent.compile(self.network, parametrization, objectives, config)
            self._compiled[key] = (ascent, compile_measure(self.network, objectives))
        return self._compiled[key]

    def _key(self, batch: Sequence[Pattern]) -> str:
        """The name of a batch's part; it depends on the spec, the network and the patterns."""
        parts = [
            self.network.digest(),
            *([self.bands] if self.bands != (0, 1, 2) else []),
            self.spec.model_dump(mode="json", exclude={"snapshot"}),
        ]
        parts += [f"{pattern.raised} {pattern.variant}" for pattern in batch]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def config_of(spec: PatternsSpec) -> AscentConfig:
    """How the pictures of a spec are optimised."""
    transforms = Transforms(spec.shake.pad, spec.shake.jitter, spec.shake.scale, spec.shake.rotate)
    return AscentConfig(spec.optimiser, spec.rate, transforms, spec.tv, spec.l2, spec.variants, spec.diversity, spec.seed)


def parametrization_of(spec: PatternsSpec, network: Network, transforms: Transforms) -> Parametrization:
    """The parametrization of a spec: of what the network sees with the margin around it, or somewhat more."""
    height, width, _ = network.input_shape
    sizes = (fast_size(height + 2 * transforms.margin(height)), fast_size(width + 2 * transforms.margin(width)))
    more = {"decay": spec.decay} if spec.canvas == "fourier" else {}
    return PARAMETRIZATIONS[spec.canvas](*sizes, decorrelated=spec.decorrelated, bands=feed_of(network).bands, **more)


def _result(pattern: Pattern, values: Sequence[Any]) -> PatternResult:
    picture, losses, starts, dead, stopped, reached = values
    state = "dead" if dead else "stopped" if stopped else "done"
    return PatternResult(pattern, picture, losses * np.float32(pattern.sign), int(starts), state, float(reached))
