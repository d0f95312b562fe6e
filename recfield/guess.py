"""The regular pattern behind a map's edges: edge = max(floor, stride * ((row + phase) // repeat) - offset).

Convolutions and pooling make it with repeat 1, upsampling and transposed convolutions with more. The floor is
where the image ends, or where unpadded layers stop short of its end. A guess saves probes and
cannot make the result wrong: every edge it predicts is proved, and if none fits, edges are bisected.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

_REPEATS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, eq=False)
class Guess:
    """Edges of a line of units that fit the brackets.

    edges: int (units,), in pixels, for the middle of the offsets that fit.
    steps: int (units,): the edges before offset and floor; edge = max(floor, steps - offset).
    offsets, floors: the smallest and the largest that fit.
    rival: the edges of another pattern that fits as well, if there is one.
    """

    edges: np.ndarray
    steps: np.ndarray
    offsets: tuple[int, int]
    floors: tuple[int, int]
    rival: np.ndarray | None = None

    @property
    def on_unknown_floor(self) -> bool:
        """Whether some edge lies on a floor that is not known to the pixel."""
        return self.floors[0] < self.floors[1] and int(self.steps[0]) - self.offsets[0] < self.floors[0]

    @property
    def sure(self) -> bool:
        return self.offsets[0] == self.offsets[1] and not self.on_unknown_floor and self.rival is None


def fit(low: np.ndarray, high: np.ndarray, length: int) -> Guess | None:
    """The simplest pattern within the brackets of a line of units, or None.

    Args:
        low, high: int (units,): brackets, rising along the line.
        length: pixels along the axis; a high of `length` says nothing.
    """
    known = high < length
    if (low > high).any() or not known.any():
        return None
    floors = int(low[known].min()), int(high[known].min())
    above = low > floors[1]
    for patterns in _patterns(len(low), length):
        best: Guess | None = None
        for steps in patterns:
            least = int((steps - high)[known].max())
            # Beyond the last unit's offset every edge lies on the floor, so all such offsets are equivalent.
            most = int(steps[known][-1]) - floors[0]
            if above.any():
                most = min(most, int((steps - low)[above].min()))
            else:
                least = min(least, most)
            if least > most:
                continue
            edges = np.clip(steps - (least + most) // 2, floors[0], length)
            if best is None:
                best = Guess(edges, steps, (least, most), floors)
            elif (edges != best.edges)[known].any():
                # Edges of unknown units cannot distinguish them.
                return replace(best, rival=np.where(known, edges, best.edges))
        if best is not None:
            return best
    return None


def _patterns(units: int, length: int) -> Iterator[Iterator[np.ndarray]]:
    """Candidate steps, by how often they repeat; the strides next to pixels per unit come first.

    Unpadded layers make maps smaller than their stride says, and strides are mostly powers of two: such a stride
    comes before others that are a fifth nearer.
    """
    ratio = length / units
    line = np.arange(units)
    for repeat in _REPEATS:
        if repeat > max(1, units // 2):
            return
        nearest = repeat * ratio

        def distance(stride: int, nearest: float = nearest) -> float:
            return abs(stride - nearest) / nearest + 0.2 * (stride & (stride - 1) > 0)

        strides = sorted(range(1, int(np.ceil(nearest)) + 2), key=distance)
        yield (stride * ((line + phase) // repeat) for stride in strides[:8] for phase in range(repeat))
