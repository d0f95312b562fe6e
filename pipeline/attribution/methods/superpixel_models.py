"""KernelSHAP and LIME: linear models of the score, in which each superpixel is there or not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import comb

import numpy as np

from pipeline.attribution.methods.masking import scores_behind, superpixels
from pipeline.attribution.methods.method import Evidence, Method

_SAMPLES = 500
_WIDTH = 0.25  # of LIME's kernel, in cosine distance
_RIDGE = 1.0


def shapley_coalitions(count: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """The coalitions to try, bool (n, count), True where a superpixel is kept, and their Shapley kernel weights, float64 (n,).

    All but the empty and the full one where those are no more than `samples`; else so many drawn by their weights, each with its
    complement, which makes the estimate steadier.
    """
    sizes = np.arange(1, count)
    kernel = (count - 1) / (sizes * (count - sizes))  # of all coalitions of a size together
    if count < 2:
        return np.zeros((0, count), bool), np.zeros(0)
    if count <= 30 and 2**count - 2 <= samples:
        rows = [np.isin(np.arange(count), some) for size in range(1, count) for some in combinations(range(count), size)]
        weight_of_size = kernel / np.array([comb(count, size) for size in sizes])
        return np.stack(rows), weight_of_size[np.stack(rows).sum(axis=1) - 1]
    random = np.random.default_rng(0)
    drawn = random.choice(sizes, -(-samples // 2), p=kernel / kernel.sum())
    half = np.stack([random.permutation(count) < size for size in drawn])
    return np.concatenate([half, ~half]), np.ones(2 * len(half))


def shapley_values(present: np.ndarray, weights: np.ndarray, scores: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The contribution of each superpixel: float64 (superpixels, targets); they sum to the difference of the two ends.

    there, weights: of `shapley_coalitions`. scores: (n, targets). ends: (2, targets), with no superpixel and with all.
    """
    gained = ends[1] - ends[0]
    if present.shape[1] == 1:
        return gained[np.newaxis]
    rows = present.astype(np.float64)
    roots = np.sqrt(weights)[:, np.newaxis]
    left = roots * (rows[:, :-1] - rows[:, -1:])
    values = np.linalg.lstsq(left, roots * (scores - ends[0] - rows[:, -1:] * gained), rcond=None)[0]
    return np.concatenate([values, (gained - values.sum(axis=0))[np.newaxis]])


def _shap(evidence: Evidence, number: int, segments: np.ndarray) -> np.ndarray:
    count = int(segments.max()) + 1
    present, weights = shapley_coalitions(count, evidence.settings.samples or _SAMPLES)
    both = np.concatenate([np.zeros((1, count), bool), np.ones((1, count), bool), present])
    scores = scores_behind(evidence, ((number, row[segments]) for row in both))
    return shapley_values(present, weights, scores[2:], scores[:2])


def _lime(evidence: Evidence, number: int, segments: np.ndarray) -> np.ndarray:
    count, samples = int(segments.max()) + 1, evidence.settings.samples or _SAMPLES
    present = np.random.default_rng(0).random((samples, count)) < 0.5
    present[0] = True
    scores = scores_behind(evidence, ((number, row[segments]) for row in present))
    return lime_coefficients(present, scores)


def lime_coefficients(present: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Ridge regression of the scores (n, targets), rows nearer to the whole image weigh more: (superpixels, targets)."""
    distances = 1 - np.sqrt(present.mean(axis=1))
    weights = np.exp(-(distances**2) / _WIDTH**2)[:, np.newaxis]
    rows = present.astype(np.float64)
    rows, centred = (values - (weights * values).sum(axis=0) / weights.sum() for values in (rows, scores))
    return np.linalg.solve(rows.T @ (weights * rows) + _RIDGE * np.eye(rows.shape[1]), rows.T @ (weights * centred))


def _method(name: str, title: str, paper: str, values: Callable[[Evidence, int, np.ndarray], np.ndarray]) -> Method:
    def explain(evidence: Evidence, layer: str | None) -> np.ndarray:
        maps = []
        for number in range(len(evidence.images)):
            segments = superpixels(evidence, number)
            maps.append(np.moveaxis(values(evidence, number, segments)[segments], -1, 0))
        return np.stack(maps).astype(np.float32)

    return Method(name, title, paper, "pixels", "signed", lambda layer: (), explain)


KERNEL_SHAP = _method("kernelshap", "KernelSHAP", "Lundberg and Lee, 2017", _shap)
LIME = _method("lime", "LIME", "Ribeiro et al., 2016", _lime)
