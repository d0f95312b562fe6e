"""Member: one thing that a scan keeps of a layer, as a value that can be updated, merged and saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import numpy as np

from pipeline.activations.heap import Entries, unclipped_or_score
from pipeline.activations.plan import ScanPlan


@dataclass(frozen=True, eq=False)
class Candidates(Entries):
    """Responses of one layer that may enter a heap: (n,) each.

    images: int64, numbers of the images in `Responses`.
    """

    images: np.ndarray

    def where(self, kept: np.ndarray) -> Candidates:
        """The candidates that a mask keeps, bool (n,)."""
        return Candidates(*(getattr(self, field.name)[kept] for field in fields(self)))

    def without_maps(self) -> Candidates:
        """The same candidates without their maps, for heaps that keep none."""
        return replace(self, maps=self.maps[:, :0])

    def negated(self) -> Candidates:
        """The same with everything that they are ordered by negated."""
        unclipped = np.where(np.isnan(self.unclipped), self.unclipped, -self.unclipped)
        return replace(self, scores=-self.scores, unclipped=unclipped)


@dataclass(frozen=True, eq=False)
class Responses:
    """One layer's responses (spatial maxima) to the readable images of one batch.

    maxima: float32 (n, channels).
    examples: int64 (n,), none of them seen before.
    labels: str (n,): "" for an image without a label.
    label_numbers: int64 (n,): the labels' numbers in the plan; -1 for labels that the plan does not name.
    candidates: the responses that pass the thresholds of the members.
    nans: int64 (n, channels): NaN values in each map; None where there are none at all.
    unclipped: float32 (n, channels): the maxima before the layer's upper clamp; NaN in channels without one, None where no
        channel has one.
    """

    maxima: np.ndarray
    examples: np.ndarray
    labels: np.ndarray
    label_numbers: np.ndarray
    candidates: Candidates
    nans: np.ndarray | None = None
    unclipped: np.ndarray | None = None

    @property
    def keys(self) -> np.ndarray:
        """The values that heaps rank the responses by: float32 (n, channels)."""
        return self.maxima if self.unclipped is None else unclipped_or_score(self.unclipped, self.maxima)


@dataclass(frozen=True, eq=False)
class Thresholds:
    """Which responses of a layer become candidates, by what heaps order them by: those above the floor and those below
    the ceiling.

    floor: float32 (1, channels), or (batch, channels) where it depends on the image; inf passes nothing, NaN everything.
    ceiling: float32 (1, channels); -inf passes nothing, NaN everything.
    """

    floor: np.ndarray
    ceiling: np.ndarray

    @classmethod
    def closed(cls, channels: int) -> Thresholds:
        """Thresholds that pass nothing."""
        return cls(np.full((1, channels), np.inf, np.float32), np.full((1, channels), -np.inf, np.float32))

    def union(self, other: Thresholds) -> Thresholds:
        """Thresholds that pass what either of the two passes."""
        return Thresholds(np.minimum(self.floor, other.floor), np.maximum(self.ceiling, other.ceiling))


class Member:
    """One thing that a scan keeps of a layer: heaps, sums, a histogram.

    Members are frozen dataclasses of arrays. `merge` is associative and commutative, an empty member changes nothing, and
    no order of updates and merges changes a byte. `pipeline.activations.part.MEMBERS` lists them; the scan, the part
    files and the merge of shards take whatever stands there. `columns` fills columns of index/channels.parquet, whose
    schema is in `pipeline.store.tables`.

    NAME: of the member in part files.
    """

    NAME: ClassVar[str]

    @classmethod
    def empty(cls, channels: int, plan: ScanPlan) -> Self | None:
        """The member that has seen nothing, for so many channels; None where the plan does not ask for it."""
        raise NotImplementedError

    def update(self, responses: Responses) -> Self:
        """The member after one more batch."""
        raise NotImplementedError

    def merge(self, other: Self) -> Self:
        """The member of both data sets together."""
        raise NotImplementedError

    def thresholds(self, channels: int, label_numbers: np.ndarray) -> Thresholds | None:
        """Which responses of the next batch the member wants as candidates; None: none.

        Args:
            channels: of the layer.
            label_numbers: int64 (batch,), as in `Responses`.
        """
        return None

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that a part file holds, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Self:
        """The member that `arrays` came from."""
        return cls(**arrays)

    def columns(self, channels: np.ndarray) -> dict[str, Sequence[Any] | np.ndarray]:
        """Columns of index/channels.parquet by name, a value a channel.

        Args:
            channels: int64 (channels,): the channels' numbers in the network.
        """
        return {}


def without_nan(values: np.ndarray) -> list[float | None]:
    """Values for a column that is null where there is none."""
    return [None if np.isnan(value) else float(value) for value in values]
