"""The members of a part that are heaps: the strongest responses, the weakest, and the strongest for each label."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np

from pipeline.activations.heap import UNFILLED, Activations
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


@dataclass(frozen=True, eq=False)
class Strongest(_HeapMember):
    """The `top_k` strongest responses of every channel, how many tie with the last, and the NaN values of its maps.

    at_last: int64 (channels,): how many of all responses are as strong as the last of a full heap, itself included; 0 while
        there is room. Where heaps take so many responses of a source image, it is not known: 0 throughout.
    """

    NAME = "strongest"

    at_last: np.ndarray

    @classmethod
    def empty(cls, channels: int, plan: ScanPlan) -> Strongest:
        return cls(Activations.empty(channels, plan.top_k, plan.per_image), np.zeros(channels, np.int64))

    def update(self, responses: Responses) -> Strongest:
        heap = self.heap.insert(responses.candidates)
        at_last = self._at_last_of(heap) + np.count_nonzero(responses.keys == _last(heap), axis=0)
        updated = Strongest(heap, at_last * (not heap.per_image))
        return updated if responses.nans is None else replace(updated, heap=heap.count_nans(responses.nans.sum(axis=0)))

    def merge(self, other: Strongest) -> Strongest:
        heap = self.heap.merge(other.heap)
        return Strongest(heap, (self._at_last_of(heap) + other._at_last_of(heap)) * (not heap.per_image))

    def _at_last_of(self, later: Activations) -> np.ndarray:
        """The number of responses seen by this member that are as strong as the last one of a later heap.

        The last of a heap only rises: what lies above this heap's own last is in this heap.
        """
        return np.where(_last(self.heap) == _last(later), self.at_last, _count_at(self.heap, _last(later)))

    def ties(self, lowest: np.ndarray) -> np.ndarray | None:
        """The number of responses that tie with a channel's last winner and did not win: int64 (channels,).

        None where heaps take so many responses of a source image: a response then ties only if its image has no better
        ones, which is not known of those that did not enter.

        Args:
            lowest: as `Activations.fired` takes it.
        """
        if self.heap.per_image:
            return None
        ties = self.at_last - _count_at(self.heap, _last(self.heap))
        return np.where(self.heap.fired(lowest).examples[:, -1] == UNFILLED, 0, ties)

    def arrays(self) -> dict[str, np.ndarray]:
        return super().arrays() | {"at_last": self.at_last}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Strongest:
        arrays = dict(arrays)
        at_last = arrays.pop("at_last")
        return cls(Activations(**arrays), at_last)

    def thresholds(self, channels: int, label_numbers: np.ndarray) -> Thresholds:
        return replace(Thresholds.closed(channels), floor=self.heap.floor[np.newaxis])


class Weakest(_HeapMember):
    """The `bottom_k` weakest responses of every channel: a heap of their negatives."""

    NAME = "weakest"

    @classmethod
    def empty(cls, channels: int, plan: ScanPlan) -> Weakest | None:
        return cls(Activations.empty(channels, plan.bottom_k, plan.per_image)) if plan.bottom_k else None

    def update(self, responses: Responses) -> Weakest:
        return Weakest(self.heap.insert(responses.candidates.negated().without_maps()))

    def thresholds(self, channels: int, label_numbers: np.ndarray) -> Thresholds:
        return replace(Thresholds.closed(channels), ceiling=-self.heap.floor[np.newaxis])

    def weakest_first(self) -> Activations:
        """The heap with the responses themselves as scores."""
        zero = np.float32(0)  # not -scores, which would make -0.0 of 0.0
        return replace(self.heap, scores=zero - self.heap.scores, unclipped=zero - self.heap.unclipped)


class ByLabel(_HeapMember):
    """The `label_k` strongest responses of every channel for each label: a heap of labels x channels, label by label."""

    NAME = "by_label"

    @classmethod
    def empty(cls, channels: int, plan: ScanPlan) -> ByLabel | None:
        return cls(Activations.empty(channels * len(plan.labels), plan.label_k, plan.per_image)) if plan.label_k else None

    def update(self, responses: Responses) -> ByLabel:
        label_numbers = responses.label_numbers[responses.candidates.images]
        labelled = responses.candidates.without_maps().where(label_numbers >= 0)
        rows = label_numbers[label_numbers >= 0] * responses.maxima.shape[1] + labelled.channels
        return ByLabel(self.heap.insert(replace(labelled, channels=rows)))

    def thresholds(self, channels: int, label_numbers: np.ndarray) -> Thresholds:
        floors = self.heap.floor.reshape(-1, channels)[label_numbers]
        floor = np.where(label_numbers[:, np.newaxis] < 0, np.inf, floors).astype(np.float32)
        return replace(Thresholds.closed(channels), floor=floor)

    def by_channel(self, channels: np.ndarray) -> tuple[np.ndarray, Activations]:
        """The heap channel by channel, and the number of the channel of each of its rows: int64 (channels x labels,)."""
        labels = self.heap.channels // len(channels)
        order = np.arange(self.heap.channels).reshape(labels, -1).T.ravel()
        heap = {name: array[order] if array.ndim else array for name, array in self.arrays().items()}
        return np.repeat(channels, labels), Activations(**heap)


def _last(heap: Activations) -> np.ndarray:
    """The ranking value of each full heap's last response: float32 (channels,); NaN where the heap has room, and for -inf.

    -inf is also what a map of nothing but NaN has as its maximum.
    """
    floor = heap.floor
    return np.where(np.isneginf(floor), np.float32(np.nan), floor)


def _count_at(heap: Activations, keys: np.ndarray) -> np.ndarray:
    """The number of each heap's responses that have a key: int64 (channels,)."""
    return np.count_nonzero(heap.keys == keys[:, np.newaxis], axis=1)
