"""Statistics: what the responses of every channel were like over the whole data set, summed exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import exact_sums
from pipeline.activations.member import Member, Responses
from pipeline.activations.plan import ScanPlan


@dataclass(frozen=True, eq=False)
class Statistics(Member):
    """Sums over the responses (spatial maxima) of every channel. Only finite responses count.

    seen, positive: int64 (channels,): responses, and those above zero.
    low, high: float32 (channels,): the smallest and the largest; inf and -inf while there are none.
    sums, squares: float64 (pieces, channels): exact sums; see `pipeline.exact_sums`.
    """

    NAME = "statistics"

    seen: np.ndarray
    positive: np.ndarray
    low: np.ndarray
    high: np.ndarray
    sums: np.ndarray
    squares: np.ndarray

    @classmethod
    def empty(cls, channels: int, plan: ScanPlan | None = None) -> Statistics:
        """Statistics of nothing; every plan keeps them."""
        counts = np.zeros(channels, np.int64)
        pieces = np.zeros((exact_sums.PIECES, channels))
        infinite = np.full(channels, np.inf, np.float32)
        return cls(counts, counts, infinite, -infinite, pieces, pieces)

    def update(self, responses: Responses) -> Statistics:
        maxima = responses.maxima + np.float32(0)  # makes -0.0 a 0.0: equal extremes have equal bytes
        finite = np.isfinite(maxima)
        values = np.where(finite, maxima, 0).astype(np.float64)
        return Statistics(
            self.seen + finite.sum(axis=0),
            self.positive + (values > 0).sum(axis=0),
            np.minimum(self.low, np.where(finite, maxima, np.inf).min(axis=0, initial=np.inf)),
            np.maximum(self.high, np.where(finite, maxima, -np.inf).max(axis=0, initial=-np.inf)),
            exact_sums.add(self.sums, values),
            exact_sums.add(self.squares, values * values),
        )

    def merge(self, other: Statistics) -> Statistics:
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
        totals = zip(exact_sums.total(self.sums), self.seen.tolist(), strict=True)
        return np.array([float(total / n) if n else math.nan for total, n in totals])

    @property
    def std(self) -> np.ndarray:
        """The standard deviation of the population: float64 (channels,); NaN where nothing was seen.

        Raises: ValueError, for sums that no responses have.
        """
        # In fractions, a small deviation is not lost in the difference of two large squares.
        totals = list(zip(exact_sums.total(self.sums), exact_sums.total(self.squares), self.seen.tolist(), strict=True))
        if any(total or squares for total, squares, n in totals if not n):
            raise ValueError("it has sums of nothing")
        return np.array([math.sqrt(squares / n - (total / n) ** 2) if n else math.nan for total, squares, n in totals])

    @property
    def dead(self) -> np.ndarray:
        """bool (channels,): every response was exactly zero, as of a ReLU that never fires."""
        return (self.seen > 0) & (self.low == 0) & (self.high == 0)

    def columns(self, channels: np.ndarray) -> dict[str, Sequence[Any] | np.ndarray]:
        return {
            "seen": self.seen,
            "mean": self.mean,
            "std": self.std,
            "max": self.high,
            "share_positive": self.positive / np.maximum(self.seen, 1),
            "dead": self.dead,
            "always_negative": (self.seen > 0) & (self.high < 0),
        }
