"""ScanPass: the compiled pass of a scan, from images to every layer's spatial maxima and their positions.

The maps never leave the device, nor outlive their micro-batch. What reaches the host are the spatial maxima and, for
the few of them that can enter a heap, their positions and, of coarse layers, their channels' maps as 8-bit shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import numpy as np
import tensorflow as tf

from pipeline.activations.member import Thresholds
from pipeline.activations.plan import ScanPlan
from pipeline.activations.winner_maps import keeps_maps, map_shares
from pipeline.compiled.compile import Arithmetic, network_input, pass_of
from pipeline.compiled.freezing import Pass
from pipeline.compiled.layer_graph import read_layers
from pipeline.compiled.layer_relevance import layer_relevance
from pipeline.compiled.microbatches import in_microbatches, microbatch_size
from pipeline.models.network import Network, read_unclipped


@dataclass(frozen=True)
class Peaks:
    """One layer's output for one batch.

    maxima: float32 (batch, channels): spatial maxima or, by relevance, sums; NaN passed over.
    images, channels, rows, cols: int64 (n,): the candidates, and the first position of their maximum.
    shares: uint8 (n, cells): the candidates' maps, as `map_shares` gives them; None where none are kept.
    nans: int64 (batch, channels): NaN values in each map; None where there are none at all.
    unclipped: float32 (batch, channels): the maxima before the layer's upper clamp, whose positions are given; NaN in
        channels without one, None where no channel has one.
    """

    maxima: np.ndarray
    images: np.ndarray
    channels: np.ndarray
    rows: np.ndarray
    cols: np.ndarray
    shares: np.ndarray | None = None
    nans: np.ndarray | None = None
    unclipped: np.ndarray | None = None


class ScanPass:
    """The compiled pass of a network and a plan: images in, every layer's peaks out. Compiled on first use.

    size: images in a micro-batch.
    """

    def __init__(self, network: Network, plan: ScanPlan) -> None:
        self._network, self._batch = network, plan.batch
        self.size = plan.batch if plan.xla else microbatch_size(network, plan.batch)
        self._arithmetic = Arithmetic(plan.precision, plan.xla)
        self._names = [layer.name for layer in plan.layers]
        self._channels = None if plan.channels is None else tf.constant(plan.channels, tf.int32)
        self._by_relevance = plan.rank == "relevance"
        self._counts = [len(plan.channels_of(layer)) for layer in plan.layers]
        self._passes: dict[bool, Pass] = {}
        self._compiling = Lock()

    def run(self, images: np.ndarray, thresholds: dict[str, Thresholds]) -> dict[str, Peaks]:
        """Peaks by layer. May be called from several threads at the same time.

        Args:
            images: uint8 (batch, height, width, 3).
            thresholds: by layer, which responses become candidates.
        """
        peaks = self._run(images, thresholds, with_nan=False)
        # A maximum over NaN is NaN: only then does the batch run again, through a pass that counts them.
        if any(np.isnan(layer.maxima).any() for layer in peaks.values()):
            peaks = self._run(images, thresholds, with_nan=True)
        return peaks

    def _run(self, images: np.ndarray, thresholds: dict[str, Thresholds], with_nan: bool) -> dict[str, Peaks]:
        edges = [edge for name in self._names for edge in (thresholds[name].floor, thresholds[name].ceiling)]
        outputs = None
        with self._compiling:  # several threads ask, one compiles
            if with_nan not in self._passes:
                compiled = self._compile(with_nan)
                # TensorFlow plans a graph in its first call, and again for each thread that calls it meanwhile.
                outputs = compiled(images, *edges)
                self._passes[with_nan] = compiled
        outputs = outputs or self._passes[with_nan](images, *edges)
        return {name: self._peaks(output) for name, output in zip(self._names, outputs, strict=True)}

    def _peaks(self, output: dict[str, tf.Tensor]) -> Peaks:
        """The output of the pass, less the images that pad its last micro-batch."""
        arrays = {name: np.asarray(values) for name, values in output.items()}
        candidates, shares = arrays.pop("candidates"), arrays.pop("shares", None)
        by_image = {name: values[: self._batch] for name, values in arrays.items()}
        real = candidates[:, 0] < self._batch
        images, channels, rows, cols = candidates[real].T
        shares = None if shares is None else shares[real]
        return Peaks(images=images, channels=channels, rows=rows, cols=cols, shares=shares, **by_image)

    def _compile(self, with_nan: bool) -> Pass:
        edges = [tf.TensorSpec((rows, count), tf.float32) for count in self._counts for rows in (None, 1)]
        return in_microbatches(self.of_microbatch(with_nan), self.size, network_input(self._network, self._batch), *edges)

    def of_microbatch(self, with_nan: bool = False) -> Pass:
        """What is compiled, as `in_microbatches` takes it: a function of images, and of each layer's floor and ceiling."""

        def read(images: tf.Tensor) -> tuple[dict[str, tf.Tensor], ...]:
            if self._by_relevance:
                return layer_relevance(self._network, images, self._names), {}, {}
            # XLA compiles all that a function holds, and a frozen graph brings its placeholder.
            unclipped = read_unclipped if self._arithmetic.xla else read_layers
            layers = unclipped(self._network, images, self._names)
            # NaN are counted where the floor has passed them on, or not: in the network's own values.
            maps = {name: layer.value if with_nan else layer.raw for name, layer in layers.items()}
            ceilings = {name: layer.ceiling for name, layer in layers.items() if layer.ceiling is not None}
            floors = {} if with_nan else {name: layer.floor for name, layer in layers.items() if layer.floor is not None}
            return maps, ceilings, floors

        def finish(read: tuple[dict[str, tf.Tensor], ...], first: tf.Tensor, *edges: tf.Tensor) -> list[dict[str, tf.Tensor]]:
            maps, ceilings, floors = read
            if self._channels is not None:
                maps = {name: tf.gather(value, self._channels, axis=3) for name, value in maps.items()}
                ceilings = {
                    name: tf.gather(value, self._channels) if value.shape.rank else value for name, value in ceilings.items()
                }
            outputs = []
            for name, floor, ceiling in zip(self._names, edges[::2], edges[1::2], strict=True):
                floor = _of_images(floor, first, self.size)
                if self._by_relevance:
                    output = _totals(maps[name], first, floor, ceiling, with_nan)
                elif with_nan:
                    output = _peaks_among_nan(maps[name], first, floor, ceiling)
                else:
                    output = _peaks(maps[name], first, floor, ceiling, floors.get(name))
                if keeps_maps(maps[name].shape[1:]) and not self._by_relevance:
                    output["shares"] = _shares(maps[name], first, output["candidates"], floors.get(name), ceilings.get(name))
                if name in ceilings:
                    output |= _clipped(output["maxima"], ceilings[name])
                outputs.append(output)
            return outputs

        return pass_of(self._network, read, self.size, finish, self._arithmetic)


def _clipped(maxima: tf.Tensor, ceiling: tf.Tensor) -> dict[str, tf.Tensor]:
    """Maxima as the layer gives them, and what they were before its upper clamp: NaN in channels without one."""
    unclipped = maxima if ceiling.shape.rank == 0 else tf.where(tf.math.is_inf(ceiling), np.float32(np.nan), maxima)
    return {"unclipped": unclipped, "maxima": tf.minimum(maxima, ceiling)}


def _of_images(floor: tf.Tensor, first: tf.Tensor, count: int) -> tf.Tensor:
    """The rows of a floor for `count` images from the first on; its last row holds for all images after it."""
    last = tf.shape(floor, tf.int64)[0] - 1
    return tf.gather(floor, tf.minimum(first + tf.range(count, dtype=tf.int64), last))


def _peaks(
    maps: tf.Tensor, first: tf.Tensor, floor: tf.Tensor, ceiling: tf.Tensor, clamp: tf.Tensor | None = None
) -> dict[str, tf.Tensor]:
    """The `maxima` (images, channels) of maps without NaN, and image, channel, row, col of the `candidates`: int64 (n, 4).

    Args:
        clamp: a lower clamp of the maps, a scalar: taken of the maxima, it need not be taken of the maps.
    """
    tops = tf.reduce_max(maps, axis=2)
    maxima = raw = tf.reduce_max(tops, axis=1)
    if clamp is not None:
        maxima = tf.maximum(raw, clamp)
    candidates = tf.where(_passes(maxima, floor, ceiling))
    row = tf.argmax(_columns(tops, candidates), axis=1)
    col = tf.argmax(_columns(maps, candidates, row), axis=1)
    if clamp is not None:  # a map that lies nowhere above its clamp is flat: its first maximum is its first value
        above = tf.gather_nd(raw, candidates) > clamp
        row, col = tf.where(above, row, 0), tf.where(above, col, 0)
    return {"maxima": maxima, "candidates": _positions(first, candidates, row, col)}


def _shares(
    maps: tf.Tensor, first: tf.Tensor, candidates: tf.Tensor, floor: tf.Tensor | None, ceiling: tf.Tensor | None
) -> tf.Tensor:
    """The candidates' maps between both clamps, as shares of their peaks: uint8 (n, cells)."""
    _, height, width, channels = maps.shape
    image, channel, row, col = tf.unstack(candidates, axis=1)
    values = _columns(tf.reshape(maps, (-1, height * width, channels)), tf.stack([image - first, channel], axis=1))
    values = values if floor is None else tf.maximum(values, floor)
    if ceiling is not None:
        values = tf.minimum(values, ceiling if ceiling.shape.rank == 0 else tf.gather(ceiling, channel)[:, tf.newaxis])
    return map_shares(values, row * width + col)


def _peaks_among_nan(maps: tf.Tensor, first: tf.Tensor, floor: tf.Tensor, ceiling: tf.Tensor) -> dict[str, tf.Tensor]:
    """The same where there may be NaN, and `nans`, how many each map has: int64 (images, channels)."""
    real = ~tf.math.is_nan(maps)
    finite = tf.where(real, maps, -np.inf)
    tops, any_real = tf.reduce_max(finite, axis=2), tf.reduce_any(real, axis=2)
    maxima = tf.reduce_max(tops, axis=1)
    candidates = tf.where(_passes(maxima, floor, ceiling) & tf.reduce_any(any_real, axis=1))
    # Among nothing but -inf, the maximum is at the first position that is not NaN.
    any_reals, reals = (tf.cast(values, tf.float32) for values in (any_real, real))  # of bool, GPUs gather none
    row = _first_maximum(_columns(tops, candidates), _columns(any_reals, candidates) > 0)
    col = _first_maximum(_columns(finite, candidates, row), _columns(reals, candidates, row) > 0)
    positions = _positions(first, candidates, row, col)
    return {"maxima": maxima, "candidates": positions, "nans": tf.reduce_sum(tf.cast(~real, tf.int64), axis=[1, 2])}


def _totals(maps: tf.Tensor, first: tf.Tensor, floor: tf.Tensor, ceiling: tf.Tensor, with_nan: bool) -> dict[str, tf.Tensor]:
    """The same with the sums of the maps in the place of their maxima; the positions are still those of the maxima."""
    real = ~tf.math.is_nan(maps)
    sums = tf.reduce_sum(tf.where(real, maps, 0) if with_nan else maps, axis=[1, 2])
    finite = tf.where(real, maps, -np.inf)
    tops = tf.reduce_max(finite, axis=2)
    candidates = tf.where(_passes(sums, floor, ceiling) & tf.reduce_any(real, axis=[1, 2]))
    row = tf.argmax(_columns(tops, candidates), axis=1)
    col = tf.argmax(_columns(finite, candidates, row), axis=1)
    output = {"maxima": sums, "candidates": _positions(first, candidates, row, col)}
    return output | ({"nans": tf.reduce_sum(tf.cast(~real, tf.int64), axis=[1, 2])} if with_nan else {})


def _positions(first: tf.Tensor, candidates: tf.Tensor, row: tf.Tensor, col: tf.Tensor) -> tf.Tensor:
    """Image, channel, row and col of candidates: int64 (n, 4)."""
    image, channel = tf.unstack(candidates, axis=1)
    return tf.stack([image + first, channel, row, col], axis=1)


def _passes(maxima: tf.Tensor, floor: tf.Tensor, ceiling: tf.Tensor) -> tf.Tensor:
    # Negated, so that NaN thresholds, with which every comparison is false, pass everything.
    return ~((maxima <= floor) & (maxima >= ceiling))


def _columns(values: tf.Tensor, candidates: tf.Tensor, *row: tf.Tensor) -> tf.Tensor:
    """All values along the last axis but one for n images and channels, int64 (n, 2), and rows: (n, length).

    The maps are not reshaped on the way: TensorFlow would move the cast of maps in a reduced precision behind that, and
    so cast them once for their maxima and once again for the few values that are wanted here.
    """
    length = values.shape[-2]
    image, channel = tf.unstack(candidates, axis=1)
    steps, zeros = np.arange(length, dtype=np.int64), np.zeros((1, length), np.int64)
    image, *rows, channel = (tf.expand_dims(number, 1) + zeros for number in (image, *row, channel))
    return tf.gather_nd(values, tf.stack([image, *rows, tf.zeros_like(image) + steps, channel], axis=2))


def _first_maximum(values: tf.Tensor, real: tf.Tensor) -> tf.Tensor:
    """The index of the first maximum among real values: (n, length) each -> int64 (n,)."""
    top = tf.reduce_max(values, axis=1, keepdims=True)
    return tf.argmax((values == top) & real, axis=1)  # of bool: for int8 there is no kernel on GPUs
