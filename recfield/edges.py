"""Brackets around the first and the last pixel that each unit sees along one axis."""

from __future__ import annotations

import numpy as np

FIRST, LAST = 0, 1


def reach(on: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every pixel 0..length, the next replaced and the next kept pixel from there on; length if there is none."""
    length = len(on)
    positions = np.arange(length + 1)
    beyond = np.append(on, True), np.append(~on, True)
    next_on, next_off = (np.minimum.accumulate(np.where(mask, positions, length)[::-1])[::-1] for mask in beyond)
    return next_on, next_off


class Edges:
    """Brackets around both edges of every unit of one map, along one axis of the image.

    The last pixel is counted from the far end, so that one rule serves both sides.

    low, high: int (2, h, w): the edge of side FIRST or LAST lies within [low, high], in pixels from that
    side. `high` is `length` for a unit that no probe has changed yet.
    """

    def __init__(self, shape: tuple[int, int], length: int) -> None:
        self.length = length
        self.low = np.zeros((2, *shape), np.int32)
        self.high = np.full((2, *shape), length, np.int32)

    def learn(self, on: np.ndarray, changed: np.ndarray, active: np.ndarray) -> None:
        """Narrow the brackets by one probe.

        A change means that one of the replaced pixels within the bracket is seen, so the edge lies no
        further in than the furthest of them. Silence means that none of them is.

        Args:
            on: bool (length,): the replaced pixels; nothing else in the image was replaced.
            changed: bool (h, w): the units that changed.
            active: bool (h, w): the units whose silence counts.
        """
        sides = reach(on), reach(on[::-1])
        nearest = [sides[side][0][self.low[side]] for side in (FIRST, LAST)]
        seen = nearest[FIRST] <= self.length - 1 - nearest[LAST]
        silent = ~changed & active & seen
        for side in (FIRST, LAST):
            furthest = self.length - 1 - nearest[1 - side]
            self.high[side] = np.where(changed & seen, np.minimum(self.high[side], furthest), self.high[side])
            self.low[side] = np.where(silent, sides[side][1][self.low[side]], self.low[side])
        # A change by pixels that silence had excluded: the silence was chance, since only changes are proof.
        contradicted = changed & ~seen | (self.low > self.high).any(axis=0) & (self.high < self.length).all(axis=0)
        self.forget(contradicted)

    def forget(self, units: np.ndarray) -> None:
        """Reset the brackets of some units: bool (h, w)."""
        self.low[:, units] = 0
        self.high[:, units] = self.length
