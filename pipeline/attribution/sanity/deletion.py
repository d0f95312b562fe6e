"""Deletion and insertion (Petsiuk et al., "RISE", 2018): does the class go with the pixels that a map calls important?

Deletion takes the most important pixels away first, and paints them in the image's mean colour: the faster the
probability falls, or the output where the head gives none, the better the map. Insertion brings them back first into a
blurred image: the faster it rises, the better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.attribution import heat
from pipeline.attribution.baselines import blurred, mean_colour
from pipeline.attribution.explainer import Explained, Explainer
from pipeline.attribution.own_regions import held_for
from pipeline.drawing import plots
from pipeline.sources.picking import Picked
from pipeline.store.columns import append_row
from pipeline.store.tables import INDEX

STEPS = 20


class DeletionCurves:
    """Collects the curves of maps, batch by batch.

    columns: those of index/curves.parquet.
    """

    def __init__(self, explainer: Explainer) -> None:
        self._explainer = explainer
        self.columns: dict[str, list[Any]] = {field.name: [] for field in INDEX["curves"]}

    def add(self, explained: Explained) -> None:
        """The curves of a batch: for every map, how probable its class is, or which output there is, at each of 21 shares."""
        batch, shares = explained.batch, np.linspace(0, 1, STEPS + 1)
        for index, (picked, image) in enumerate(zip(batch.picked, batch.images, strict=True)):
            for slot in explained.slots[index]:
                number = int(explained.classes[index, slot])
                target = held_for(self._explainer.plan.targets[slot], explained.logits[index], number)
                for (method, layer), values in explained.maps_of(index, slot).items():
                    order = ranks(values, *image.shape[:2])
                    for kind, painted in (("deletion", deleted), ("insertion", inserted)):
                        images = _but_packed(painted, picked, image)(order, shares)
                        reading = target.reading(self._explainer.logits(images), number)
                        known = [None] * len(shares) if reading.probability is None else reading.probability
                        for share, probability, value in zip(shares, known, reading.value, strict=True):
                            of_map = (picked.example, picked.image.key, method, layer, number, target.title(number))
                            row = (*of_map, kind, share, probability, value)
                            append_row(self.columns, row)

    def plot(self) -> bytes:
        """The mean curves of each method as a PNG."""
        return plots.curves(self.columns)


def ranks(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """The rank of each pixel by importance, as a share: float64 (height, width), 0 the most important."""
    powers = heat.enlarge(heat.energy(values), height, width).ravel()
    order = np.empty(powers.size)
    order[np.argsort(-powers, kind="stable")] = np.arange(powers.size) / powers.size
    return order.reshape(height, width)


def _but_packed(painted: Callable[..., np.ndarray], picked: Picked, image: np.ndarray) -> Callable[..., np.ndarray]:
    """Painting the image's bands alone: those behind them hold the network's other inputs."""
    packed = picked.image.packed
    if packed is None:
        return lambda *arguments: painted(image, *arguments)
    bands = image.shape[2] - packed.shape[2]

    def paint(*arguments: np.ndarray) -> np.ndarray:
        images = painted(image[..., :bands], *arguments)
        return np.concatenate([images, np.broadcast_to(packed, (*images.shape[:3], packed.shape[2]))], axis=3)

    return paint


def deleted(image: np.ndarray, order: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The image without its first pixels: (shares, h, w, bands) of its type."""
    mean = mean_colour(image)
    return np.stack([np.where(_first(order, share), mean, image) for share in shares])


def inserted(image: np.ndarray, order: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The blurred image with its first pixels as they are: (shares, h, w, bands) of its type."""
    behind = blurred(image)
    return np.stack([np.where(_first(order, share), image, behind) for share in shares])


def _first(order: np.ndarray, share: float) -> np.ndarray:
    """Which pixels are among the first, bool (h, w, 1). Shares are not exact: 3 / 20 in float64 is a hair more than 60 / 400."""
    return (order < share - 1e-9)[..., np.newaxis]
