"""Deletion and insertion (Petsiuk et al., "RISE", 2018): does the class go with the pixels that a map calls important?

Deletion takes the most important pixels away first, and paints them in the image's mean colour: the faster the
probability falls, the better the map. Insertion brings them back first into a blurred image: the faster it rises,
the better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from pipeline.attribution import heat
from pipeline.attribution.methods import Explained, Key
from pipeline.attribution.targets import softmax
from pipeline.compiled.compile import compile_pass
from pipeline.compiled.freezing import Pass
from pipeline.drawing import plots
from pipeline.models.network import LOGITS, Network
from pipeline.sources.picking import Picked
from pipeline.store.tables import INDEX

STEPS = 20
_BLUR = 1 / 22  # of the input's side: deviation of the Gaussian below which nothing is recognised


class Curves:
    """Collects the curves of maps, batch by batch."""

    def __init__(self, forward: Pass, batch: int) -> None:
        self._forward, self._batch = forward, batch
        self.columns: dict[str, list[Any]] = {field.name: [] for field in INDEX["curves"]}

    @classmethod
    def of(cls, network: Network, batch: int) -> Curves:
        """Curves for one network, which is run on batches of this size."""
        return cls(compile_pass(network, [LOGITS], batch, lambda maps: maps[LOGITS]), batch)

    def add(
        self,
        several: Sequence[Picked],
        images: np.ndarray,
        explained: Explained,
        maps: Mapping[Key, np.ndarray],
        chosen: Sequence[Sequence[int]],
    ) -> None:
        """The curves of some images: for every map, how probable its class is at each of 21 shares of the pixels.

        Args:
            images: uint8 (batch, height, width, 3), as the network is shown them.
            maps: (batch, slots, …) by method and layer.
            chosen: the slots that count, for each image.
        """
        shares = np.linspace(0, 1, STEPS + 1)
        for place, one in enumerate(several):
            for slot in chosen[place]:
                number = int(explained.classes[place, slot])
                for (method, layer), values in maps.items():
                    order = ranks(values[place, slot], *images.shape[1:3])
                    for kind, stages in (("deletion", deleted), ("insertion", inserted)):
                        chances = self._chances(stages(images[place], order, shares), number)
                        for share, chance in zip(shares, chances, strict=True):
                            row = (one.example, one.image.key, method, layer, number, kind, share, chance)
                            for name, value in zip(self.columns, row, strict=True):
                                self.columns[name].append(value)

    def plot(self) -> bytes:
        """The mean curves of each method as a PNG."""
        return plots.curves(self.columns)

    def _chances(self, images: np.ndarray, number: int) -> np.ndarray:
        found = []
        for first in range(0, len(images), self._batch):
            part = images[first : first + self._batch]
            missing = self._batch - len(part)
            logits = self._forward(np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])).numpy()[: len(part)]
            found.append(softmax(logits)[:, number])
        return np.concatenate(found)


def ranks(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """The place of each pixel in the order of importance, as a share: float64 (height, width), 0 the most important."""
    powers = heat.enlarge(heat.energy(values), height, width).ravel()
    order = np.empty(powers.size)
    order[np.argsort(-powers, kind="stable")] = np.arange(powers.size) / powers.size
    return order.reshape(height, width)


def deleted(image: np.ndarray, order: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The image without its first pixels: uint8 (shares, h, w, 3)."""
    mean = image.reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
    return np.stack([np.where((order < share)[..., np.newaxis], mean, image) for share in shares])


def inserted(image: np.ndarray, order: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The blurred image with its first pixels as they are: uint8 (shares, h, w, 3)."""
    blurred = cv2.GaussianBlur(image, (0, 0), max(image.shape[:2]) * _BLUR)
    return np.stack([np.where((order < share)[..., np.newaxis], image, blurred) for share in shares])
