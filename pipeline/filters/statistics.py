"""The statistics of every filter of a kernel: its norm, its mean, its share of weights near zero, its twin and its inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.models.network import Kernel

NEAR_ZERO = 0.01  # of the kernel's largest weight
STRONGEST = 5  # inputs of a filter that are named
_ROWS = 512  # filters that are compared with all others at a time


@dataclass(frozen=True, eq=False)
class FilterStatistics:
    """What is known of each filter: (filters,) each, if nothing else is said.

    norm: the root of the sum of the squared weights. mean: of the weights.
    share_near_zero: of the weights, those whose magnitude is below a hundredth of the kernel's largest.
    twin: the other filter with the largest cosine similarity; -1 if a filter is zero or alone.
    twin_cosine: the cosine between the two, from -1 to 1; NaN where there is no twin.
    strongest_inputs: for each filter the inputs with the largest weights, the root of the sum of their squares, by their
        number in the layer's input; and the sum of these weights, whose sign says whether the input raises the response.
        Two lists of lists of up to STRONGEST.
    """

    norm: np.ndarray
    mean: np.ndarray
    share_near_zero: np.ndarray
    twin: np.ndarray
    twin_cosine: np.ndarray
    strongest_inputs: tuple[list[list[int]], list[list[float]]]

    @classmethod
    def of(cls, kernel: Kernel) -> FilterStatistics:
        """The statistics of a kernel's filters. Filters of different groups are compared weight by weight."""
        weights = kernel.weights.reshape(-1, kernel.filters).T.astype(np.float64)
        norm = np.linalg.norm(weights, axis=1)
        small = np.abs(weights) < NEAR_ZERO * np.abs(weights).max()
        twin, cosine = _twins(weights, norm)
        # A kernel that is all zeros has no weight below a share of its largest, yet all are near zero.
        return cls(norm, weights.mean(axis=1), (small | (weights == 0)).mean(axis=1), twin, cosine, _inputs(kernel))


def _inputs(kernel: Kernel) -> tuple[list[list[int]], list[list[float]]]:
    flat = kernel.weights.reshape(-1, kernel.inputs, kernel.filters).astype(np.float64)
    sizes, sums = np.sqrt((flat**2).sum(axis=0)), flat.sum(axis=0)
    order = np.argsort(-sizes, axis=0, kind="stable")[:STRONGEST]
    numbers = [[kernel.first_input(filter) + int(index) for index in order[:, filter]] for filter in range(kernel.filters)]
    return numbers, np.take_along_axis(sums, order, axis=0).T.tolist()


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
