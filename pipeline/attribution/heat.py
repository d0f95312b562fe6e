"""Maps as numbers: their peak, their box, and how they come back to the source image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    """How much a map says at each position: (h, w), or (h, w, 3) with a sign, to float32 (h, w), zero or more."""
    return np.abs(values).sum(axis=-1) if values.ndim == 3 else np.abs(values)


def one_side(values: np.ndarray, side: Side) -> np.ndarray:
    """What is above zero of maps with a sign, or what is below, as numbers above zero; or the maps as they are."""
    return values if side == "both" else np.maximum(values if side == "for" else -values, 0)


def merge(several: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of maps of one image at several layers, (h, w) each, enlarged to the largest and divided by their peaks."""
    height, width = (max(values.shape[axis] for values in several) for axis in (0, 1))
    return np.mean([enlarge(values / (float(np.abs(values).max()) or 1.0), height, width) for values in several], axis=0)


def focus(values: np.ndarray, height: int, width: int) -> Focus:
    """The peak and the 50 % box of a map that stands for an input of this size; a map of zeros has the whole input.

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
    rows = _weights(np.arange(height) + 0.5, height / values.shape[0], values.shape[0])
    cols = _weights(np.arange(width) + 0.5, width / values.shape[1], values.shape[1])
    return (rows @ values @ cols.T).astype(np.float32)


def on_source(values: np.ndarray, fit: Fit, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A map laid back over the image, or the window, that the network was shown through a fit.

    Args:
        values: (h, w) or (h, w, c), standing for the network's whole input.
        height, width: of the image, in its own pixels.

    Returns: float32 (height, width) or (height, width, c), zero where the network was shown nothing; and bool
        (height, width): where it was shown something.
    """
    (scale_y, scale_x), (offset_y, offset_x) = fit.scale_and_offset(height, width)
    y, x = (np.arange(height) + 0.5 - offset_y) / scale_y, (np.arange(width) + 0.5 - offset_x) / scale_x
    rows = _weights(y, fit.height / values.shape[0], values.shape[0])
    cols = _weights(x, fit.width / values.shape[1], values.shape[1])
    seen = np.outer((y > 0) & (y < fit.height), (x > 0) & (x < fit.width))
    layers = np.atleast_3d(values)
    spread = np.stack([rows @ layers[..., c] @ cols.T for c in range(layers.shape[2])], axis=-1).astype(np.float32)
    spread *= seen[..., np.newaxis]
    return (spread if values.ndim == 3 else spread[..., 0]), seen


def _weights(position: np.ndarray, size: float, count: int) -> np.ndarray:
    """Bilinear weights: positions in pixels to `count` cells of `size` pixels each: float64 (positions, count)."""
    cell = np.clip(position / size - 0.5, 0, count - 1)
    return np.clip(1 - np.abs(cell[:, np.newaxis] - np.arange(count)), 0, None)


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
    smallest, edges = height * width + 1, (0, 0, height, width)
    down = np.concatenate([np.zeros((1, width)), np.cumsum(cells, axis=0)])
    for y1 in range(height):
        for y2 in range(y1 + 1, height + 1):
            across = np.concatenate([[0.0], np.cumsum(down[y2] - down[y1])])
            # For every left edge the nearest right one; a hair is allowed for rounding.
            right = np.searchsorted(across, across[:-1] + half * (1 - 1e-9))
            areas = np.where(right <= width, (right - np.arange(width)) * (y2 - y1), smallest)
            x1 = int(areas.argmin())
            if areas[x1] < smallest:
                smallest, edges = int(areas[x1]), (y1, x1, y2, int(right[x1]))
    return edges
