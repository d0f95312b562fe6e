"""Statistics: what the responses of every channel were like over the whole data set, summed exactly.

Sums of floats depend on their order; these do not. Every addend is cut into pieces that are multiples of
fixed powers of two, so few bits wide that a float64 holds their sums without rounding (the pre-rounding of
Demmel and Nguyen, "Fast Reproducible Floating-Point Summation", 2013). Any sharding gives the same bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

_WIDTH = 20  # bits a piece: 2**33 addends fit beside it in a float64
_QUANTA = np.arange(240, -320, -_WIDTH)  # exponents of the pieces' units; float32 values and their squares lie within


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over the responses (spatial maxima) of every channel. Only finite responses count.

    seen, positive: int64 (channels,): responses, and those above zero.
    low, high: float32 (channels,): the smallest and the largest; inf and -inf while there are none.
    sums, squares: float64 (pieces, channels): exact sums, in pieces.
    """

    seen: np.ndarray
    positive: np.ndarray
    low: np.ndarray
    high: np.ndarray
    sums: np.ndarray
    squares: np.ndarray

    @classmethod
    def empty(cls, channels: int) -> Statistics:
        """Statistics of nothing."""
        counts = np.zeros(channels, np.int64)
        pieces = np.zeros((len(_QUANTA), channels))
        infinite = np.full(channels, np.inf, np.float32)
        return cls(counts, counts, infinite, -infinite, pieces, pieces)

    def update(self, maxima: np.ndarray) -> Statistics:
        """The statistics after some more responses: float32 (n, channels); those that are not finite are passed over."""
        maxima = maxima + np.float32(0)  # makes -0.0 a 0.0: equal extremes have equal bytes
        finite = np.isfinite(maxima)
        values = np.where(finite, maxima, 0).astype(np.float64)
        return Statistics(
            self.seen + finite.sum(axis=0),
            self.positive + (values > 0).sum(axis=0),
            np.minimum(self.low, np.where(finite, maxima, np.inf).min(axis=0, initial=np.inf)),
            np.maximum(self.high, np.where(finite, maxima, -np.inf).max(axis=0, initial=-np.inf)),
            _added(self.sums, values),
            _added(self.squares, values * values),
        )

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of both data sets together."""
        return Statistics(
            self.seen + other.seen,
            self.positive + other.positive,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.sums + other.sums,
            self.squares + other.squares,
        )

    @property
    def mean(self) -> np.ndarray:
        """float64 (channels,); NaN where nothing was seen."""
        totals = zip(_exact(self.sums), self.seen.tolist(), strict=True)
        return np.array([float(total / n) if n else math.nan for total, n in totals])

    @property
    def std(self) -> np.ndarray:
        """float64 (channels,): of the population; NaN where nothing was seen."""
        # In fractions, a small deviation is not lost in the difference of two large squares.
        totals = zip(_exact(self.sums), _exact(self.squares), self.seen.tolist(), strict=True)
        return np.array([math.sqrt(squares / n - (total / n) ** 2) if n else math.nan for total, squares, n in totals])

    @property
    def dead(self) -> np.ndarray:
        """bool (channels,): every response was exactly zero, as of a rectifier that never opens."""
        return (self.seen > 0) & (self.low == 0) & (self.high == 0)


def _exact(pieces: np.ndarray) -> list[Fraction]:
    """The sums that some pieces, float64 (pieces, channels), stand for."""
    return [sum((Fraction(piece) for piece in channel if piece), Fraction()) for channel in pieces.T.tolist()]


def _added(sums: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The sums, float64 (pieces, channels), after some more addends: float64 (n, channels), cut into exact pieces."""
    largest = np.abs(values).max(initial=0.0)
    if largest == 0:
        return sums
    sums, rest, piece = sums.copy(), values.copy(), np.empty_like(values)
    # Below half a unit everything rounds to zero: pieces of larger units can be left out.
    first = int(np.searchsorted(-_QUANTA, -math.frexp(largest)[1]))
    for place in range(first, len(_QUANTA)):
        # Adding and taking away 1.5 * 2**52 units rounds to whole units.
        shift = math.ldexp(1.5, int(_QUANTA[place]) + 52)
        np.add(rest, shift, out=piece)
        piece -= shift
        sums[place] += piece.sum(axis=0)
        rest -= piece
        if not rest.any():
            break
    return sums
