"""Map regions: the part of an image where a channel's own map is above half its peak, around the unit that won."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np

from pipeline.fields.effective import covers_most
from pipeline.geometry import Box
from pipeline.models.network import LayerInfo, Network
from recfield import ReceptiveField

if TYPE_CHECKING:
    from pipeline.compiled.freezing import Pass

_MOST_BYTES = 100_000_000  # of maps that one batch may fill
_MOST_BATCH = 16
_MOST_CELLS = 28  # along a side of the maps that are kept for pictures
_FINE = 64  # maps are refined to about so many points along a side before they are cut at half their peak
_STEPS = 8  # at least, that a region's side has
_LEAST = 0.2  # of the input's shorter side: below that a region shows nothing that could be recognised


@dataclass(frozen=True)
class _Grid:
    """How a layer's map lies on the input: pixel = origin + stride * unit, along each axis, for the units' edges."""

    origin: tuple[float, float]
    stride: tuple[float, float]

    @classmethod
    def of(cls, field: ReceptiveField, height: int, width: int) -> _Grid:
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
    """Finds, by one more forward pass, where in their images the winners of some layers' channels respond.

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
        self._grids = {name: _Grid.of(fields[name], self._height, self._width) for name in self._maps}
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
                whole = np.asarray(maps[name])
                for number in np.flatnonzero((of_layer[:, 0] >= start) & (of_layer[:, 0] < start + len(part))):
                    image, row, col, channel = (int(value) for value in of_layer[number])
                    box, cells = self._region(name, whole[image - start, :, :, channel], row, col)
                    results[name][0][number], results[name][1][number] = box.edges, cells
        return results

    @cached_property
    def _read(self) -> Pass:
        """The compiled pass: uint8 (batch, height, width, 3) -> {layer: its map}."""
        from pipeline.compiled.compile import network_input, pass_of
        from pipeline.compiled.microbatches import in_microbatches, microbatch_size

        layers, size = sorted(self._maps), microbatch_size(self._network, self.batch)
        run = pass_of(self._network, lambda images: self._network.trace(images, layers), size, lambda maps, first: maps)
        return in_microbatches(run, size, network_input(self._network, self.batch))

    def _cells(self, name: str) -> tuple[int, int]:
        height, width, _ = self._maps[name]
        return min(height, _MOST_CELLS), min(width, _MOST_CELLS)

    def _region(self, name: str, values: np.ndarray, row: int, col: int) -> tuple[Box, np.ndarray]:
        heights = _above_floor(values, row, col)
        top, left, bottom, right = half_peak(heights, row, col)
        grid, peak = self._grids[name], heights[row, col]
        edges = [
            origin + stride * unit
            for origin, stride, unit in zip(grid.origin * 2, grid.stride * 2, (top, left, bottom, right), strict=True)
        ]
        box = square_box(edges, self._height, self._width)
        shares = np.minimum(heights / peak if peak > 0 else np.ones_like(heights), 1)
        return box, np.rint(255 * self._on_input(shares, grid, self._cells(name))).astype(np.uint8)

    def _on_input(self, shares: np.ndarray, grid: _Grid, cells: tuple[int, int]) -> np.ndarray:
        """A map, moved and scaled so that it covers the input evenly: float (h, w) -> cells."""
        scale = [
            size / count / stride for size, count, stride in zip((self._height, self._width), cells, grid.stride, strict=True)
        ]
        shift = [-origin / stride for origin, stride in zip(grid.origin, grid.stride, strict=True)]
        # A cell's centre, in units; arrays count from the centre of the first.
        matrix = np.array(
            [[scale[1], 0, shift[1] + scale[1] / 2 - 0.5], [0, scale[0], shift[0] + scale[0] / 2 - 0.5]], np.float64
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(shares, matrix, cells[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)


def region_layers(
    layers: Sequence[LayerInfo], fields: Mapping[str, ReceptiveField], size: Sequence[int], every: bool
) -> list[LayerInfo]:
    """The layers with maps that are cropped to regions: every one, or those whose fields cover more than half of the input."""
    return [layer for layer in layers if layer.shape[:2] != (1, 1) and (every or covers_most(fields[layer.name], *size))]


def half_peak(heights: np.ndarray, row: int, col: int) -> tuple[float, float, float, float]:
    """The box of the connected region around a unit in which a map is at least half the unit's value.

    Args:
        heights: float (h, w), none negative.

    Returns: top, left, bottom, right, in units from the map's upper left edge.
    """
    factor = max(1, min(4, _FINE // max(heights.shape)))
    height, width = heights.shape
    fine = cv2.resize(heights, (width * factor, height * factor), interpolation=cv2.INTER_LINEAR) if factor > 1 else heights
    above = (fine >= heights[row, col] / 2).astype(np.uint8)
    y, x = row * factor + factor // 2, col * factor + factor // 2
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    left, top, wide, high = boxes[labels[y, x], :4] / factor
    return float(top), float(left), float(top + high), float(left + wide)


def square_box(edges: Sequence[float], height: int, width: int) -> Box:
    """The square around y1, x1, y2, x2, at least a fifth of the image's shorter side, moved into the image where it can be.

    Its edges are multiples of a power of two, at most an eighth of its side: no map is finer than that, and regions that
    differ by less are one crop, which is made and stored once.
    """
    least = _LEAST * min(height, width)
    spans = [_widened(edges[axis], edges[axis + 2], least) for axis in (0, 1)]
    step = 2.0 ** max(0, np.floor(np.log2(max(high - low for low, high in spans) / _STEPS)))
    spans = [(np.floor(low / step) * step, np.ceil(high / step) * step) for low, high in spans]
    side = max(high - low for low, high in spans)
    boxes = []
    for (low, high), size in zip(spans, (height, width), strict=True):
        length = min(side, size)
        first = int(np.clip(low - (side - high + low) // (2 * step) * step, 0, size - length))
        boxes.append((first, first + int(length)))
    return Box(boxes[0][0], boxes[1][0], boxes[0][1], boxes[1][1])


def _widened(low: float, high: float, least: float) -> tuple[float, float]:
    more = max(0.0, least - (high - low)) / 2
    return low - more, high + more


def _above_floor(values: np.ndarray, row: int, col: int) -> np.ndarray:
    """A map above zero or, where its peak is not positive, above its minimum: float32 (h, w), nothing negative or infinite."""
    most = np.finfo(np.float32).max / 4
    finite = np.minimum(np.where(np.isnan(values), -np.inf, values), most).astype(np.float32)
    known = finite[np.isfinite(finite)]
    floor = float(known.min()) if finite[row, col] <= 0 and len(known) else 0.0
    return np.ascontiguousarray(np.maximum(finite - np.float32(floor), 0))
