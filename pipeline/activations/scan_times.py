"""Where the time of a scan goes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any


@dataclass
class ScanTimes:
    """A scan's time in seconds, by what the network did meanwhile; together, all of it.

    images: how many went through the network.
    network: it ran, whatever else was done at the same time.
    data, heaps, writing: it was idle and waited for images, for the heaps to be updated, for a part to be saved.
    """

    images: int = 0
    data: float = 0.0
    network: float = 0.0
    heaps: float = 0.0
    writing: float = 0.0

    @property
    def seconds(self) -> float:
        return self.data + self.network + self.heaps + self.writing

    def __add__(self, other: ScanTimes) -> ScanTimes:
        return ScanTimes(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


class Stopwatch:
    """Fills in the times of a scan whose network runs in threads of its own."""

    def __init__(self, times: ScanTimes) -> None:
        self._times = times
        self._started = self._counted_until = time.perf_counter()
        self._latest: Future[tuple[Any, float]] | None = None

    def watch(self, output: Future[tuple[Any, float]]) -> None:
        """The network was given one more batch; its output comes with the time.perf_counter at which it was ready."""
        self._latest = output

    @contextmanager
    def spent_on(self, activity: str) -> Iterator[None]:
        """Count the block's time as `data`, `heaps` or `writing` while the network was idle, and as `network` while it ran."""
        started = time.perf_counter()
        try:
            yield
        finally:
            ended = time.perf_counter()
            idle = max(0.0, ended - max(started, self._idle_since()))
            setattr(self._times, activity, getattr(self._times, activity) + idle)
            self._times.network += ended - self._counted_until - idle
            self._counted_until = ended

    def _idle_since(self) -> float:
        if self._latest is None:
            return self._started
        is_ready = self._latest.done() and not self._latest.cancelled() and not self._latest.exception()
        return self._latest.result()[1] if is_ready else math.inf
