"""The statistics of every filter of a kernel: its norm, its mean, its share of weights near zero, and its twin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.models.network import Kernel

NEAR_ZERO = 0.01  # of the kernel's largest weight
_ROWS = 512  # filters that are compared with all others at a time


@dataclass(frozen=True, eq=False)
class FilterStatistics:
    """One value for each filter, (filters,) each.

    norm: the root of the sum of the squared weights. mean: of the weights.
    share_near_zero: of the weights, those whose magnitude is below a hundredth of the kernel's largest.
    twin: the other filter with the largest cosine similarity; -1 if a filter is zero or alone.
    twin_cosine: the cosine between the two, from -1 to 1; NaN where there is no twin.
    """

    norm: np.ndarray
    mean: np.ndarray
    share_near_zero: np.ndarray
    twin: np.ndarray
    twin_cosine: np.ndarray

    @classmethod
    def of(cls, kernel: Kernel) -> FilterStatistics:
        """The statistics of a kernel's filters. Filters of different groups are compared weight by weight."""
        weights = kernel.weights.reshape(-1, kernel.filters).T.astype(np.float64)
        norm = np.linalg.norm(weights, axis=1)
        small = np.abs(weights) < NEAR_ZERO * np.abs(weights).max()
        twin, cosine = _twins(weights, norm)
        # A kernel that is all zeros has no weight below a share of its largest, yet all are near zero.
        return cls(norm, weights.mean(axis=1), (small | (weights == 0)).mean(axis=1), twin, cosine)


def _twins(weights: np.ndarray, norm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count = len(weights)
    twin, cosine = np.full(count, -1), np.full(count, np.nan)
    able = np.flatnonzero((norm > 0) & np.isfinite(norm))
    directions = (weights[able] / norm[able, np.newaxis]).astype(np.float32)
    for first in range(0, len(able) if len(able) > 1 else 0, _ROWS):
        rows = slice(first, first + _ROWS)
        cosines = directions[rows] @ directions.T
        positions = np.arange(len(cosines))
        cosines[positions, first + positions] = -np.inf  # no filter is its own twin
        best = cosines.argmax(axis=1)
        twin[able[rows]] = able[best]
        cosine[able[rows]] = np.clip(cosines[positions, best], -1, 1)
    return twin, cosine
