"""Map regions: the part of an image where a channel's own map is above half its peak, around the unit that won.

The scan keeps the maps of most winners; for the others, one more pass of the network over their images finds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np

from pipeline.fields.effective import covers_most
from pipeline.geometry import interpolation
from pipeline.models.network import LayerInfo, Network
from recfield import ReceptiveField

if TYPE_CHECKING:
    import tensorflow as tf

    from pipeline.compiled.freezing import Pass

_MOST_BYTES = 100_000_000  # of maps that one batch may fill
_MOST_BATCH = 16
_MOST_CELLS = 28  # along a side of the maps that are kept for pictures
_FINE = 64  # maps are refined to about so many points along a side before they are cut at half their peak
_STEPS = 8  # at least, that a region's side has
_MOST_CHANNELS = 128  # that OpenCV resizes at a time
_LEAST = 0.2  # of the input's shorter side: below that a region shows nothing that could be recognised


@dataclass(frozen=True)
class MapGrid:
    """How a layer's map lies on the input: pixel = origin + stride * unit, along each axis, for the units' edges."""

    origin: tuple[float, float]
    stride: tuple[float, float]

    @classmethod
    def of(cls, field: ReceptiveField, height: int, width: int) -> MapGrid:
        (stride_y, stride_x), boxes = field.stride, field.boxes
        origin = _origin(boxes[:, 0, ::2], height, stride_y), _origin(boxes[0, :, 1::2], width, stride_x)
        return cls(origin, field.stride)


def _origin(edges: np.ndarray, size: int, stride: float) -> float:
    """Where a map begins, from the edges of its units' boxes; where the border clips them all, it lies in the middle."""
    inside = np.flatnonzero((edges[:, 0] > 0) & (edges[:, 1] < size))
    if not len(inside):
        return size / 2 - len(edges) / 2 * stride
    unit = inside[len(inside) // 2]
    return float(edges[unit].mean()) - (unit + 0.5) * stride


class MapRegions:
    """Finds where in their images the winners of some layers' channels respond.

    The region of a unit is the connected part around it in which the channel's map, interpolated between units, is at
    least half its peak (of a peak that is not positive: half-way up from the map's minimum). Its box is made square, at
    least a fifth of the input, and moved into the image where it reaches over the border.

    Attributes:
        layers: the names of the layers for which regions are found.
    """

    def __init__(self, network: Network, layers: Sequence[LayerInfo], fields: Mapping[str, ReceptiveField]) -> None:
        """For layers with their solved fields; nothing is compiled yet."""
        self._network = network
        self._height, self._width, _ = network.input_shape
        self._maps = {layer.name: layer.shape for layer in layers if layer.shape[:2] != (1, 1)}
        self.layers = frozenset(self._maps)
        self._grids = {name: MapGrid.of(fields[name], self._height, self._width) for name in self._maps}
        floats = sum(int(np.prod(shape)) for shape in self._maps.values())
        self.batch = int(np.clip(_MOST_BYTES // (4 * max(floats, 1)), 1, _MOST_BATCH))

    def find(self, images: np.ndarray, units: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The regions of some units.

        Args:
            images: uint8 (n, height, width, 3), at the network's input size.
            units: by layer, int (m, 4): the image's number, and row, col and channel of the unit.

        Returns: by layer, the boxes int32 (m, 4) in pixels of the input, half-open, and the maps uint8 (m, h, w): each
        lies evenly on the input; 255 is its peak, 0 its minimum or, if that is lower, zero.
        """
        results = {
            name: (np.zeros((len(of_layer), 4), np.int32), np.zeros((len(of_layer), *self._cells(name)), np.uint8))
            for name, of_layer in units.items()
        }
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            padded = np.pad(part, [(0, self.batch - len(part)), (0, 0), (0, 0), (0, 0)])
            maps = self._read(padded)
            for name, of_layer in units.items():
                here = np.flatnonzero((of_layer[:, 0] >= start) & (of_layer[:, 0] < start + len(part)))
                image, row, col, channel = of_layer[here].T
                values = np.asarray(maps[name])[image - start, :, :, channel]
                boxes, cells = self._regions(name, _above_floor(values, row, col), row, col)
                results[name][0][here], results[name][1][here] = boxes, cells
        return results

    def of_shares(self, layer: str, shares: np.ndarray, row: np.ndarray, col: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The regions of units whose maps the scan has kept; boxes and maps as `find` returns them.

        Args:
            shares: uint8 (m, cells): maps in reading order, 255 at the unit that won.
            row, col: int (m,), that unit.
        """
        return self._regions(layer, shares.reshape(-1, *self._maps[layer][:2]).astype(np.float32), row, col)

    @cached_property
    def _read(self) -> Pass:
        """The compiled pass: uint8 (batch, height, width, 3) -> {layer: its map}."""
        from pipeline.compiled.compile import network_input
        from pipeline.compiled.layer_graph import read_layers
        from pipeline.compiled.microbatches import in_microbatches, microbatch_size

        def read(images: tf.Tensor, first: tf.Tensor) -> dict[str, tf.Tensor]:
            layers = read_layers(self._network, self._network.preprocess(images), list(self._maps))
            return {name: layer.given for name, layer in layers.items()}

        return in_microbatches(read, microbatch_size(self._network, self.batch), network_input(self._network, self.batch))

    def _cells(self, name: str) -> tuple[int, int]:
        height, width, _ = self._maps[name]
        return min(height, _MOST_CELLS), min(width, _MOST_CELLS)

    def _regions(self, name: str, heights: np.ndarray, row: np.ndarray, col: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The boxes int32 (m, 4) and pictures uint8 (m, *cells) of maps (m, h, w), none negative, around a unit of each."""
        grid = self._grids[name]
        edges = np.array(grid.origin * 2) + np.array(grid.stride * 2) * half_peaks(heights, row, col)
        peaks = heights[np.arange(len(heights)), row, col, np.newaxis, np.newaxis]
        shares = np.minimum(np.divide(heights, peaks, out=np.ones_like(heights), where=peaks > 0), 1)
        down, across = self._resampling[name]
        return square_boxes(edges, self._height, self._width), np.rint(255 * (down @ shares @ across.T)).astype(np.uint8)

    @cached_property
    def _resampling(self) -> dict[str, tuple[np.ndarray, ...]]:
        """By layer, the two matrices that move and scale a map's rows and columns so that it covers the input evenly."""
        matrices = {}
        for name, grid in self._grids.items():
            sizes = zip(
                (self._height, self._width), self._cells(name), self._maps[name][:2], grid.origin, grid.stride, strict=True
            )
            matrices[name] = tuple(
                interpolation(((np.arange(cells) + 0.5) * size / cells - origin) / stride - 0.5, units)
                for size, cells, units, origin, stride in sizes
            )
        return matrices


def region_layers(
    layers: Sequence[LayerInfo], fields: Mapping[str, ReceptiveField], size: Sequence[int], every: bool
) -> list[LayerInfo]:
    """The layers with maps that are cropped to regions: every one, or those whose fields cover more than half of the input."""
    return [layer for layer in layers if layer.shape[:2] != (1, 1) and (every or covers_most(fields[layer.name], *size))]


def half_peaks(heights: np.ndarray, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """The boxes of the connected regions around units in which their maps are at least half the units' values.

    Args:
        heights: float32 (m, h, w), none negative; row, col: int (m,), a unit of each map.

    Returns: float (m, 4): top, left, bottom, right, in units from the map's upper left edge.
    """
    count, height, width = heights.shape
    factor = max(1, min(4, _FINE // max(height, width)))
    boxes = np.zeros((count, 4))
    y, x = row * factor + factor // 2, col * factor + factor // 2
    halves = heights[np.arange(count), row, col] / 2
    for start in range(0, count, _MOST_CHANNELS):
        stacked = np.ascontiguousarray(heights[start : start + _MOST_CHANNELS].transpose(1, 2, 0))
        if factor > 1:
            stacked = cv2.resize(stacked, (width * factor, height * factor), interpolation=cv2.INTER_LINEAR)
        fine = stacked.reshape(height * factor, width * factor, -1).transpose(2, 0, 1)
        above = (fine >= halves[start : start + _MOST_CHANNELS, np.newaxis, np.newaxis]).astype(np.uint8)
        for number, mask in enumerate(above, start=start):
            _, labels, bounds, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
            left, top, wide, high = bounds[labels[y[number], x[number]], :4]
            boxes[number] = top, left, top + high, left + wide
    return boxes / factor


def square_boxes(edges: np.ndarray, height: int, width: int) -> np.ndarray:
    """The squares around y1, x1, y2, x2, at least a fifth of the image's shorter side, moved into the image where they can be.

    Their edges are multiples of a power of two, at most an eighth of a side: no map is finer than that, and regions that
    differ by less are one crop, which is made and stored once.

    Args:
        edges: float (m, 4).

    Returns: int32 (m, 4).
    """
    low, high = edges[:, :2], edges[:, 2:]
    more = np.maximum(_LEAST * min(height, width) - (high - low), 0) / 2
    low, high = low - more, high + more
    step = 2.0 ** np.maximum(0, np.floor(np.log2((high - low).max(axis=1, keepdims=True) / _STEPS)))
    low, high = np.floor(low / step) * step, np.ceil(high / step) * step
    side = (high - low).max(axis=1, keepdims=True)
    size = np.array([height, width])
    length = np.minimum(side, size)
    first = np.clip(low - (side - high + low) // (2 * step) * step, 0, size - length).astype(np.int32)
    return np.concatenate([first, first + length.astype(np.int32)], axis=1)


def _above_floor(values: np.ndarray, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Maps (m, h, w) above zero or, where the peak is not positive, above their minimum: float32, none negative or infinite."""
    most = np.finfo(np.float32).max / 4
    finite = np.minimum(np.where(np.isnan(values), -np.inf, values), most).astype(np.float32)
    least = np.where(np.isfinite(finite), finite, np.inf).min(axis=(1, 2))
    lifted = (finite[np.arange(len(finite)), row, col] <= 0) & np.isfinite(least)
    floor = np.where(lifted, least, 0).astype(np.float32)
    return np.maximum(finite - floor[:, np.newaxis, np.newaxis], 0)
