"""Where in the image the evidence for each class lies on average, and how much of it at the border."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline import exact_sums
from pipeline.attribution.aggregates.subjects import AggregateSubject, Subjects, at_the_border, order_of
from pipeline.attribution.explainer import Explained
from pipeline.attribution.plan import MapKey
from pipeline.store.columns import append_row
from pipeline.store.tables import INDEX


class EvidencePlaces:
    """Averages the maps of each class and method, every image counting the same; sums are exact, whatever the order."""

    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects
        self._sums: dict[tuple[MapKey, AggregateSubject, tuple[int, ...]], np.ndarray] = {}
        self._images: dict[tuple[MapKey, AggregateSubject, tuple[int, ...]], int] = {}

    def add(self, explained: Explained) -> None:
        """Take the maps of a batch."""
        for _, map_key, subject, cells in self._subjects.grids(explained):
            key = (map_key, subject, cells.shape)
            before = self._sums.get(key)
            before = np.zeros((exact_sums.PIECES, cells.size)) if before is None else before
            self._sums[key] = exact_sums.add(before, cells.astype(np.float32).astype(np.float64).reshape(1, -1))
            self._images[key] = self._images.get(key, 0) + 1

    def columns(self) -> dict[str, list[Any]]:
        """The columns of index/evidence_places.parquet: method by method and class by class."""
        columns: dict[str, list[Any]] = {field.name: [] for field in INDEX["evidence_places"]}
        for key in sorted(self._sums, key=lambda key: order_of(*key[:2])):
            ((method, layer), subject, shape), images = key, self._images[key]
            mean = np.array([float(total / images) for total in exact_sums.total(self._sums[key])]).reshape(shape)
            share, even = at_the_border(mean)
            about = (method, layer, subject.logits, subject.number, subject.target, images)
            append_row(columns, (*about, share, even, mean.ravel(), shape))
        return columns
