"""RISE: how much higher the score is than its mean where random masks leave a pixel."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from pipeline.attribution.methods.masking import scores_behind
from pipeline.attribution.methods.method import Evidence, Method

_MASKS, _CELLS, _LEFT = 1000, 7, 0.5
_AT_A_TIME = 64  # masks that are summed


def masks(count: int, height: int, width: int) -> Iterator[np.ndarray]:
    """Random masks, float32 (height, width) from 0 to 1: coarse grids, enlarged and shifted; always the same."""
    import cv2

    random = np.random.default_rng(0)
    down, across = -(-height // _CELLS), -(-width // _CELLS)
    for _ in range(count):
        grid = (random.random((_CELLS + 1, _CELLS + 1)) < _LEFT).astype(np.float32)
        large = cv2.resize(grid, ((_CELLS + 1) * across, (_CELLS + 1) * down), interpolation=cv2.INTER_LINEAR)
        top, left = random.integers(0, down), random.integers(0, across)
        yield large[top : top + height, left : left + width]


def _explain(evidence: Evidence, layer: str | None) -> np.ndarray:
    (images, *size), count = evidence.images.shape[:3], evidence.settings.samples or _MASKS
    masked = ((number, mask) for mask in masks(count, *size) for number in range(images))
    scores = scores_behind(evidence, masked).reshape(count, -1)
    # Without the mean, the sum would say most of all how often each pixel was left.
    scores -= scores.mean(axis=0)
    summed, drawn = np.zeros((scores.shape[1], size[0] * size[1])), masks(count, *size)
    for start in range(0, count, _AT_A_TIME):
        several = np.stack(list(islice(drawn, _AT_A_TIME)), dtype=np.float64).reshape(-1, summed.shape[1])
        summed += scores[start : start + _AT_A_TIME].T @ several
    return (summed / (count * _LEFT)).reshape(*evidence.score.shape, *size).astype(np.float32)


RISE = Method(
    name="rise",
    title="RISE",
    paper="Petsiuk et al., 2018",
    looks_at="pixels",
    draws="signed",
    needs=lambda layer: (),
    explain=_explain,
)
