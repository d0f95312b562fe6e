"""Matching: which channels of two scans respond alike to the same images, one for one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.activations.distribution import Distribution
from pipeline.activations.part_file import WHOLE, SavedPart, read_part
from pipeline.errors import ConvscopeError
from pipeline.store.places import Place

_LEAST = 3  # images that a correlation takes


@dataclass(frozen=True)
class Matching:
    """Which channel of a second job answers to each channel of a first.

    how: by what they were matched, in words.
    pairs: by layer, the position of the second's channel for the position of the first's, and their correlation; empty
        where channels are matched by their numbers.
    """

    how: str
    pairs: dict[str, dict[int, tuple[int, float]]] = field(default_factory=dict)


def match_channels(first: Place, second: Place) -> Matching:
    """Match the channels of each layer that two jobs share by the correlation of their responses to the same images, so that
    the sum of the correlations is largest (Li et al. 2016, "Convergent learning"; the Hungarian method).

    A retrained network may permute its channels: their numbers then mean nothing. The images are those of the first scan's
    sample that the second has too. Where the jobs have other data, or no state of a scan, numbers are all there is.
    """
    try:
        a, b = (read_part(folder / WHOLE) for folder in (first, second))
    except (FileNotFoundError, ConvscopeError):
        return Matching("by number: a job keeps no state of its scan (scan.part) that this version reads")
    if a.provenance.data != b.provenance.data:
        return Matching("by number: the jobs ran on different data")
    ours, theirs = a.part.of(Distribution), b.part.of(Distribution)
    pairs, images = {}, 0
    for layer in ours:
        if layer in theirs:
            shared = _shared(ours[layer], theirs[layer])
            images = len(shared[0])
            if images >= _LEAST:
                pairs[layer] = _assign(*shared, _same(a, b, layer))
    if not pairs:
        return Matching(f"by number: the jobs have fewer than {_LEAST} images in common")
    return Matching(f"by the correlation of their responses to {images:,} images that both have seen", pairs)


def _shared(first: Distribution, second: Distribution) -> tuple[np.ndarray, np.ndarray]:
    """Both samples' responses to the images of both, in one order, as `Distribution.standardized` gives them."""
    _, ours, theirs = np.intersect1d(first.order, second.order, return_indices=True)
    return (
        replace(first, order=first.order[ours], sample=first.sample[ours]).standardized(),
        replace(second, order=second.order[theirs], sample=second.sample[theirs]).standardized(),
    )


def _same(first: SavedPart, second: SavedPart, layer: str) -> bool:
    """Whether position means the same channel in both scans of a layer."""
    names = "activations.channels"
    same = first.provenance.settings.get(names) == second.provenance.settings.get(names)
    return same and first.part.channels[layer] == second.part.channels[layer]


def _assign(first: np.ndarray, second: np.ndarray, numbered: bool) -> dict[int, tuple[int, float]]:
    """{channel of the first: (channel of the second, correlation)} of standardized responses, (images, channels) each.

    Among equals a channel's own number wins. Channels that never vary are left out.
    """
    from scipy.optimize import linear_sum_assignment

    correlations = (first.T @ second).round(9).clip(-1, 1)
    worth = correlations + (1e-9 * np.eye(*correlations.shape) if numbered else 0)
    rows, columns = linear_sum_assignment(worth, maximize=True)
    varied = np.any(first != 0, axis=0)[rows] & np.any(second != 0, axis=0)[columns]
    return {int(a): (int(b), float(correlations[a, b])) for a, b in zip(rows[varied], columns[varied], strict=True)}
