"""The subjects of aggregates: each class or other target of an output, with the maps of its images on one small grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.attribution.explainer import Explained
from pipeline.attribution.heat import energy
from pipeline.attribution.plan import MapKey
from pipeline.attribution.targets import Target
from pipeline.sources.picking import Picked

_GRID = 14  # cells a side, at most: 1,000 classes fit into memory
BORDER = 1 / 8  # of a side: what counts as the border


@dataclass(frozen=True)
class AggregateSubject:
    """What is explained, for all images. logits: the network's output, where all are in turn. target: in words."""

    logits: str | None
    number: int
    target: str

    @property
    def order(self) -> tuple[str, int, str]:
        """By which subjects are sorted."""
        return self.logits or "", self.number, self.target


def order_of(key: MapKey, subject: AggregateSubject) -> tuple[object, ...]:
    """By which maps of subjects are sorted: method by method, layer by layer, and in these by subject."""
    method, layer = key
    return method, layer or "", *subject.order


@dataclass(frozen=True)
class Subjects:
    """The targets of one output of the network."""

    targets: Sequence[Target]
    logits: str | None = None

    def of(self, explained: Explained) -> Iterator[tuple[Picked, int, int, AggregateSubject]]:
        """Every image of a batch with each of its targets: the image, its place in the batch, the target's, and the subject."""
        for index, picked in enumerate(explained.batch.picked):
            for slot in explained.slots[index]:
                number = int(explained.classes[index, slot])
                yield picked, index, slot, AggregateSubject(self.logits, number, self.targets[slot].title(number))

    def grids(self, explained: Explained) -> Iterator[tuple[Picked, MapKey, AggregateSubject, np.ndarray]]:
        """Every map of a batch that has evidence for its target, as shares of that evidence on a grid."""
        for picked, index, slot, subject in self.of(explained):
            for key, values in explained.maps_of(index, slot).items():
                cells = grid(values)
                if cells.any():
                    yield picked, key, subject, cells / cells.sum()


def grid(values: np.ndarray) -> np.ndarray:
    """The evidence for a target, summed over cells: float64 of 14 x 14 at most; of maps in colours, their energy."""
    evidence = energy(values) if values.ndim == 3 else np.maximum(values, 0)
    for axis in (0, 1):
        size = evidence.shape[axis]
        count = min(size, _GRID)
        evidence = np.add.reduceat(evidence, np.arange(count) * size // count, axis=axis, dtype=np.float64)
    return evidence


def at_the_border(cells: np.ndarray) -> tuple[float, float]:
    """The share of a map that lies within an eighth of a side from the border, and what it is of an even map."""
    inside = [np.clip((np.arange(size + 1) / size - BORDER) / (1 - 2 * BORDER), 0, 1) for size in cells.shape]
    # A cell across the edge counts in part.
    rows, cols = (np.diff(edges) * (1 - 2 * BORDER) * len(edges[1:]) for edges in inside)
    total = cells.sum()
    return 1 - float(rows @ cells @ cols / total), 1 - (1 - 2 * BORDER) ** 2
