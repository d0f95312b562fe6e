"""Network dissection: how far each channel's strongest units and each concept's masks overlap (Bau et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.concepts.claims import permutations_of
from pipeline.concepts.masks import MaskSet, on_grid
from pipeline.models.network import Network, read_unclipped
from pipeline.sources.fit import Fit
from pipeline.sources.source import Source

if TYPE_CHECKING:
    import tensorflow as tf

QUANTILE = 0.995
DETECTS = 0.04  # the least overlap of a channel that is said to detect a concept, in the paper
_LEAST = np.finfo(np.float32).min
_MOST_FLOATS = 2**24  # of a layer's maps, in memory at a time
_MOST_BATCH = 16


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Counts of points of images, which add up over images in any order.

    both: int64 (concepts, channels): points of the concept where the channel is above its threshold.
    concepts: int64 (concepts,); active: int64 (channels,): points of the concept, and points above the threshold.
    """

    both: np.ndarray
    concepts: np.ndarray
    active: np.ndarray

    @classmethod
    def empty(cls, concepts: int, channels: int) -> Overlaps:
        """Counts of nothing."""
        return cls(np.zeros((concepts, channels), np.int64), np.zeros(concepts, np.int64), np.zeros(channels, np.int64))

    def add(self, numbers: np.ndarray, both: np.ndarray, sizes: np.ndarray, active: np.ndarray) -> None:
        """Count some more images, in which the concepts of these numbers are, the others nowhere."""
        self.active[:] += active.astype(np.int64)
        self.both[numbers] += both.astype(np.int64)
        self.concepts[numbers] += sizes.astype(np.int64)

    def merge(self, other: Overlaps) -> Overlaps:
        """The counts of both sets of images."""
        return Overlaps(self.both + other.both, self.concepts + other.concepts, self.active + other.active)

    def iou(self) -> np.ndarray:
        """Intersection over union of all images' points: float64 (concepts, channels); NaN for concepts that are nowhere."""
        union = self.concepts[:, None] + self.active - self.both
        known = (self.concepts > 0)[:, None] & (union > 0)
        return np.where(known, self.both / np.where(known, union, 1), np.nan)

    def inside(self) -> np.ndarray:
        """The share of the points above each channel's threshold that each concept covers: float64 (concepts, channels)."""
        return self.both / np.maximum(self.active, 1)


@dataclass(frozen=True, eq=False)
class TopValues:
    """Enough of the largest values of each channel's maps to know their quantile exactly.

    most: how many values there may be in all. count: how many there were. values: float32 (kept, channels), in any order.
    floor: float32 (channels,), the least of `values`, once nothing below it can matter. waiting: what came since, above it,
    filled up with the least number there is; put among `values` when it is as much, so that each value is ordered a few times.
    """

    most: int
    count: int
    values: np.ndarray
    floor: np.ndarray | None = None
    waiting: tuple[np.ndarray, ...] = ()

    @classmethod
    def empty(cls, most: int, channels: int) -> TopValues:
        """No values yet."""
        return cls(most, 0, np.zeros((0, channels), np.float32))

    def update(self, values: np.ndarray) -> TopValues:
        """The same with more values, float32 (n, channels); what is not finite counts as the least there is."""
        added = np.where(np.isfinite(values), values, _LEAST) if self.floor is None else _above(values, self.floor)
        grown = replace(self, count=self.count + len(values), waiting=(*self.waiting, added))
        return grown.merged() if sum(map(len, grown.waiting)) > self._kept else grown

    def merged(self) -> TopValues:
        """The same with nothing waiting."""
        together = np.concatenate([self.values, *self.waiting])
        if len(together) <= self._kept:
            return replace(self, values=together, waiting=())
        together = np.partition(together, len(together) - self._kept, axis=0)[-self._kept :]
        return replace(self, values=together, floor=together[0].copy(), waiting=())

    @property
    def _kept(self) -> int:
        return self.most - int((self.most - 1) * QUANTILE)

    def quantile(self) -> np.ndarray:
        """The QUANTILE of all values, linear between the two nearest, as NumPy has it: float32 (channels,)."""
        position = (self.count - 1) * QUANTILE
        above = self.count - 1 - int(position)
        falling = -np.sort(-self.merged().values, axis=0)
        low, high = falling[above].astype(np.float64), falling[max(above - 1, 0)]
        return (low + (high - low) * (position % 1)).astype(np.float32)


def _above(values: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """The finite values above each channel's floor, one below the other: (n, channels) to (the most of a channel, channels)."""
    channels_of = values.shape[1]
    found = np.flatnonzero(values > floor)
    channels = found % channels_of
    order = np.argsort(channels, kind="stable")
    found, channels = found[order], channels[order]
    counts = np.bincount(channels, minlength=channels_of)
    places = np.arange(len(channels)) - np.repeat(np.cumsum(counts) - counts, counts)
    packed = np.full((counts.max(initial=0), channels_of), _LEAST, np.float32)
    above = values.reshape(-1)[found]
    packed[places, channels] = np.where(np.isfinite(above), above, _LEAST)
    return packed


def points_above(maps: tf.Tensor, matrices: tuple[np.ndarray, np.ndarray], thresholds: np.ndarray, masks: tf.Tensor) -> tf.Tensor:
    """In how many points of each mask the maps, interpolated to a grid, are above their channels' thresholds.

    A map that is nowhere above its threshold is so at no point between its units either: only the others, a small part, are
    interpolated, one image at a time.

    Args:
        maps: float32 (batch, h, w, channels).
        matrices: float32 (grid rows, h) and (grid columns, w), which interpolate.
        thresholds: float32 (channels,).
        masks: float32 (batch, masks, grid points): 1 inside.

    Returns: float32 (batch, masks, channels): whole numbers.
    """
    import tensorflow as tf

    rows, cols = (tf.constant(matrix) for matrix in matrices)
    floor, count = tf.constant(thresholds), rows.shape[0] * cols.shape[0]

    def of_image(image: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        whole, inside = image
        reaching = tf.where(tf.reduce_any(whole > floor, axis=[0, 1]))
        wide = tf.matmul(cols[tf.newaxis], tf.gather(whole, reaching[:, 0], axis=2))
        fine = tf.matmul(rows, tf.reshape(wide, (whole.shape[0], -1)))
        points = tf.reshape(fine, (count, tf.shape(reaching)[0]))
        above = tf.cast(points > tf.gather(floor, reaching[:, 0]), tf.float32)
        counts = tf.transpose(tf.matmul(inside, above))
        return tf.transpose(tf.scatter_nd(reaching, counts, (len(thresholds), tf.shape(inside)[0])))

    spec = tf.TensorSpec((None, len(thresholds)), tf.float32)
    return tf.map_fn(of_image, (maps, masks), parallel_iterations=1, fn_output_signature=spec)


def _rows(counts: Sequence[int]) -> list[slice]:
    """The rows of an image's own masks, and of those of another image, behind the first."""
    return [slice(1, 1 + counts[0]), slice(1 + counts[0], 1 + sum(counts))]


@dataclass(frozen=True, eq=False)
class Dissection:
    """The images, the layers and the grid of points of a dissection.

    examples: int64, ascending: those images of the source that can be read.
    step: pixels of the input from one point of the grid to the next.
    channels: their numbers, by layer. matrices: by layer, those that interpolate its maps to the grid; see `points_above`.
    """

    network: Network
    source: Source
    fit: Fit
    masks: MaskSet
    examples: np.ndarray
    step: int
    channels: Mapping[str, np.ndarray]
    matrices: Mapping[str, tuple[np.ndarray, np.ndarray]]

    def run(self, progress: Callable[[int, int], None]) -> tuple[int, dict[str, tuple[Overlaps, Overlaps]]]:
        """Two passes over the images that have masks: one for the thresholds, one for the overlaps.

        Returns: how many images have masks; and by layer the overlaps with each image's own masks, and with another image's.
        Raises: WrongSpec, for a mask of other proportions than its image; UnusableData, for one that cannot be read.
        """
        thresholds, masks = self._thresholds(progress)
        return len(masks), self._overlaps(thresholds, masks, progress) if len(masks) > 1 else {}

    @cached_property
    def _microbatch(self) -> int:
        """How many images run through the network at once."""
        from pipeline.compiled.microbatches import microbatch_size

        sizes = (rows.shape[1] * cols.shape[1] * len(self.channels[layer]) for layer, (rows, cols) in self.matrices.items())
        return microbatch_size(self.network, int(np.clip(_MOST_FLOATS // max(sizes), 1, _MOST_BATCH)))

    @property
    def _batch(self) -> int:
        return self._microbatch * max(1, _MOST_BATCH // self._microbatch)

    def _thresholds(self, progress: Callable[[int, int], None]) -> tuple[dict[str, np.ndarray], dict[int, np.ndarray]]:
        """The thresholds by layer, and the masks on the grid by example: int32 (masks, points)."""
        tap, done = self._compiled(lambda maps: maps), 0
        tops: dict[str, TopValues] = {}
        masks: dict[int, np.ndarray] = {}
        for examples, pixels in self._batches(self.examples, masks):
            for layer, maps in tap(pixels).items():
                values = np.asarray(maps)[: len(examples)].reshape(-1, len(self.channels[layer]))
                most = len(values) // len(examples) * len(self.examples)
                tops[layer] = tops.get(layer, TopValues.empty(most, values.shape[1])).update(values)
            done += len(examples)
            progress(done, 2 * len(self.examples))
        return {layer: top.quantile() for layer, top in tops.items()}, masks

    def _overlaps(
        self, thresholds: dict[str, np.ndarray], masks: dict[int, np.ndarray], progress: Callable[[int, int], None]
    ) -> dict[str, tuple[Overlaps, Overlaps]]:
        import tensorflow as tf

        def finish(maps: dict[str, tf.Tensor], marks: tf.Tensor) -> dict[str, tf.Tensor]:
            return {layer: points_above(value, self.matrices[layer], thresholds[layer], marks) for layer, value in maps.items()}

        points = next(iter(masks.values())).shape[1]
        spec = tf.TensorSpec((self._batch, None, points), tf.float32)
        run = self._compiled(finish, spec)
        order = np.array(sorted(masks))
        partner = dict(zip(order.tolist(), order[permutations_of(len(order), 1)[0]].tolist(), strict=True))
        names = len(self.masks.names)
        sums = {layer: [Overlaps.empty(names, len(numbers)) for _ in range(2)] for layer, numbers in self.channels.items()}
        done = len(self.examples)
        for examples, pixels in self._batches(order, masks):
            sides = [[masks[example] for example in examples], [masks[partner[example]] for example in examples]]
            present = [[np.setdiff1d(mask, [0]) for mask in side] for side in sides]
            of_image = [list(map(len, numbers)) for numbers in zip(*present, strict=True)]
            # The first mask is all of every image: those that only fill up the batch have none.
            marks = np.zeros((self._batch, 1 + max(map(sum, of_image)), points), np.float32)
            marks[: len(examples), 0] = 1
            for image, (pair, concepts) in enumerate(zip(zip(*sides, strict=True), zip(*present, strict=True), strict=True)):
                for mask, numbers, rows_of in zip(pair, concepts, _rows(of_image[image]), strict=True):
                    marks[image, rows_of] = (mask == numbers[:, np.newaxis, np.newaxis]).any(axis=1)
            sizes, both = marks.sum(axis=2), {layer: np.asarray(value) for layer, value in run(pixels, marks).items()}
            for layer, counted in sums.items():
                for side, of_side in enumerate(present):
                    for image, numbers in enumerate(of_side):
                        rows_of = _rows(of_image[image])[side]
                        counts = both[layer][image, rows_of], sizes[image, rows_of], both[layer][image, 0]
                        counted[side].add(numbers - 1, *counts)
            done += len(examples)
            progress(done, 2 * len(self.examples))
        return {layer: (observed, permuted) for layer, (observed, permuted) in sums.items()}

    def _compiled(self, finish: Callable[..., Any], *extras: tf.TensorSpec) -> Callable[..., Any]:
        """A pass that gives `finish` the chosen channels' maps, and of each extra the rows of their images.

        The maps are without upper clamps: at ReLU6's ceiling no value is above another.
        """
        import tensorflow as tf

        from pipeline.compiled.compile import network_input, pass_of
        from pipeline.compiled.microbatches import in_microbatches

        def read(images: tf.Tensor) -> dict[str, tf.Tensor]:
            return {name: layer.value for name, layer in read_unclipped(self.network, images, list(self.channels)).items()}

        def chosen(maps: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            every = {layer: np.array_equal(self.channels[layer], np.arange(maps[layer].shape[3])) for layer in maps}
            return {
                layer: maps[layer] if every[layer] else tf.gather(maps[layer], self.channels[layer], axis=3) for layer in maps
            }

        run = pass_of(self.network, read, self._microbatch, lambda maps, *rows: finish(chosen(maps), *rows))

        def of_microbatch(images: tf.Tensor, first: tf.Tensor, *extras: tf.Tensor) -> Any:
            return run(images, *(extra[first : first + self._microbatch] for extra in extras))

        return in_microbatches(of_microbatch, self._microbatch, network_input(self.network, self._batch), *extras)

    def _batches(self, examples: np.ndarray, masks: dict[int, np.ndarray]) -> Iterator[tuple[list[int], np.ndarray]]:
        """The examples that have masks, in batches filled up with black images; adds the masks it reads to `masks`."""
        numbers: list[int] = []
        pixels: list[np.ndarray] = []
        for example, image in self.source.fetch(examples.tolist()):
            if example not in masks:
                read = self.masks.read(image)
                if read is None:
                    continue
                masks[example] = np.stack([on_grid(mask, image, self.fit, self.step) for mask in read]).astype(np.int32)
            numbers.append(example)
            pixels.append(image.given(self.fit))
            if len(pixels) == self._batch:
                yield numbers, np.stack(pixels)
                numbers, pixels = [], []
        if pixels:
            yield numbers, np.stack([*pixels, *[np.zeros_like(pixels[0])] * (self._batch - len(pixels))])
