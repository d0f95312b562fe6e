"""Responses: what the layers answer to one batch, and the compiled pass that asks them.

The maps never leave the device, nor outlive the pass of a piece of the batch. What comes to the host are the spatial
maxima and, for the few of them that can enter a heap, their places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from threading import Lock

import numpy as np
import tensorflow as tf

from pipeline.compiled.compile import network_input, pass_of
from pipeline.compiled.freezing import Pass
from pipeline.compiled.microbatches import in_pieces, piece_size
from pipeline.models.network import LayerInfo, Network

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
            precision, xla: how the network is run; see `pipeline.compiled.compile.compile_pass`.
        """
        self._network, self._batch = network, batch
        self._piece = batch if xla else piece_size(network, batch)
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
        return {name: self._response(*answer) for name, answer in zip(self._names, answers, strict=True)}

    def _response(self, maxima: tf.Tensor, places: tf.Tensor, *nans: tf.Tensor) -> Responses:
        """What the pass gave, less the images that filled up the last piece."""
        found = np.asarray(places)
        by_image = [np.asarray(each)[: self._batch] for each in (maxima, *nans)]
        return Responses(by_image[0], *found[found[:, 0] < self._batch].T, *by_image[1:])

    def _compile(self, with_nan: bool) -> Pass:
        def finish(maps: dict[str, tf.Tensor], first: tf.Tensor, *edges: tf.Tensor) -> list[tuple[tf.Tensor, ...]]:
            if self._channels is not None:
                maps = {name: tf.gather(value, self._channels, axis=3) for name, value in maps.items()}
            answer = _peaks_among_nan if with_nan else _peaks
            pairs = zip(self._names, edges[::2], edges[1::2], strict=True)
            return [answer(maps[name], first, _of_images(floor, first, self._piece), ceiling) for name, floor, ceiling in pairs]

        edges = [tf.TensorSpec((rows, count), tf.float32) for count in self._counts for rows in (None, 1)]
        run = pass_of(self._network, self._names, self._piece, finish, self._precision, self._xla)
        return in_pieces(run, self._piece, network_input(self._network, self._batch), *edges)


def _of_images(floor: tf.Tensor, first: tf.Tensor, count: int) -> tf.Tensor:
    """The rows of a floor for so many images from the first on; the last row is that of all images after it."""
    last = tf.shape(floor, tf.int64)[0] - 1
    return tf.gather(floor, tf.minimum(first + tf.range(count, dtype=tf.int64), last))


def _peaks(maps: tf.Tensor, first: tf.Tensor, floor: tf.Tensor, ceiling: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The maxima (images, channels) of maps without NaN, and image, channel, row, col of those that pass: int64 (n, 4)."""
    stretches = _stretches(maps)
    tops = tf.reduce_max(stretches, axis=2)
    maxima = tf.reduce_max(tops, axis=1)
    found = tf.where(_passes(maxima, floor, ceiling))
    stretch = tf.argmax(_columns(tops, found), axis=1)
    place = tf.argmax(_columns(stretches, found, stretch), axis=1)
    return maxima, _places(maps, first, found, stretch * stretches.shape[2] + place)


def _peaks_among_nan(
    maps: tf.Tensor, first: tf.Tensor, floor: tf.Tensor, ceiling: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The same where there may be NaN, and how many each map has: int64 (images, channels)."""
    real = ~tf.math.is_nan(maps)
    stretches, reals = _stretches(tf.where(real, maps, -np.inf)), _stretches(real)
    tops, any_real = tf.reduce_max(stretches, axis=2), tf.reduce_any(reals, axis=2)
    maxima = tf.reduce_max(tops, axis=1)
    found = tf.where(_passes(maxima, floor, ceiling) & tf.reduce_any(any_real, axis=1))
    # Among nothing but -inf, the first place that was no NaN is the maximum's.
    stretch = _first_maximum(_columns(tops, found), _columns(any_real, found))
    place = _first_maximum(_columns(stretches, found, stretch), _columns(reals, found, stretch))
    places = _places(maps, first, found, stretch * stretches.shape[2] + place)
    return maxima, places, tf.reduce_sum(tf.cast(~real, tf.int64), axis=[1, 2])


def _stretches(maps: tf.Tensor) -> tf.Tensor:
    """Maps cut into as many rows at once as hold few values: (batch, stretches, values, channels), in reading order.

    The maximum of every stretch, which costs no more than that of the whole map, tells where to look for its place.
    """
    _, height, width, channels = maps.shape  # how many images is not told by a graph with a loop
    rows = max(rows for rows in range(1, height + 1) if height % rows == 0 and (rows == 1 or rows * width <= _STRETCH))
    return tf.reshape(maps, (-1, height // rows, rows * width, channels))


def _places(maps: tf.Tensor, first: tf.Tensor, found: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """Image, channel, row and col of what was found at a place of its map, in reading order: (n, 4)."""
    width = maps.shape[2]
    return tf.stack([found[:, 0] + first, found[:, 1], place // width, place % width], axis=1)


def _passes(maxima: tf.Tensor, floor: tf.Tensor, ceiling: tf.Tensor) -> tf.Tensor:
    # Asked the other way round, because a comparison with NaN is false.
    return ~((maxima <= floor) & (maxima >= ceiling))


def _columns(values: tf.Tensor, found: tf.Tensor, *stretch: tf.Tensor) -> tf.Tensor:
    """All values along the last axis but one for n images and channels, int64 (n, 2), and stretches: (n, length)."""
    *outer, length, channels = values.shape
    # Of flat places: an image is so many values apart from the next, and so on.
    starts = tf.linalg.matvec(found, tf.constant([length * channels * prod(outer[1:]), 1], tf.int64))
    for each in stretch:
        starts += each * (length * channels)
    steps = tf.range(length, dtype=tf.int64) * channels
    return tf.gather(tf.reshape(values, [-1]), starts[:, tf.newaxis] + steps)


def _first_maximum(values: tf.Tensor, real: tf.Tensor) -> tf.Tensor:
    """The place of the first maximum among real values: (n, length) each -> int64 (n,)."""
    top = tf.reduce_max(values, axis=1, keepdims=True)
    return tf.argmax(tf.cast((values == top) & real, tf.int8), axis=1)
