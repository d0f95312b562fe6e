"""The members of a part that are heaps: the strongest responses, the weakest, and the strongest for each label."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np

from pipeline.activations.heap import Activations
from pipeline.activations.member import Member, Responses, Thresholds
from pipeline.activations.plan import ScanPlan


@dataclass(frozen=True, eq=False)
class _HeapMember(Member):
    heap: Activations

    def merge(self, other: Self) -> Self:
        return replace(self, heap=self.heap.merge(other.heap))

    def arrays(self) -> dict[str, np.ndarray]:
        return {field.name: getattr(self.heap, field.name) for field in fields(self.heap)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Self:
        return cls(Activations(**arrays))


class Strongest(_HeapMember):
    """The `top_k` strongest responses of every channel, and how many NaN values its maps held."""

    NAME = "strongest"

    @classmethod
    def empty(cls, channels: int, plan: ScanPlan) -> Strongest:
        return cls(Activations.empty(channels, plan.top_k))

    def update(self, responses: Responses) -> Strongest:
        heap = responses.candidates.insert_into(self.heap)
        return Strongest(heap if responses.nans is None else heap.count_nans(responses.nans.sum(axis=0)))

    def thresholds(self, channels: int, label_numbers: np.ndarray) -> Thresholds:
        return replace(Thresholds.closed(channels), floor=self.heap.floor[np.newaxis])


class Weakest(_HeapMember):
    """The `bottom_k` weakest responses of every channel: a heap of their negatives."""

    NAME = "weakest"

    @classmethod
    def empty(cls, channels: int, plan: ScanPlan) -> Weakest | None:
        return cls(Activations.empty(channels, plan.bottom_k)) if plan.bottom_k else None

    def update(self, responses: Responses) -> Weakest:
        candidates = responses.candidates
        return Weakest(replace(candidates, scores=-candidates.scores).insert_into(self.heap))

    def thresholds(self, channels: int, label_numbers: np.ndarray) -> Thresholds:
        return replace(Thresholds.closed(channels), ceiling=-self.heap.floor[np.newaxis])

    def weakest_first(self) -> Activations:
        """The heap with the responses themselves as scores."""
        return replace(self.heap, scores=np.float32(0) - self.heap.scores)  # not -scores, which would make -0.0 of 0.0


class ByLabel(_HeapMember):
    """The `label_k` strongest responses of every channel for each label: a heap of labels x channels, label by label."""

    NAME = "by_label"

    @classmethod
    def empty(cls, channels: int, plan: ScanPlan) -> ByLabel | None:
        return cls(Activations.empty(channels * len(plan.labels), plan.label_k)) if plan.label_k else None

    def update(self, responses: Responses) -> ByLabel:
        label_numbers = responses.label_numbers[responses.candidates.images]
        labelled = responses.candidates.where(label_numbers >= 0)
        rows = label_numbers[label_numbers >= 0] * responses.maxima.shape[1] + labelled.channels
        return ByLabel(replace(labelled, channels=rows).insert_into(self.heap))

    def thresholds(self, channels: int, label_numbers: np.ndarray) -> Thresholds:
        floors = self.heap.floor.reshape(-1, channels)[label_numbers]
        floor = np.where(label_numbers[:, np.newaxis] < 0, np.inf, floors).astype(np.float32)
        return replace(Thresholds.closed(channels), floor=floor)

    def by_channel(self, channels: np.ndarray) -> tuple[np.ndarray, Activations]:
        """The heap channel by channel, and the number of the channel of each of its rows: int64 (channels x labels,)."""
        labels = self.heap.channels // len(channels)
        order = np.arange(self.heap.channels).reshape(labels, -1).T.ravel()
        return np.repeat(channels, labels), Activations(**{name: array[order] for name, array in self.arrays().items()})
