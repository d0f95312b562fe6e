"""Numbers that look random and depend on nothing but what they are of: how samples are chosen the same in any sharding."""

from __future__ import annotations

import numpy as np


def scrambled(numbers: np.ndarray) -> np.ndarray:
    """Numbers that look random and are never the same for two of those given (splitmix64, Steele et al. 2014): uint64."""
    value = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def sampled(total: int, count: int) -> np.ndarray:
    """Which of `total` examples are in a sample of so many, or of all if there are fewer: bool (total,)."""
    chosen = np.zeros(total, bool)
    chosen[np.argsort(scrambled(np.arange(total)), kind="stable")[:count]] = True
    return chosen
