"""Occlusion: what the score loses as a square of the baseline moves over the image."""

from __future__ import annotations

import numpy as np

from pipeline.attribution.methods.masking import scores_behind
from pipeline.attribution.methods.method import Evidence, Method


def _explain(evidence: Evidence, layer: str | None) -> np.ndarray:
    height, width = evidence.images.shape[1:3]
    squares = [(y, x) for y in _spans(height, evidence.settings.patch) for x in _spans(width, evidence.settings.patch)]
    covers = np.zeros((len(squares), height, width), bool)
    for cover, (y, x) in zip(covers, squares, strict=True):
        cover[y, x] = True
    times = covers.sum(axis=0)
    maps = []
    for number, score in enumerate(evidence.score):
        lost = score - scores_behind(evidence, number, ~covers)
        maps.append(np.einsum("nt,nhw->thw", lost, covers) / times)
    return np.stack(maps).astype(np.float32)


def _spans(side: int, share: float) -> list[slice]:
    """Where the square stands on one axis: in steps of half its side, the last at the edge."""
    size = max(1, round(side * share))
    starts = dict.fromkeys([*range(0, side - size, max(1, size // 2)), side - size])
    return [slice(start, start + size) for start in starts]


OCCLUSION = Method(
    name="occlusion",
    title="occlusion",
    paper="Zeiler and Fergus, 2014",
    looks_at="pixels",
    draws="signed",
    needs=lambda layer: (),
    explain=_explain,
)
