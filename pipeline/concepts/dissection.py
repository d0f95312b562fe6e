"""Network dissection: how far each channel's strongest units and each concept's masks overlap (Bau et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.concepts.claims import permutations_of
from pipeline.concepts.map_cells import MapCells, Side, cells_above
from pipeline.concepts.masks import MaskSet, on_grid
from pipeline.concepts.top_values import TopValues
from pipeline.models.network import Network
from pipeline.sources.fit import Fit
from pipeline.sources.source import Source

if TYPE_CHECKING:
    import tensorflow as tf

    from pipeline.compiled.freezing import Pass
    from pipeline.models.network import Unclipped

DETECTS = 0.04  # the least overlap of a channel that is said to detect a concept, in the paper
_MOST_FLOATS = 2**24  # of a layer's maps, in memory at a time
_MOST_BATCH = 16
_MOST_HELD = 2**28  # bytes of cells that wait for the thresholds
_STRIDE = 16  # of the images, one in so many sets the first floors

Examples = list[int]
Progress = Callable[[int, int], None]


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
    def of_masks(cls, concepts: np.ndarray, channels: int) -> Overlaps:
        """The counts of images whose points have not been counted yet, but those of the concepts: int64 (concepts,)."""
        return cls(np.zeros((len(concepts), channels), np.int64), concepts.copy(), np.zeros(channels, np.int64))

    def add(self, numbers: np.ndarray, channels: np.ndarray) -> None:
        """Count points at which channels are above their thresholds.

        Args:
            numbers: int (masks, n): the concepts there, 0 for none, none twice at a point. channels: int (n,).
        """
        self.active[:] += np.bincount(channels, minlength=len(self.active))
        both = self.both.reshape(-1)
        for of_mask in numbers:
            inside = of_mask > 0
            cells = (of_mask[inside].astype(np.int64) - 1) * len(self.active) + channels[inside]
            if len(both) > len(cells):
                np.add.at(both, cells, 1)
            else:
                both += np.bincount(cells, minlength=len(both))

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


@dataclass
class HeldCells:
    """Cells that wait for the thresholds, in bounded memory.

    Args:
        most: bytes of them that are held at most, once those are gone that no longer reach the floors.
    """

    most: int
    batches: list[tuple[Examples, dict[str, MapCells]]] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """The bytes of all cells."""
        return sum(cells.nbytes for _, layers in self.batches for cells in layers.values())

    def add(self, examples: Examples, cells: dict[str, MapCells], floors: Mapping[str, np.ndarray]) -> None:
        """Hold the cells of a batch. Where they are too many, those below the floors go, and then the last batches."""
        self.batches.append((examples, cells))
        if self.nbytes > self.most:
            for number, (of_batch, layers) in enumerate(self.batches):
                reaching = {layer: of_layer.reaching(floors[layer]) for layer, of_layer in layers.items()}
                self.batches[number] = of_batch, reaching
            while self.nbytes > self.most // 2:  # so that there is room for many batches before the floors are looked at again
                self.batches.pop()


@dataclass(frozen=True, eq=False)
class _Counts:
    """The overlaps while they are counted, by layer: with each image's own masks, and with those of another.

    masks: int (masks, points) by example; partners: by example, the other image.
    """

    thresholds: Mapping[str, np.ndarray]
    sides: Mapping[str, tuple[Side, Side]]
    masks: Mapping[int, np.ndarray]
    partners: Mapping[int, int]
    overlaps: dict[str, tuple[Overlaps, Overlaps]]

    @classmethod
    def of(cls, dissection: Dissection, thresholds: Mapping[str, np.ndarray], masks: Mapping[int, np.ndarray]) -> _Counts:
        """Counts in which no point is above a threshold yet."""
        order = np.array(sorted(masks))
        partners = dict(zip(order.tolist(), order[permutations_of(len(order), 1)[0]].tolist(), strict=True))
        areas = np.zeros(len(dissection.masks.names) + 1, np.int64)
        for of_image in masks.values():
            areas += np.bincount(of_image.reshape(-1), minlength=len(areas))
        widths = {layer: len(numbers) for layer, numbers in dissection.channels.items()}
        overlaps = {layer: (Overlaps.of_masks(areas[1:], n), Overlaps.of_masks(areas[1:], n)) for layer, n in widths.items()}
        return cls(thresholds, dissection.sides, masks, partners, overlaps)

    def add(self, examples: Examples, cells: Mapping[str, MapCells]) -> None:
        """Count the points of some images' cells that are above the thresholds."""
        stacks = [_stacked([self.masks[of] for of in side]) for side in (examples, [self.partners[of] for of in examples])]
        for layer, of_layer in cells.items():
            images, points, channels = of_layer.points(self.sides[layer], self.thresholds[layer])
            for overlaps, stack in zip(self.overlaps[layer], stacks, strict=True):
                overlaps.add(stack[:, images, points], channels)


def _stacked(masks: Sequence[np.ndarray]) -> np.ndarray:
    """The masks of several images, filled up with masks of no concept: int (most masks, images, points)."""
    stack = np.zeros((max(map(len, masks)), len(masks), masks[0].shape[1]), masks[0].dtype)
    for number, of_image in enumerate(masks):
        stack[: len(of_image), number] = of_image
    return stack


def _distinct(masks: Sequence[np.ndarray]) -> np.ndarray:
    """An image's masks, int (points,) each, in which no concept is at a point twice: int (masks, points)."""
    stack = np.stack(masks)
    for number in range(1, len(stack)):
        stack[number] *= ~(stack[number] == stack[:number]).any(axis=0)
    return stack


@dataclass(frozen=True, eq=False)
class Dissection:
    """The images, the layers and the grid of points of a dissection.

    examples: int64, ascending: those images of the source that can be read.
    step: pixels of the input from one point of the grid to the next.
    channels: their numbers, by layer. matrices: by layer, those that interpolate its maps to the grid; see `pipeline.geometry`.
    """

    network: Network
    source: Source
    fit: Fit
    masks: MaskSet
    examples: np.ndarray
    step: int
    channels: Mapping[str, np.ndarray]
    matrices: Mapping[str, tuple[np.ndarray, np.ndarray]]

    def run(self, progress: Progress) -> tuple[int, dict[str, tuple[Overlaps, Overlaps]]]:
        """One pass over the images that have masks, and another over those of them whose cells are not held: see `_first_pass`.

        Returns: how many images have masks; and by layer the overlaps with each image's own masks, and with another image's.
        Raises: WrongSpec, for a mask of other proportions than its image; UnusableData, for one that cannot be read.
        """
        tops, masks, held = self._first_pass(progress)
        if len(masks) < 2:
            return len(masks), {}
        counts = _Counts.of(self, {layer: top.quantile() for layer, top in tops.items()}, masks)
        for examples, cells in held.batches:
            counts.add(examples, cells)
        again = np.setdiff1d(list(masks), [example for examples, _ in held.batches for example in examples])
        done, total = len(self.examples), len(self.examples) + len(again)
        with closing(self._cells(again, masks, lambda: counts.thresholds)) as outputs:
            for examples, cells in outputs:
                counts.add(examples, cells)
                done += len(examples)
                progress(done, total)
        return len(masks), counts.overlaps

    def _first_pass(self, progress: Progress) -> tuple[dict[str, TopValues], dict[int, np.ndarray], HeldCells]:
        """The largest values of the maps, the masks on the grid by example, int (masks, points), and the cells that are held.

        The maps of the first images, a few from all over the data set, give each channel a floor, which only rises, and below
        which its threshold cannot be. Of the maps of all others, only the cells that reach the floor leave the device. These
        wait for the thresholds, so that the network need not run again for them. It does for the first ones, and for those
        whose cells take too much memory.
        """
        masks: dict[int, np.ndarray] = {}
        held, total, done = HeldCells(_MOST_HELD), len(self.examples), 0
        tops = {
            layer: TopValues.empty(total * rows.shape[1] * cols.shape[1], len(self.channels[layer]))
            for layer, (rows, cols) in self.matrices.items()
        }
        parts = [self.examples[first::_STRIDE] for first in range(_STRIDE)]
        tap = self._compiled(lambda layers, _: {layer: read.value for layer, read in layers.items()})
        while parts and 2 * _STRIDE * done < total:  # of a data set of which few images have masks, several parts
            for examples, pixels in self._batches(parts.pop(0), masks):
                for layer, maps in tap(pixels).items():
                    values = np.asarray(maps)[: len(examples)].reshape(-1, len(self.channels[layer]))
                    tops[layer] = tops[layer].update_all(values)
                done += len(examples)
                progress(done, 2 * total)
        del tap

        def floors() -> dict[str, np.ndarray]:
            return {layer: top.floor for layer, top in tops.items()}

        rest = np.sort(np.concatenate([self.examples[:0], *parts]))
        with closing(self._cells(rest, masks, floors)) as outputs:
            for examples, cells in outputs:
                for layer, of_layer in cells.items():
                    units = len(examples) * of_layer.shape[0] * of_layer.shape[1]
                    tops[layer] = tops[layer].update(of_layer.corners[0], of_layer.channels, units)
                held.add(examples, {layer: of_layer.on(self.sides[layer]) for layer, of_layer in cells.items()}, floors())
                done += len(examples)
                progress(done, 2 * total)
        return tops, masks, held

    @cached_property
    def sides(self) -> dict[str, tuple[Side, Side]]:
        """How each layer's maps lie on the grid: along rows, and along columns."""
        return {layer: (Side.of(rows), Side.of(cols)) for layer, (rows, cols) in self.matrices.items()}

    def _cells(
        self, examples: np.ndarray, masks: dict[int, np.ndarray], floors: Callable[[], Mapping[str, np.ndarray]]
    ) -> Generator[tuple[Examples, dict[str, MapCells]]]:
        """The cells of the examples' maps that reach the floors of the moment, by layer, batch by batch.

        While the caller works on the cells of one batch, the network runs the next ones.
        """
        if not len(examples):
            return
        from pipeline.compiled.microbatches import in_flight

        run, layers = self._cell_pass, list(self.channels)

        def cells_of(batch: tuple[Examples, np.ndarray]) -> tuple[Examples, dict[str, MapCells]]:
            numbers, pixels = batch
            least, cells = floors(), {}
            for layer, (first, *corners) in run(pixels, *(least[layer] for layer in layers)).items():
                (rows, cols), channels = self.matrices[layer], len(self.channels[layer])
                shape = rows.shape[1], cols.shape[1], channels
                narrow = np.int32 if self._batch * prod(shape) < 2**31 else np.int64
                last = np.searchsorted(np.asarray(first), len(numbers) * prod(shape))  # those after it only fill up the batch
                cells[layer] = MapCells(shape, np.asarray(first)[:last].astype(narrow), np.stack(corners)[:, :last])
            return numbers, cells

        yield from in_flight(cells_of, self._batches(examples, masks))

    @cached_property
    def _cell_pass(self) -> Pass:
        import tensorflow as tf

        def finish(layers: dict[str, Unclipped], first: tf.Tensor, *floors: tf.Tensor) -> dict[str, tuple[tf.Tensor, ...]]:
            outputs = {}
            for (layer, read), floor in zip(layers.items(), floors, strict=True):
                units, *corners = cells_above(read.raw, floor, read.floor)
                outputs[layer] = first * prod(read.raw.shape[1:]) + units, *corners
            return outputs

        return self._compiled(finish, *(tf.TensorSpec((len(numbers),), tf.float32) for numbers in self.channels.values()))

    @cached_property
    def _microbatch(self) -> int:
        """How many images run through the network at once."""
        from pipeline.compiled.microbatches import microbatch_size

        sizes = (rows.shape[1] * cols.shape[1] * len(self.channels[layer]) for layer, (rows, cols) in self.matrices.items())
        return microbatch_size(self.network, int(np.clip(_MOST_FLOATS // max(sizes), 1, _MOST_BATCH)))

    @property
    def _batch(self) -> int:
        return self._microbatch * max(1, _MOST_BATCH // self._microbatch)

    def _compiled(self, finish: Callable[..., Any], *extras: tf.TensorSpec) -> Pass:
        """A pass that gives `finish` what is read of the layers, of the chosen channels, and after it all extras.

        Upper clamps are not in it: at ReLU6's ceiling no value is above another.

        Args:
            finish: takes the layers, the number of the first image of the micro-batch, and the extras.
        """
        import tensorflow as tf

        from pipeline.compiled.compile import network_input, pass_of
        from pipeline.compiled.layer_graph import read_layers
        from pipeline.compiled.microbatches import in_microbatches

        def of_chosen(layers: dict[str, Unclipped], *others: tf.Tensor) -> Any:
            chosen = {}
            for layer, numbers in self.channels.items():
                raw = layers[layer].raw
                every = np.array_equal(numbers, np.arange(raw.shape[3]))
                chosen[layer] = replace(layers[layer], raw=raw if every else tf.gather(raw, numbers, axis=3))
            return finish(chosen, *others)

        def read(images: tf.Tensor) -> dict[str, Unclipped]:
            return read_layers(self.network, images, list(self.channels))

        run = pass_of(self.network, read, self._microbatch, of_chosen)
        return in_microbatches(run, self._microbatch, network_input(self.network, self._batch), *extras)

    def _batches(self, examples: np.ndarray, masks: dict[int, np.ndarray]) -> Iterator[tuple[Examples, np.ndarray]]:
        """The examples that have masks, in batches filled up with black images; adds the masks it reads to `masks`."""
        numbers: list[int] = []
        pixels: list[np.ndarray] = []
        for example, image in self.source.fetch(examples.tolist()):
            if example not in masks:
                read = self.masks.read(image)
                if read is None:
                    continue
                fields = [on_grid(mask, image, self.fit, self.step) for mask in read]
                masks[example] = _distinct(fields).astype(np.min_scalar_type(len(self.masks.names)))
            numbers.append(example)
            pixels.append(image.given(self.fit))
            if len(pixels) == self._batch:
                yield numbers, np.stack(pixels)
                numbers, pixels = [], []
        if pixels:
            yield numbers, np.stack([*pixels, *[np.zeros_like(pixels[0])] * (self._batch - len(pixels))])
