"""The statistics of every channel's map for one image: its range, its mean, and whether it is constant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class MapStatistics:
    """One value for each channel of one image's maps, over their finite values: (channels,) each.

    low, high, mean: NaN where nothing is finite. share_positive: from 0 to 1.
    dead: whether the map is constant; a map of one unit does not count. nans: how many values are not finite.
    """

    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    share_positive: np.ndarray
    dead: np.ndarray
    nans: np.ndarray

    @classmethod
    def of(cls, maps: np.ndarray) -> MapStatistics:
        """The statistics of maps: float32 (h, w, channels)."""
        values = maps.reshape(-1, maps.shape[2])
        finite = np.isfinite(values)
        counts = finite.sum(axis=0)
        divisor = np.maximum(counts, 1)
        least, greatest, total = values, values, values
        if not finite.all():
            least, greatest, total = (np.where(finite, values, other) for other in (np.inf, -np.inf, 0))
        low = np.where(counts, least.min(axis=0), np.nan).astype(np.float32)
        high = np.where(counts, greatest.max(axis=0), np.nan).astype(np.float32)
        mean = np.where(counts, total.sum(axis=0, dtype=np.float64) / divisor, np.nan)
        positive = ((values > 0) & finite).sum(axis=0) / divisor
        dead = (low == high) & (counts == len(values)) & (len(values) > 1)
        return cls(low, high, mean, positive, dead, len(values) - counts)
