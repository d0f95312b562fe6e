"""The effective field: the smallest box that holds a given share of the energy of a unit's gradient."""

from __future__ import annotations

import numpy as np


def smallest_box(
    energy: np.ndarray, share: float = 0.95, around: tuple[int | None, int | None] = (None, None)
) -> tuple[int, int, int, int] | None:
    """The box of the smallest area that holds at least a share of an image's energy: exact, not grown greedily.

    Of boxes of equal area it is the one with the most energy, and of those the flattest, topmost, leftmost.

    Args:
        energy: float (height, width), nowhere below 0: for a unit's effective field, the squares of its gradient
            (Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", 2016).
        share: above 0, at most 1.
        around: row and column of a pixel that the box must hold; None: the box is free along that axis.

    Returns: y1, x1, y2, x2, half-open; None if the energy is zero or not finite.
    """
    height, width = energy.shape
    table = np.zeros((height + 1, width + 1))  # sums over all pixels above and to the left
    table[1:, 1:] = energy.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    total = table[-1, -1]
    if not (np.isfinite(total) and total > 0):
        return None
    target = share * total
    row, col = around
    narrowest = _narrowest(table[-1:], target, col, width)
    assert narrowest is not None  # the whole width holds everything
    area, most, best = height * narrowest, -1.0, (0, 0, 0, 0)
    for high in range(1, height + 1):
        if high * narrowest > area:
            break
        tops = np.array(_starts(high, height, row))
        tops = tops[table[tops + high, -1] - table[tops, -1] >= target]
        bands = table[tops + high] - table[tops]
        wide = _narrowest(bands, target, col, area // high) if len(tops) else None
        if wide is None:
            continue
        sums = _windows(bands, wide, col)
        position = np.unravel_index(sums.argmax(), sums.shape)
        if high * wide < area or sums[position] > most:
            y1, x1 = int(tops[position[0]]), _starts(wide, width, col)[position[1]]
            area, most, best = high * wide, float(sums[position]), (y1, x1, y1 + high, x1 + wide)
    return best


def _narrowest(bands: np.ndarray, target: float, col: int | None, most: int) -> int | None:
    """The smallest width, up to `most`, at which a window of some band holds the target; None where none does."""
    low, high = 0, min(most, bands.shape[1] - 1)
    if high < 1 or _windows(bands, high, col).max() < target:
        return None
    while high - low > 1:  # a wider window holds at least as much, so all widths that are too narrow are below those that suffice
        middle = (low + high) // 2
        low, high = (low, middle) if _windows(bands, middle, col).max() >= target else (middle, high)
    return high


def _windows(bands: np.ndarray, wide: int, col: int | None) -> np.ndarray:
    """The energy of every window of a width: float64 (bands, windows), for bands summed from the left."""
    starts = _starts(wide, bands.shape[1] - 1, col)
    return bands[:, starts.start + wide : starts.stop + wide] - bands[:, starts.start : starts.stop]


def _starts(length: int, whole: int, holds: int | None) -> range:
    """The possible starts of a span of a length along an axis, so that it lies inside and holds a pixel."""
    if holds is None:
        return range(whole - length + 1)
    return range(max(0, holds - length + 1), min(holds, whole - length) + 1)
