"""The regular pattern behind a map's edges: edge = stride * floor((row + phase) / repeat) - offset, clipped.

Convolutions and pooling make it with repeat 1, upsampling and transposed convolutions with more. A guess
saves probes and decides nothing: every edge it names is proved, and where none fits, edges are bisected.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_REPEATS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, eq=False)
class Guess:
    """Edges of a line of units that fit the brackets.

    edges: int (units,), in pixels, for the middle of the offsets that fit.
    steps: int (units,): the edges before offset and clipping; edge = clip(steps - offset).
    offsets: the smallest and the largest offset that fit.
    """

    edges: np.ndarray
    steps: np.ndarray
    offsets: tuple[int, int]

    @property
    def sure(self) -> bool:
        return self.offsets[0] == self.offsets[1]


def fit(low: np.ndarray, high: np.ndarray, length: int) -> Guess | None:
    """The simplest pattern within the brackets of a line of units, or None.

    Args:
        low, high: int (units,): brackets, rising along the line; low 0 also holds for edges clipped at 0.
        length: pixels along the axis; a high of `length` says nothing.
    """
    units = np.arange(len(low))
    bounded = low > 0
    known = high < length
    if (low > high).any() or not known.any():
        return None
    for steps in _patterns(units, length):
        least = int((steps - high)[known].max())
        most = int((steps - low)[bounded].min()) if bounded.any() else int(steps[-1])
        # Beyond this offset every edge is clipped to 0: all such offsets are one.
        most = min(most, int(steps[known][-1]))
        least = min(least, most) if not bounded.any() else least
        if least <= most:
            return Guess(np.clip(steps - (least + most) // 2, 0, length), steps, (least, most))
    return None


def _patterns(units: np.ndarray, length: int):
    """Candidate steps, simplest first; the strides next to pixels per unit come first."""
    ratio = length / len(units)
    for repeat in _REPEATS:
        if repeat > max(1, len(units) // 2):
            return
        strides = sorted(range(1, int(np.ceil(repeat * ratio)) + 2), key=lambda stride: abs(stride - repeat * ratio))
        for stride in strides[:8]:
            for phase in range(repeat):
                yield stride * ((units + phase) // repeat)
