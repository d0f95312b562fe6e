"""Climbing: a batch of pictures from their first noise to their end, saved on the way, so that a stop costs little."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from pipeline.ascent.checkpoint import load, save
from pipeline.ascent.objectives import Objective
from pipeline.ascent.optimizer import MOST_MISSES, Ascent, State, like
from pipeline.store.places import Place

STARTS = 5  # noises that are tried before a picture without a gradient is given up

_OPENED_STEPS = 16  # that a picture takes with its rectifiers opened, to wake
_SECONDS = 1.0  # of steps that are made in one call; how they are cut into calls does not change the pictures

Tell = Callable[[int, float], None]  # steps made, mean of the objectives


@dataclass(frozen=True)
class Climb:
    """What a batch of pictures is to go through.

    steps: to make. seed: of the first noises. contrast: of the first noise, see `Canvas.noise`.
    every: seconds between two snapshots.
    """

    steps: int
    seed: int
    contrast: float
    every: float = 60.0


@dataclass(frozen=True, eq=False)
class Climbed:
    """Where a batch of pictures has come to.

    losses: float32 (steps, batch): the objectives before each step, NaN where they were not finite.
    starts: int32 (batch,): noises that were tried. dead: bool (batch,): no step had any gradient.
    stopped: bool (batch,): NaN or infinity, however short the steps; the last good picture stands.
    """

    state: State
    losses: np.ndarray
    starts: np.ndarray
    dead: np.ndarray
    stopped: np.ndarray


def climb(
    ascent: Ascent, objectives: Sequence[Objective], keys: Sequence[str], plan: Climb, snapshot: Place, tell: Tell
) -> Climbed:
    """Make all steps of a batch, going on from the snapshot if there is one.

    Args:
        keys: one a picture: with the plan's seed it decides the picture's first noise.
        snapshot: a file; what is there is of this very batch.
        tell: called every second, or after every step where steps take longer.
    """
    saved = load(snapshot)
    if saved:
        state, losses, starts = State(*saved[: len(State._fields)]), *saved[len(State._fields) :]
    else:
        state, starts = wake(ascent, objectives, keys, plan)
        losses = np.empty((0, len(objectives)), np.float32)
    last_saved, steps = time.monotonic(), 1
    while len(losses) < plan.steps:
        started = time.monotonic()
        state, values = ascent.climb(state, objectives, min(steps, plan.steps - len(losses)))
        steps = max(1, min(2 * steps, int(steps * _SECONDS / max(time.monotonic() - started, 1e-9))))
        losses = np.concatenate([losses, values])
        alive = values[-1][np.isfinite(values[-1])]
        tell(len(losses), float(alive.mean()) if len(alive) else float("nan"))
        if time.monotonic() - last_saved >= plan.every and len(losses) < plan.steps:
            save(snapshot, [*state, losses, starts])
            last_saved = time.monotonic()
    dead, stopped = np.asarray(state.asleep) >= plan.steps, np.asarray(state.misses) >= MOST_MISSES
    return Climbed(state, losses, starts, dead, stopped)


def wake(ascent: Ascent, objectives: Sequence[Objective], keys: Sequence[str], plan: Climb) -> tuple[State, np.ndarray]:
    """A start for each picture from which it has a gradient, as far as there is one.

    A rectified channel is silent for most noise, and then has no gradient. Such a picture climbs first with the
    rectifiers opened that stop all of it, again and again from new noise.

    Returns: the state, and the number of noises tried: int32 (batch,).
    """
    starts = np.ones(len(objectives), np.int32)
    state, opened = State.start(_noises(ascent, keys, 1, plan)), None
    while True:
        looked, _ = ascent.climb(state, objectives, 1)
        asleep = np.asarray(looked.asleep) > 0
        if starts.max() == STARTS or not asleep.any():
            return state, starts
        opened = opened or Ascent.compile(ascent.network, ascent.canvas, objectives, replace(ascent.way, opened=True))
        starts += asleep
        risen, _ = opened.climb(State.start(_noises(ascent, keys, int(starts.max()), plan)), objectives, _OPENED_STEPS)
        state = State.start(tf.where(like(tf.constant(asleep), risen.good), risen.good, state.values))


def _noises(ascent: Ascent, keys: Sequence[str], start: int, plan: Climb) -> tf.Tensor:
    seeds = [(plan.seed, zlib.crc32(f"{key}, start {start}".encode()) & 0x7FFFFFFF) for key in keys]
    return tf.stack([ascent.canvas.noise(seed, plan.contrast) for seed in seeds])
