"""The regular pattern behind a map's edges: edge = stride * floor((row + phase) / repeat) - offset, clipped.

Convolutions and pooling make it with repeat 1, upsampling and transposed convolutions with more. A guess
saves probes and decides nothing: every edge it names is proved, and where none fits, edges are bisected.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_REPEATS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, eq=False)
class Guess:
    """Edges of a line of units that fit the brackets.

    edges: int (units,), in pixels, for the middle of the offsets that fit.
    steps: int (units,): the edges before offset and clipping; edge = clip(steps - offset).
    offsets: the smallest and the largest offset that fit.
    rival: the edges of another pattern that fits as well, if there is one.
    """

    edges: np.ndarray
    steps: np.ndarray
    offsets: tuple[int, int]
    rival: np.ndarray | None

    @property
    def sure(self) -> bool:
        return self.offsets[0] == self.offsets[1] and self.rival is None


def fit(low: np.ndarray, high: np.ndarray, length: int) -> Guess | None:
    """The simplest pattern within the brackets of a line of units, or None.

    Args:
        low, high: int (units,): brackets, rising along the line; low 0 also holds for edges clipped at 0.
        length: pixels along the axis; a high of `length` says nothing.
    """
    bounded, known = low > 0, high < length
    if (low > high).any() or not known.any():
        return None
    for patterns in _patterns(len(low), length):
        best: Guess | None = None
        for steps in patterns:
            least = int((steps - high)[known].max())
            # Beyond the last unit's offset every edge is clipped to 0: all such offsets are one.
            clipped = int(steps[known][-1])
            most = min(int((steps - low)[bounded].min()), clipped) if bounded.any() else clipped
            least = least if bounded.any() else min(least, most)
            if least > most:
                continue
            edges = np.clip(steps - (least + most) // 2, 0, length)
            if best is None:
                best = Guess(edges, steps, (least, most), None)
            elif (edges != best.edges)[known].any():
                return Guess(best.edges, best.steps, best.offsets, edges)
        if best is not None:
            return best
    return None


def _patterns(units: int, length: int) -> Iterator[Iterator[np.ndarray]]:
    """Candidate steps, by how often they repeat; the strides next to pixels per unit come first."""
    ratio = length / units
    line = np.arange(units)
    for repeat in _REPEATS:
        if repeat > max(1, units // 2):
            return
        strides = sorted(range(1, int(np.ceil(repeat * ratio)) + 2), key=lambda stride: abs(stride - repeat * ratio))
        yield (stride * ((line + phase) // repeat) for stride in strides[:8] for phase in range(repeat))
