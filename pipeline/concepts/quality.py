"""How clear a channel's winners are, whether they fall into two, and which other channel has the like of them.

The measures of semanticlens (Dreyer et al. 2025), from embeddings of the crops: of each winner a vector of length 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def clarity(vectors: np.ndarray) -> float:
    """The mean cosine of two different winners: float64 (winners, width) to -1..1; NaN for fewer than two."""
    count, total = len(vectors), vectors.sum(axis=0)
    return float((total @ total - (vectors**2).sum()) / (count * (count - 1))) if count > 1 else np.nan


def polysemanticity(vectors: np.ndarray) -> float:
    """One less the cosine of the means of two clusters of the winners: 0 to 2; NaN for fewer than three.

    The clusters are Ward's, which need no start, so that the same winners always fall into the same two.
    """
    if len(vectors) < 3:
        return np.nan
    from scipy.cluster.hierarchy import fcluster, linkage  # which takes long to import

    first = fcluster(linkage(vectors, "ward"), 2, "maxclust") == 1
    if first.all():  # the winners are all the same
        return 0.0
    means = [vectors[group].mean(axis=0) for group in (first, ~first)]
    return float(1 - _cosine(np.array(means))[0, 1])


def redundancy(winners: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """For each channel the other one of the layer whose winners are most like its own, in the mean.

    Args:
        winners: the vectors of each channel's winners.

    Returns: float64 (channels,), the cosine of the two means, NaN where there is none; int64 (channels,), its position, or -1.
    """
    known = np.array([len(vectors) > 0 for vectors in winners])
    nearest, values = np.full(len(winners), -1), np.full(len(winners), np.nan)
    if known.sum() > 1:
        means = np.array([vectors.mean(axis=0) for vectors in winners if len(vectors)])
        cosines = _cosine(means).round(9)
        np.fill_diagonal(cosines, -np.inf)
        values[known], nearest[known] = cosines.max(axis=1), np.flatnonzero(known)[cosines.argmax(axis=1)]
    return values, nearest


def _cosine(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norms > 0, norms, 1)
    cosines: np.ndarray = unit @ unit.T
    return cosines
