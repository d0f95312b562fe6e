"""Occlusion: what the score loses as a square of the baseline moves over the image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from pipeline.attribution.methods.masking import scores_behind
from pipeline.attribution.methods.method import Evidence, Method


def _explain(evidence: Evidence, layer: str | None) -> np.ndarray:
    count, height, width = evidence.images.shape[:3]
    squares = [(y, x) for y in _spans(height, evidence.settings.patch) for x in _spans(width, evidence.settings.patch)]
    behind = scores_behind(evidence, _masks(count, height, width, squares)).reshape(len(squares), count, -1)
    maps, times = np.zeros((*evidence.score.shape, height, width)), np.zeros((height, width))
    for (y, x), scores in zip(squares, behind, strict=True):
        maps[..., y, x] += (evidence.score - scores)[..., np.newaxis, np.newaxis]
        times[y, x] += 1
    return (maps / times).astype(np.float32)


def _masks(count: int, height: int, width: int, squares: Iterable[tuple[slice, slice]]) -> Iterator[tuple[int, np.ndarray]]:
    """Each square for each of so many images."""
    for y, x in squares:
        mask = np.ones((height, width), np.float32)
        mask[y, x] = 0
        yield from ((number, mask) for number in range(count))


def _spans(side: int, share: float) -> list[slice]:
    """The positions of the square on one axis: in steps of half its side, the last at the edge."""
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
