"""The loop around a compiled ascent: it reports progress, writes checkpoints, and resumes from one with identical bits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from pipeline.ascent.checkpoint import Checkpoint
from pipeline.ascent.optimizer import MAX_FAILURES, State

_SECONDS = 1.0  # of steps in one call; how steps are divided among calls does not change the pictures

Report = Callable[[int, float], None]  # steps made, mean of the objectives that are finite


class Run(Protocol):
    """A compiled ascent with its objectives."""

    def __call__(self, state: State, *, steps: int) -> tuple[State, np.ndarray]:
        """Make `steps` more steps. Returns: the new state, and the objectives before each step, float32 (steps, batch)."""


@dataclass(frozen=True, eq=False)
class AscentResult:
    """The result of an ascent, for a batch of pictures.

    values: float32 (batch, *shape): the last good values.
    losses: float32 (steps, batch): the objectives before each step, NaN where they were not finite.
    dead: bool (batch,): no step had any gradient.
    stopped: bool (batch,): NaN or infinity, however short the steps.
    """

    values: np.ndarray
    losses: np.ndarray
    dead: np.ndarray
    stopped: np.ndarray


@dataclass(eq=False)
class Trajectory:
    """The progress of an ascent.

    losses: of each call so far, float32 (steps, batch).
    notes: further arrays or numbers of the caller, saved in the checkpoint.
    """

    state: State
    losses: list[np.ndarray] = field(default_factory=list)
    notes: list[Any] = field(default_factory=list)

    @property
    def step(self) -> int:
        """The number of steps made."""
        return int(self.state.step)

    @property
    def stopped(self) -> np.ndarray:
        """bool (batch,): the pictures that met NaN or infinity too often."""
        return np.asarray(self.state.failures) >= MAX_FAILURES

    @property
    def last_loss(self) -> float:
        """The mean of the objectives before the last step, of those that are finite; NaN where none is."""
        finite = self.losses[-1][-1][np.isfinite(self.losses[-1][-1])]
        return float(finite.mean()) if len(finite) else float("nan")

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint. Raises: StoreFailed."""
        checkpoint.save([*self.state, np.concatenate(self.losses), *self.notes])

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> Trajectory | None:
        """The trajectory that an interrupted run saved, if any."""
        arrays = checkpoint.load()
        if not arrays:
            return None
        fields = len(State._fields)
        return cls(State(*arrays[:fields]), [arrays[fields]], arrays[fields + 1 :])


@dataclass(frozen=True)
class Loop:
    """Runs ascents, reports their progress about once a second, and saves their state in a checkpoint."""

    checkpoint: Checkpoint
    report: Report

    def ascend(self, run: Run, trajectory: Trajectory, end: int, ended: Callable[[Trajectory], bool] = lambda _: False) -> None:
        """Move a trajectory on to step `end`, about a second's worth of steps in each call.

        Args:
            run: may make fewer steps than requested if `ended` holds afterwards.
            ended: whether to stop before `end`; the progress then jumps to `end`.
        """
        count, done = 1, trajectory.step >= end
        while not done:
            started = time.monotonic()
            steps = min(count, end - trajectory.step)
            trajectory.state, losses = run(trajectory.state, steps=steps)
            trajectory.losses.append(losses)
            count = max(1, min(2 * count, int(steps * _SECONDS / max(time.monotonic() - started, 1e-9))))
            done = trajectory.step >= end or ended(trajectory)
            self.report(end if done else trajectory.step, trajectory.last_loss)
            if not done and self.checkpoint.due:
                trajectory.save(self.checkpoint)
