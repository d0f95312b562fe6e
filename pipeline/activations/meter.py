"""Meter: where the time of a scan went."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any


@dataclass
class Meter:
    """Seconds of a scan's time; together, all of it.

    images: how many went through the network.
    network: while it ran, whatever else was done meanwhile.
    data, heaps, writing: while it stood still and waited for images, for the heaps, for what was found to be saved.
    """

    images: int = 0
    data: float = 0.0
    network: float = 0.0
    heaps: float = 0.0
    writing: float = 0.0

    @property
    def seconds(self) -> float:
        return self.data + self.network + self.heaps + self.writing

    def __add__(self, other: Meter) -> Meter:
        return Meter(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


class Stopwatch:
    """Fills a meter while a network is asked in a thread of its own."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._begun = self._told = time.perf_counter()
        self._latest: Future[tuple[Any, float]] | None = None

    def watch(self, answer: Future[tuple[Any, float]]) -> None:
        """The network was asked once more; its answer comes with the time, by time.perf_counter, at which it was given."""
        self._latest = answer

    @contextmanager
    def spent_on(self, what: str) -> Iterator[None]:
        """Count as the time of `data`, `heaps` or `writing` what the network stands still of the block's."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            ended = time.perf_counter()
            still = max(0.0, ended - max(begun, self._idle_since()))
            setattr(self._meter, what, getattr(self._meter, what) + still)
            self._meter.network += ended - self._told - still
            self._told = ended

    def _idle_since(self) -> float:
        if self._latest is None:
            return self._begun
        answered = self._latest.done() and not self._latest.cancelled() and not self._latest.exception()
        return self._latest.result()[1] if answered else math.inf
