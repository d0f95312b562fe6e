"""TCAV: how much a class depends on a concept, and whether more than on sets of random images (Kim et al. 2018)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

SIGNIFICANT = 0.05


@dataclass(frozen=True, eq=False)
class ScoreTest:
    """A concept's scores for a class, and random sets' beside them.

    scores: float64 (runs,): of each run's vector, the share of the class's images whose evidence rises along it.
    random: float64 (runs,): of a random set's vector in the place of the concept's, each run with a set of its own.
    p: of Welch's two-sided t-test of the two. corrected: by Bonferroni, for all tests of the job.
    chance: of the random sets, each put in the concept's place for all runs, and of the concept: the share whose t is as large.
    """

    scores: np.ndarray
    random: np.ndarray
    p: float
    corrected: float
    chance: float

    @property
    def significant(self) -> bool:
        """Whether the class depends on the concept, more than it does on any images."""
        return self.corrected < SIGNIFICANT and self.chance < SIGNIFICANT


def tcav_scores(gradients: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """The share of images whose evidence rises along each vector: float (images, channels) and (…, channels) to float64 (…,).

    Args:
        gradients: of the evidence by the layer, summed over its positions: what moving all of them alike would change.
    """
    along = np.moveaxis(vectors, -1, 0).reshape(vectors.shape[-1], -1)
    rises = gradients.astype(np.float64) @ along > 0
    scores = np.where(np.isnan(along).any(axis=0), np.nan, rises.mean(axis=0))
    return np.asarray(scores.reshape(vectors.shape[:-1]))


def compare_scores(gradients: np.ndarray, concept: np.ndarray, random: np.ndarray, tests: int) -> ScoreTest:
    """Compare a concept's vectors with those of random sets.

    Args:
        gradients: float32 (images of the class, channels). concept: float64 (runs, channels).
        random: float64 (sets, runs, channels), as many sets as runs: of set i against the counterexamples of each run.
        tests: how many are made in the job.
    """
    scores, others = tcav_scores(gradients, concept), tcav_scores(gradients, random)
    diagonal = np.diagonal(others)
    t, p = welch(scores, diagonal)
    runs = range(len(diagonal))
    without = [np.delete(np.arange(len(diagonal)), number) for number in runs]
    at_random = [abs(welch(others[number, rest], diagonal[rest])[0]) for number, rest in zip(runs, without, strict=True)]
    chance = (1 + sum(other >= abs(t) for other in at_random)) / (1 + len(at_random))
    return ScoreTest(scores, diagonal, p, min(1.0, p * tests), chance)


def welch(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """t and p of Welch's two-sided test; of samples that do not vary, 0 and 1 where they are equal, else infinity and 0."""
    from scipy.stats import ttest_ind

    if np.ptp(first) == 0 and np.ptp(second) == 0:
        difference = float(first[0] - second[0])
        return (0.0, 1.0) if difference == 0 else (float(np.copysign(np.inf, difference)), 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of scipy, where one of the samples hardly varies
        result = ttest_ind(first, second, equal_var=False)
    return float(result.statistic), float(result.pvalue)
