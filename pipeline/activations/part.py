"""Part: what one pass over one shard has collected, and how the parts of shards become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from pipeline.activations.channel_statistics import Statistics
from pipeline.activations.distribution import Distribution
from pipeline.activations.heap_members import ByLabel, Strongest, Weakest
from pipeline.activations.member import Member, Responses, Thresholds
from pipeline.activations.plan import ScanPlan
from pipeline.errors import TooManyBad

# What a scan keeps of every layer. A new statistic is a class in this table and its columns in `pipeline.store.tables`.
MEMBERS: tuple[type[Member], ...] = (Strongest, Weakest, ByLabel, Statistics, Distribution)


def member_kinds() -> dict[str, type[Member]]:
    """The classes of MEMBERS by the names that they have in part files."""
    return {kind.NAME: kind for kind in MEMBERS}


AnyMember = TypeVar("AnyMember", bound=Member)


@dataclass(frozen=True)
class Skipped:
    """An example that could not be read, and why."""

    example: int
    key: str
    reason: str


@dataclass(frozen=True)
class Part:
    """What was collected from some examples. A value: updates and merges return new parts.

    channels: how many channels are looked at, by layer.
    members: by layer, then by the member's name; members that the plan does not ask for are absent.
    seen: examples that went through the network.
    skipped: those that could not be read.
    """

    channels: dict[str, int]
    members: dict[str, dict[str, Member]]
    seen: int = 0
    skipped: tuple[Skipped, ...] = ()

    @classmethod
    def empty(cls, plan: ScanPlan) -> Part:
        """The part that has seen nothing."""
        channels = {layer.name: len(plan.channels_of(layer)) for layer in plan.layers}
        members = {
            layer: {name: member for name, kind in member_kinds().items() if (member := kind.empty(count, plan)) is not None}
            for layer, count in channels.items()
        }
        return cls(channels, members)

    @property
    def done(self) -> int:
        """Examples that were seen or skipped."""
        return self.seen + len(self.skipped)

    def skipped_columns(self) -> dict[str, list[int] | list[str]]:
        """The columns of index/skipped.parquet."""
        return {
            "example": [skipped.example for skipped in self.skipped],
            "key": [skipped.key for skipped in self.skipped],
            "reason": [skipped.reason for skipped in self.skipped],
        }

    def of(self, kind: type[AnyMember]) -> dict[str, AnyMember]:
        """The members of one class, by layer; empty where the plan did not ask for them."""
        return {layer: member for layer, members in self.members.items() if isinstance(member := members.get(kind.NAME), kind)}

    def update(self, responses: dict[str, Responses], seen: int, skipped: tuple[Skipped, ...]) -> Part:
        """The part after one more batch: the responses by layer, how many images were seen, and which were skipped."""
        members = {
            layer: {name: member.update(responses[layer]) for name, member in members.items()}
            for layer, members in self.members.items()
        }
        return replace(self, members=members, seen=self.seen + seen, skipped=self.skipped + skipped)

    def thresholds(self, label_numbers: np.ndarray) -> dict[str, Thresholds]:
        """Which responses to a batch the members want as candidates, by layer; label_numbers: int64 (batch,)."""
        every = {}
        for layer, members in self.members.items():
            channels = self.channels[layer]
            thresholds = Thresholds.closed(channels)
            for member in members.values():
                asked = member.thresholds(channels, label_numbers)
                thresholds = thresholds if asked is None else thresholds.union(asked)
            every[layer] = thresholds
        return every

    def merge(self, other: Part) -> Part:
        """Both parts as one; the order does not matter."""
        members = {
            layer: {name: member.merge(other.members[layer][name]) for name, member in members.items()}
            for layer, members in self.members.items()
        }
        skipped = sorted(self.skipped + other.skipped, key=lambda skipped: skipped.example)
        return replace(self, members=members, seen=self.seen + other.seen, skipped=tuple(skipped))


def merge(parts: Sequence[Part]) -> Part:
    """All parts as one. Raises: ValueError for no part."""
    if not parts:
        raise ValueError("there are no parts to merge.")
    merged, *others = parts
    for part in others:
        merged = merged.merge(part)
    return merged


def check_bad(part: Part, plan: ScanPlan, total: int) -> None:
    """Whether a part has too many unreadable examples for a source of `total`. Raises: TooManyBad."""
    if not part.skipped:
        return
    last = part.skipped[-1]
    if plan.on_bad == "fail":
        raise TooManyBad(f'{last.key!r} cannot be read: {last.reason}. Repair the file, or set data.on_bad = "skip".')
    if len(part.skipped) > plan.max_bad * total:
        raise TooManyBad(
            f"{len(part.skipped)} of {total} images cannot be read, more than data.max_bad = {plan.max_bad:g} allows; "
            f"the last: {last.key!r}: {last.reason}. Repair the files, or raise max_bad."
        )
