"""The sanity check of Adebayo et al., 2018: weights made random layer by layer from the top; does the map notice?

A map that stays the same shows something of the image, not what the network has learned.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.attribution import heat
from pipeline.attribution.explainer import Explained, Explainer
from pipeline.attribution.sanity.weight_randomisation import WeightRandomisation
from pipeline.drawing import plots
from pipeline.store.columns import append_row
from pipeline.store.tables import INDEX

_LEAST_SIDE = 7  # of the window in which structure is compared


class RandomisationSimilarity:
    """Collects how like the first one the maps of random networks are, batch by batch.

    columns: those of index/randomisation.parquet.
    """

    def __init__(self, explainer: Explainer, cascading: bool = True) -> None:
        """The explainer's graph must have its weights.

        Args:
            cascading: whether layers stay random as those below them become so; else all but a few have their own weights.
        """
        self._randomisation, self._targets = WeightRandomisation(explainer), explainer.plan.targets
        self._cascading = cascading
        self.columns: dict[str, list[Any]] = {field.name: [] for field in INDEX["randomisation"]}

    def add(self, explained: Explained) -> None:
        """Make the weights random, explain the batch again, and compare with its maps."""
        batch = explained.batch
        for step, layer, random in self._randomisation.steps(self._cascading):
            again = random.maps(batch.images, explained.asked)
            for key, first in explained.maps.items():
                for index, picked in enumerate(batch.picked):
                    for slot in (slot for slot in explained.slots[index] if explained.is_whole(key, index, slot)):
                        before, after = heat.energy(first[index, slot]), heat.energy(again[key][index, slot])
                        number = int(explained.classes[index, slot])
                        target = self._targets[slot].title(number)
                        row = (picked.example, picked.image.key, *key, number, target, step, layer)
                        likeness = (rank_correlation(before, after), structure(before, after))
                        append_row(self.columns, (*row, *likeness))

    def plot(self) -> bytes:
        """The mean rank correlation of each method as a PNG."""
        return plots.similarities(self.columns)


def rank_correlation(first: np.ndarray, other: np.ndarray) -> float:
    """Spearman's: 1 for the same order of positions, 0 for none in common; 0 where a map is the same everywhere."""
    if np.ptp(first) == 0 or np.ptp(other) == 0:
        return 0.0
    from scipy.stats import spearmanr  # half a second of a start that most explanations do not need

    return float(spearmanr(first, other, axis=None).statistic)


def structure(first: np.ndarray, other: np.ndarray) -> float:
    """Structural similarity (Wang et al., 2004) of two maps, each scaled to its peak."""
    from skimage.metrics import structural_similarity

    scaled = [values / (float(values.max()) or 1.0) for values in (first, other)]
    if min(first.shape) < _LEAST_SIDE:
        factor = -(-_LEAST_SIDE // min(first.shape))
        scaled = [values.repeat(factor, axis=0).repeat(factor, axis=1) for values in scaled]
    return float(structural_similarity(*scaled, data_range=1.0))
