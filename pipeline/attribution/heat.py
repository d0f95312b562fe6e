"""Maps as numbers: their peak, their box, and how they come back to the source image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from pipeline.attribution.methods.method import Side
from pipeline.geometry import Box

if TYPE_CHECKING:  # the spec reads the table of methods, which enlarge maps
    from pipeline.sources.fit import Fit

_MOST_CELLS = 56  # a side of the grid on which boxes are looked for


@dataclass(frozen=True)
class Focus:
    """Where a map has its energy.

    peak: the largest energy of a position; row, col: where, in the map, the first in reading order.
    box: pixels of the network's input, half-open: the smallest rectangle that holds half of all energy.
    """

    peak: float
    row: int
    col: int
    box: Box


def energy(values: np.ndarray) -> np.ndarray:
    """The strength of a map's evidence at each position: (h, w), or (h, w, 3) with signs, to float32 (h, w), zero or more."""
    powers = np.abs(values)
    if values.ndim == 2:
        return powers
    total = powers[..., 0].copy()  # NumPy takes twenty times as long for sums along an axis of three
    for band in range(1, powers.shape[-1]):
        total += powers[..., band]
    return total


def one_side(values: np.ndarray, side: Side) -> np.ndarray:
    """The positive part of signed maps, or the negative part with its sign turned; or the maps as they are."""
    return values if side == "both" else np.maximum(values if side == "for" else -values, 0)


def merge(several: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of maps of one image at several layers, (h, w) each, enlarged to the largest and divided by their peaks."""
    height, width = (max(values.shape[axis] for values in several) for axis in (0, 1))
    return np.mean([enlarge(values / (float(np.abs(values).max()) or 1.0), height, width) for values in several], axis=0)


def focus(values: np.ndarray, height: int, width: int) -> Focus:
    """The peak and the 50% box of a map that stands for an input of this size; a map of zeros has the whole input.

    Large maps are looked at in cells of several pixels.
    """
    powers = energy(values)
    row, col = np.unravel_index(int(powers.argmax()), powers.shape)
    down, across = _edges(powers.shape[0]), _edges(powers.shape[1])
    sums = np.add.reduceat(np.add.reduceat(powers.astype(np.float64), down[:-1], axis=0), across[:-1], axis=1)
    y1, x1, y2, x2 = _half(sums)
    # In whole numbers: 25 cells of 224 / 25 pixels each are a little more than 224 in float64.
    top, bottom = _outwards(down[y1], down[y2], height, powers.shape[0])
    left, right = _outwards(across[x1], across[x2], width, powers.shape[1])
    return Focus(float(powers[row, col]), int(row), int(col), Box(top, left, bottom, right))


def enlarge(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map (h, w) to float32 (height, width), bilinear, every position of the map filling an equal share."""
    return _spread(values, np.arange(height) + 0.5, np.arange(width) + 0.5, (height / values.shape[0], width / values.shape[1]))


def on_source(values: np.ndarray, fit: Fit, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A map laid back over the image, or the window, that the network was shown through a fit.

    Args:
        values: (h, w) or (h, w, c), standing for the network's whole input.
        height, width: of the image, in its own pixels.

    Returns: float32 (height, width) or (height, width, c), zero where the network was shown nothing; and bool
        (height, width): where it was shown something.
    """
    (scale_y, scale_x), (offset_y, offset_x) = fit.scale_and_offset(height, width)
    if min(offset_y, offset_x) >= 0:  # all of the input shows a part of the image, of whole pixels
        far_y, far_x = offset_y + scale_y * fit.height, offset_x + scale_x * fit.width
        part = Box(*(round(edge) for edge in (offset_y, offset_x, far_y, far_x)))
        spread, seen = np.zeros((height, width, *values.shape[2:]), np.float32), np.zeros((height, width), bool)
        drawn = cv2.resize(values.astype(np.float32), (part.width, part.height), interpolation=cv2.INTER_LINEAR)
        part.cut(spread)[:] = drawn.reshape(part.height, part.width, *values.shape[2:])
        part.cut(seen)[:] = True
        return spread, seen
    y, x = (np.arange(height) + 0.5 - offset_y) / scale_y, (np.arange(width) + 0.5 - offset_x) / scale_x
    spread = _spread(values, y, x, (fit.height / values.shape[0], fit.width / values.shape[1]))
    seen = np.outer((y > 0) & (y < fit.height), (x > 0) & (x < fit.width))
    spread *= seen if values.ndim == 2 else seen[..., np.newaxis]
    return spread, seen


def _spread(values: np.ndarray, y: np.ndarray, x: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """A map (h, w) or (h, w, c), bilinear, at positions in pixels, of which a cell takes `size`: float32 (y, x) or (y, x, c)."""
    for axis, (positions, pixels) in enumerate(zip((y, x), size, strict=True)):
        cell = np.clip(positions / pixels - 0.5, 0, values.shape[axis] - 1)
        first = cell.astype(np.intp)
        share = np.expand_dims(cell - first, tuple(other for other in range(values.ndim) if other != axis))
        after = np.minimum(first + 1, values.shape[axis] - 1)
        values = (1 - share) * values.take(first, axis) + share * values.take(after, axis)
    return values.astype(np.float32)


def _edges(size: int) -> np.ndarray:
    """Where the cells of one axis begin and end, in positions of the map; each cell is one position in small maps."""
    count = min(size, _MOST_CELLS)
    return np.arange(count + 1) * size // count


def _outwards(first: int, last: int, size: int, count: int) -> tuple[int, int]:
    """The pixels that cells from `first` to before `last`, of `count` on `size` pixels, touch: half-open."""
    return int(first * size // count), int(-(-last * size // count))


def _half(cells: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest rectangle of cells with half of the whole; the first among equals."""
    height, width = cells.shape
    half = cells.sum() / 2
    if half <= 0:
        return 0, 0, height, width
    half *= 1 - 1e-9  # a hair is allowed for rounding
    down = np.concatenate([np.zeros((1, width)), np.cumsum(cells, axis=0)])
    y1, y2 = np.triu_indices(height + 1, 1)  # every band of rows
    sums = down[y2] - down[y1]
    enough = sums.sum(axis=1) >= half * (1 - 1e-9)  # a band with less holds no such rectangle, and most have less
    y1, y2, sums = y1[enough], y2[enough], sums[enough]
    across = np.concatenate([np.zeros((len(y1), 1)), np.cumsum(sums, axis=1)], axis=1)
    # For every left edge the nearest right one.
    right = (across[:, np.newaxis] < (across[:, :-1] + half)[..., np.newaxis]).sum(axis=2)
    areas = np.where(right <= width, (right - np.arange(width)) * (y2 - y1)[:, np.newaxis], height * width + 1)
    band, x1 = divmod(int(areas.argmin()), width)
    return int(y1[band]), x1, int(y2[band]), int(right[band, x1])
