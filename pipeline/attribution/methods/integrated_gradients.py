"""Integrated gradients: the gradients along a straight path from a baseline, summed, times what the image adds to it.

The sum over the pixels is the score of the image less that of the baseline ("completeness"). The gradients of a deep network
jump along the path, most of all near a black image, and evenly spaced points miss that sum by several percent even when there
are hundreds. So the points are chosen as they are needed: a part of the path over which the gradients do not account
for the difference of the two scores is halved, the worst parts first, until the whole sum is right.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.attribution.baselines import baseline
from pipeline.attribution.methods.method import AtPixels, Evidence, Method

_FIRST = 32  # evenly spaced points at first, whole batches of most sizes
_ROUND = 16  # parts halved at a time, whatever the batch, so that the batch does not change the map
_NEAREST = 1e-5  # points closer than this are images that float32 pixels hardly tell apart
_LEAST = 2e-4  # of a difference of scores: in a smaller one, nothing can be told from rounding
_GAP = 0.005  # of the difference of the scores, at most, where the steps suffice


def _explain(evidence: Evidence, layer: str | None) -> np.ndarray:
    maps, gaps = zip(*(_of_image(evidence, number) for number in range(len(evidence.images))), strict=True)
    evidence.gaps[INTEGRATED_GRADIENTS.name] = np.stack(gaps)
    return np.stack(maps)


def _of_image(evidence: Evidence, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The maps of one image, float32 (targets, height, width), and the share of each score that its map misses, (targets,)."""
    image, asked, bands = evidence.images[number], evidence.asked[number], evidence.bands
    start = baseline(image, evidence.settings.baseline, bands)
    added = image - start

    def visit(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores (points, targets), and gradient times what is added, summed over the bands (points, targets, h, w)."""
        images = start + points.astype(np.float32)[:, np.newaxis, np.newaxis, np.newaxis] * added
        scores, gradients = evidence.at(AtPixels(), images, np.broadcast_to(asked, (len(points), *asked.shape)))
        return scores.astype(np.float64), (gradients * added[..., :bands]).sum(axis=-1)

    with np.errstate(invalid="ignore"):  # a score or gradient that is no number makes a map that is none
        return _integrated(visit, evidence.settings.steps)


def _integrated(visit: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The maps along a path and what they miss, as of `_of_image`; visit: the scores and products at some points of it."""
    points = np.linspace(0, 1, max(2, min(_FIRST, steps)))
    scores, products = visit(points)
    slopes = products.sum(axis=(-2, -1), dtype=np.float64)  # of the score along the path
    while len(points) < steps:
        halved = _parts_to_halve(points, scores, slopes)[: steps - len(points)]
        if not len(halved):
            break
        middles = (points[halved] + points[halved + 1]) / 2
        new_scores, new_products = visit(middles)
        order = np.argsort(np.concatenate([points, middles]), kind="stable")
        points = np.concatenate([points, middles])[order]
        scores = np.concatenate([scores, new_scores])[order]
        slopes = np.concatenate([slopes, new_products.sum(axis=(-2, -1), dtype=np.float64)])[order]
        products = np.concatenate([products, new_products])[order]
    gained = scores[-1] - scores[0]
    missed = np.abs(_weights(points) @ slopes - gained) / np.maximum(np.abs(gained), _LEAST)
    return np.einsum("p,pthw->thw", _weights(points), products).astype(np.float32), missed


def _parts_to_halve(points: np.ndarray, scores: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """The parts of the path, by their first points, over which gradients and scores differ most; none where the sum is right."""
    lengths = np.diff(points)[:, np.newaxis]
    gaps = (slopes[:-1] + slopes[1:]) / 2 * lengths - np.diff(scores, axis=0)
    allowed = np.maximum(_GAP * np.abs(scores[-1] - scores[0]), _GAP * _LEAST)
    if (np.abs(gaps.sum(axis=0)) <= allowed).all():
        return np.empty(0, int)
    worst = np.abs(gaps / allowed).max(axis=1)
    order = np.argsort(-worst, kind="stable")
    return order[lengths[order, 0] > _NEAREST][:_ROUND]


def _weights(points: np.ndarray) -> np.ndarray:
    """The share of the path that each point stands for, by the trapezoidal rule."""
    lengths = np.diff(points)
    return (np.append(lengths, 0) + np.insert(lengths, 0, 0)) / 2


INTEGRATED_GRADIENTS = Method(
    name="integrated_gradients",
    title="integrated gradients",
    paper="Sundararajan et al., 2017",
    looks_at="pixels",
    draws="signed",
    needs=lambda layer: (AtPixels(),),
    explain=_explain,
)
