"""Responses: what the layers answer to one batch, and the compiled pass that asks them.

The maps never leave the device, nor outlive the pass. What comes to the host are the spatial maxima and, for the
few of them that can enter a heap, their places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
import tensorflow as tf

from pipeline.models.network import LayerInfo, Network
from pipeline.models.tap import Pass, compile_pass

_STRETCH = 256  # values of a map among which a place is looked for


@dataclass(frozen=True)
class Responses:
    """One layer's answer to one batch.

    maxima: float32 (batch, channels): spatial maxima, NaN passed over.
    images, channels, rows, cols: int64 (n,): the responses that can enter a heap, and the first place of their maximum.
    nans: int64 (batch, channels): NaN values; None where there are none at all.
    """

    maxima: np.ndarray
    images: np.ndarray
    channels: np.ndarray
    rows: np.ndarray
    cols: np.ndarray
    nans: np.ndarray | None = None


@dataclass(frozen=True)
class Gates:
    """Which responses of a layer can enter a heap: those above the floor, and those below the ceiling.

    floor: float32 (1, channels), or (batch, channels) where it depends on the image; NaN lets anything pass.
    ceiling: float32 (1, channels); -inf lets nothing pass, NaN anything.
    """

    floor: np.ndarray
    ceiling: np.ndarray


class Tap:
    """The compiled pass of a network: images in, every layer's responses out."""

    def __init__(
        self,
        network: Network,
        layers: Sequence[LayerInfo],
        channels: Sequence[int] | None,
        batch: int,
        precision: str = "float32",
        xla: bool = False,
    ) -> None:
        """Nothing is compiled before it is needed.

        Args:
            channels: the channels to look at, by number; None: all.
            batch: images in every batch.
            precision, xla: how the network is run; see `compile_pass`.
        """
        self._network, self._batch = network, batch
        self._precision, self._xla = precision, xla
        self._names = [layer.name for layer in layers]
        self._channels = None if channels is None else tf.constant(channels, tf.int32)
        self._counts = [layer.channels if channels is None else len(channels) for layer in layers]
        self._passes: dict[bool, Pass] = {}
        self._compiling = Lock()

    def ask(self, images: np.ndarray, gates: dict[str, Gates]) -> dict[str, Responses]:
        """Responses by layer. May be called from several threads at the same time.

        Args:
            images: uint8 (batch, height, width, 3).
            gates: by layer, which responses are given their place.
        """
        answers = self._run(images, gates, with_nan=False)
        # A maximum over NaN is NaN: only then is the batch sent again, to a pass that counts them.
        if any(np.isnan(one.maxima).any() for one in answers.values()):
            answers = self._run(images, gates, with_nan=True)
        return answers

    def _run(self, images: np.ndarray, gates: dict[str, Gates], with_nan: bool) -> dict[str, Responses]:
        with self._compiling:  # asked from several threads, it is still compiled once
            if with_nan not in self._passes:
                self._passes[with_nan] = self._compile(with_nan)
        answers = self._passes[with_nan](
            images, *(edge for name in self._names for edge in (gates[name].floor, gates[name].ceiling))
        )
        return {
            name: Responses(maxima.numpy(), *places.numpy(), *(part.numpy() for part in nans))
            for name, (maxima, places, *nans) in zip(self._names, answers, strict=True)
        }

    def _compile(self, with_nan: bool) -> Pass:
        def finish(maps: dict[str, tf.Tensor], *gates: tf.Tensor) -> list[tuple[tf.Tensor, ...]]:
            if self._channels is not None:
                maps = {name: tf.gather(value, self._channels, axis=3) for name, value in maps.items()}
            answer = _peaks_among_nan if with_nan else _peaks
            return [answer(maps[name], *gates[2 * place : 2 * place + 2]) for place, name in enumerate(self._names)]

        gates = [tf.TensorSpec((rows, count), tf.float32) for count in self._counts for rows in (None, 1)]
        return compile_pass(self._network, self._names, self._batch, finish, gates, self._precision, self._xla)


def _peaks(maps: tf.Tensor, floor: tf.Tensor, ceiling: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The maxima (batch, channels) of maps without NaN, and image, channel, row, col of those that pass the gates: (4, n)."""
    stretches = _stretches(maps)
    tops = tf.reduce_max(stretches, axis=2)
    maxima = tf.reduce_max(tops, axis=1)
    found = tf.where(_passes(maxima, floor, ceiling))
    image, channel = found[:, 0], found[:, 1]
    stretch = tf.argmax(_column(tops, image, channel), axis=1)
    place = tf.argmax(_column(stretches, image, stretch, channel), axis=1)
    return maxima, _places(maps, image, channel, stretch * stretches.shape[2] + place)


def _peaks_among_nan(maps: tf.Tensor, floor: tf.Tensor, ceiling: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The same where there may be NaN, and how many each map has: int64 (batch, channels)."""
    real = ~tf.math.is_nan(maps)
    stretches, reals = _stretches(tf.where(real, maps, -np.inf)), _stretches(real)
    tops, any_real = tf.reduce_max(stretches, axis=2), tf.reduce_any(reals, axis=2)
    maxima = tf.reduce_max(tops, axis=1)
    found = tf.where(_passes(maxima, floor, ceiling) & tf.reduce_any(any_real, axis=1))
    image, channel = found[:, 0], found[:, 1]
    # Among nothing but -inf, the first place that was no NaN is the maximum's.
    stretch = _first_maximum(_column(tops, image, channel), _column(any_real, image, channel))
    place = _first_maximum(_column(stretches, image, stretch, channel), _column(reals, image, stretch, channel))
    places = _places(maps, image, channel, stretch * stretches.shape[2] + place)
    return maxima, places, tf.reduce_sum(tf.cast(~real, tf.int64), axis=[1, 2])


def _stretches(maps: tf.Tensor) -> tf.Tensor:
    """Maps cut into as many rows at once as hold few values: (batch, stretches, values, channels), in reading order.

    The maximum of every stretch, which costs no more than that of the whole map, tells where to look for its place.
    """
    batch, height, width, channels = maps.shape
    rows = max(rows for rows in range(1, height + 1) if height % rows == 0 and (rows == 1 or rows * width <= _STRETCH))
    return tf.reshape(maps, (batch, height // rows, rows * width, channels))


def _places(maps: tf.Tensor, image: tf.Tensor, channel: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    width = maps.shape[2]
    return tf.stack([image, channel, place // width, place % width])


def _passes(maxima: tf.Tensor, floor: tf.Tensor, ceiling: tf.Tensor) -> tf.Tensor:
    return (maxima > floor) | (maxima < ceiling) | tf.math.is_nan(floor) | tf.math.is_nan(ceiling)


def _column(values: tf.Tensor, *index: tf.Tensor) -> tf.Tensor:
    """All values along the last axis but one, for n indices into the others, int64 (n,) each: (n, length)."""
    *outer, length, channels = values.shape
    *others, channel = index
    place = tf.zeros_like(channel)
    for size, at in zip(outer, others, strict=True):
        place = place * size + at
    starts = place * (length * channels) + channel
    steps = tf.range(length, dtype=tf.int64) * channels
    return tf.gather(tf.reshape(values, [-1]), starts[:, tf.newaxis] + steps)


def _first_maximum(values: tf.Tensor, real: tf.Tensor) -> tf.Tensor:
    """The place of the first maximum among real values: (n, length) each -> int64 (n,)."""
    top = tf.reduce_max(values, axis=1, keepdims=True)
    return tf.argmax(tf.cast((values == top) & real, tf.int8), axis=1)
