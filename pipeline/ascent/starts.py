"""Starts: for each picture of a batch, noise from which its objective has a gradient, if there is any."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from pipeline.ascent.objectives import Objective
from pipeline.ascent.optimizer import Ascent, State
from pipeline.ascent.regularizers import per_picture

MAX_STARTS = 5  # starts from different noise before a picture without a gradient is called dead

_OPENED_STEPS = 16  # that a picture makes with open ReLUs


@dataclass(frozen=True)
class Noise:
    """The noise from which pictures start. contrast: the standard deviation of brightness, see `Parametrization.noise`."""

    seed: int
    contrast: float


def find_starts(ascent: Ascent, objectives: Sequence[Objective], keys: Sequence[str], noise: Noise) -> tuple[State, np.ndarray]:
    """The state before the first step.

    A channel behind a ReLU is inactive for most noise, and then has no gradient. Its picture first makes some steps with
    open ReLUs (those that would stop the whole gradient let it pass); if that fails, it starts again from other noise.

    Args:
        keys: one for each picture; key and seed determine its noise.

    Returns: the state, and the number of noises tried: int32 (batch,).
    """
    starts = np.ones(len(objectives), np.int32)
    state, opened = State.start(_noises(ascent, keys, 1, noise)), None
    while True:
        after, _ = ascent.run(state, objectives, 1)
        inactive = np.asarray(after.inactive) > 0
        if starts.max() == MAX_STARTS or not inactive.any():
            return state, starts
        config = replace(ascent.config, open_relus=True)
        opened = opened or Ascent.compile(ascent.network, ascent.parametrization, objectives, config)
        starts += inactive
        fresh = State.start(_noises(ascent, keys, int(starts.max()), noise))
        risen = opened.run(fresh, objectives, _OPENED_STEPS)[0].good
        state = State.start(tf.where(per_picture(tf.constant(inactive), risen), risen, state.values))


def _noises(ascent: Ascent, keys: Sequence[str], start: int, noise: Noise) -> tf.Tensor:
    seeds = [(noise.seed, zlib.crc32(f"{key}, start {start}".encode()) & 0x7FFFFFFF) for key in keys]
    return tf.stack([ascent.parametrization.noise(seed, noise.contrast) for seed in seeds])
