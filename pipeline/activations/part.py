"""Part: what one pass over one shard has found, and how shards become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.activations.heap import Activations
from pipeline.activations.statistics import Statistics


@dataclass(frozen=True)
class Skipped:
    """An example that could not be read, and why."""

    example: int
    key: str
    reason: str


@dataclass(frozen=True)
class Part:
    """The heaps and statistics of some examples.

    heaps, statistics: by layer; their channels are those of the spec, in its order.
    seen: examples that went through the network.
    skipped: those that could not be read.
    """

    heaps: dict[str, Activations]
    statistics: dict[str, Statistics]
    seen: int = 0
    skipped: tuple[Skipped, ...] = ()

    @property
    def done(self) -> int:
        """Examples that are dealt with, seen or skipped."""
        return self.seen + len(self.skipped)

    @classmethod
    def empty(cls, channels: dict[str, int], k: int) -> Part:
        """A part that has seen nothing, for {layer: number of channels}."""
        return cls(
            {layer: Activations.empty(count, k) for layer, count in channels.items()},
            {layer: Statistics.empty(count) for layer, count in channels.items()},
        )

    @property
    def floors(self) -> dict[str, np.ndarray]:
        """The heaps' floors, by layer: float32 (channels,) each."""
        return {layer: heap.floor for layer, heap in self.heaps.items()}

    def merge(self, other: Part) -> Part:
        """Both parts as one; the order does not matter."""
        return Part(
            {layer: heap.merge(other.heaps[layer]) for layer, heap in self.heaps.items()},
            {layer: statistics.merge(other.statistics[layer]) for layer, statistics in self.statistics.items()},
            self.seen + other.seen,
            tuple(sorted(self.skipped + other.skipped, key=lambda skipped: skipped.example)),
        )


def merge(parts: Sequence[Part]) -> Part:
    """All parts as one. Raises: ValueError for no part."""
    if not parts:
        raise ValueError("there are no parts to merge.")
    first, *others = parts
    for part in others:
        first = first.merge(part)
    return first
