"""Part: what one pass over one shard has found, and how shards become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.activations.channel_statistics import Statistics
from pipeline.activations.heap import Activations
from pipeline.activations.tally import Tally


@dataclass(frozen=True)
class Skipped:
    """An example that could not be read, and why."""

    example: int
    key: str
    reason: str


@dataclass(frozen=True)
class Part:
    """What some examples gave.

    heaps, statistics, tallies: by layer; their channels are those of the spec, in its order.
    weakest: by layer, heaps of the responses' negatives; empty where nobody asked for them.
    by_label: by layer, heaps of the channels for every label: all channels for the first label, then for the next; empty
    where nobody asked for them.
    seen: examples that went through the network.
    skipped: those that could not be read.
    """

    heaps: dict[str, Activations]
    statistics: dict[str, Statistics]
    tallies: dict[str, Tally]
    weakest: dict[str, Activations]
    by_label: dict[str, Activations]
    seen: int = 0
    skipped: tuple[Skipped, ...] = ()

    @property
    def done(self) -> int:
        """Examples that are dealt with, seen or skipped."""
        return self.seen + len(self.skipped)

    @classmethod
    def empty(cls, channels: dict[str, int], k: int, bottom_k: int = 0, label_k: int = 0, labels: int = 0) -> Part:
        """A part that has seen nothing, for {layer: number of channels}.

        Args:
            bottom_k: of the weakest responses; 0 for none. label_k: of the strongest for each of so many labels; 0 for none.
        """
        return cls(
            {layer: Activations.empty(count, k) for layer, count in channels.items()},
            {layer: Statistics.empty(count) for layer, count in channels.items()},
            {layer: Tally.empty(count) for layer, count in channels.items()},
            {layer: Activations.empty(count, bottom_k) for layer, count in channels.items() if bottom_k},
            {layer: Activations.empty(count * labels, label_k) for layer, count in channels.items() if label_k},
        )

    def merge(self, other: Part) -> Part:
        """Both parts as one; the order does not matter."""
        return Part(
            {layer: heap.merge(other.heaps[layer]) for layer, heap in self.heaps.items()},
            {layer: statistics.merge(other.statistics[layer]) for layer, statistics in self.statistics.items()},
            {layer: tally.merge(other.tallies[layer]) for layer, tally in self.tallies.items()},
            {layer: heap.merge(other.weakest[layer]) for layer, heap in self.weakest.items()},
            {layer: heap.merge(other.by_label[layer]) for layer, heap in self.by_label.items()},
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
