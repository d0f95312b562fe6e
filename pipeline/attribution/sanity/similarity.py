"""The sanity check of Adebayo et al., 2018: weights made random layer by layer from the top; does the map notice?

A map that stays the same shows something of the image, not what the network has learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from skimage.metrics import structural_similarity

from pipeline.attribution import heat
from pipeline.attribution.methods import Explained, Key
from pipeline.attribution.sanity.weight_randomisation import Cascade
from pipeline.drawing import plots
from pipeline.sources.picking import Picked
from pipeline.store.tables import INDEX

_LEAST_SIDE = 7  # of the window in which structure is compared


class Similarities:
    """Collects how like the first one the maps of random networks are, batch by batch."""

    def __init__(self, cascade: Cascade) -> None:
        self._cascade = cascade
        self.columns: dict[str, list[Any]] = {field.name: [] for field in INDEX["randomisation"]}

    def add(
        self,
        several: Sequence[Picked],
        images: np.ndarray,
        explained: Explained,
        maps: Mapping[Key, np.ndarray],
        chosen: Sequence[Sequence[int]],
        map_of: Callable[[Key, Explained], np.ndarray],
    ) -> None:
        """Randomise, and compare with the maps of the network as it is; arguments as for `Curves.add`."""
        for step, layer, now in self._cascade.steps(images, explained.classes):
            for key, first in maps.items():
                values = map_of(key, now)
                for place, one in enumerate(several):
                    for slot in chosen[place]:
                        before, after = heat.energy(first[place, slot]), heat.energy(values[place, slot])
                        row = (one.example, one.image.key, *key, int(explained.classes[place, slot]), step, layer)
                        likeness = (rank_correlation(before, after), structure(before, after))
                        for name, value in zip(self.columns, (*row, *likeness), strict=True):
                            self.columns[name].append(value)

    def plot(self) -> bytes:
        """The mean rank correlation of each method as a PNG."""
        return plots.similarities(self.columns)


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's: 1 for the same order of places, 0 for none in common; 0 where a map is the same everywhere."""
    first, second = _ranks(one), _ranks(other)
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def structure(one: np.ndarray, other: np.ndarray) -> float:
    """Structural similarity (Wang et al., 2004) of two maps, each scaled to its peak."""
    scaled = [values / (float(values.max()) or 1.0) for values in (one, other)]
    if min(one.shape) < _LEAST_SIDE:
        factor = -(-_LEAST_SIDE // min(one.shape))
        scaled = [values.repeat(factor, axis=0).repeat(factor, axis=1) for values in scaled]
    return float(structural_similarity(*scaled, data_range=1.0))


def _ranks(values: np.ndarray) -> np.ndarray:
    """The place of each value among all, the mean place among equals."""
    _, inverse, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]
