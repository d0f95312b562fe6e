"""The scan's threads: what runs beside what, what ends them, and where their time is counted."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest

from pipeline.activations.member import Thresholds
from pipeline.activations.part import Part
from pipeline.activations.scan import ScanSession, scan
from pipeline.activations.scan_pass import ScanPass


def network_threads() -> Any:
    return [thread for thread in threading.enumerate() if thread.name.startswith("network")]


class WatchedPass(ScanPass):
    """A pass that calls a function before each batch."""

    def __init__(self, network: Any, plan: Any, before: Any) -> None:
        super().__init__(network, plan)
        self._before = before

    def run(self, images: Any, thresholds: Any) -> Any:
        self._before()
        return super().run(images, thresholds)


class WatchedPart(Part):
    """A part that notes its events in `log`: "submitted" for each batch given to the network, "updated" for each taken in."""

    log: ClassVar[list[str]] = []

    def thresholds(self, label_numbers: Any) -> Any:
        self.log.append("submitted")
        return super().thresholds(label_numbers)

    def update(self, responses: Any, seen: Any, skipped: Any) -> Any:
        self.log.append("updated")
        return super().update(responses, seen, skipped)


@pytest.mark.parametrize("where", ["keep", "progress"])
def test_an_interrupt_from_outside_leaves_no_thread_behind(network: Any, source: Any, plan: Any, where: Any) -> None:
    def stop(*news: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(network, source, plan(network, "edges"), session=ScanSession(**{where: stop}))
    assert network_threads() == []


def test_an_error_in_the_network_is_raised_where_the_scan_was_called(network: Any, source: Any, plan: Any) -> None:
    def fail() -> None:
        raise RuntimeError("out of memory")

    edges = plan(network, "edges")
    with pytest.raises(RuntimeError, match="out of memory"):
        scan(network, source, edges, session=ScanSession(scan_pass=WatchedPass(network, edges, fail)))
    assert network_threads() == []


def test_the_network_is_never_more_than_two_batches_ahead_of_the_heaps(network: Any, source: Any, plan: Any) -> None:
    started, kept = [], []

    def keep(part: Any) -> None:
        kept.append(part)
        assert len(started) <= len(kept) + 2

    edges = plan(network, "edges", batch=2)
    scan(network, source, edges, session=ScanSession(keep=keep, scan_pass=WatchedPass(network, edges, lambda: started.append(1))))
    assert len(kept) == len(started) == 12


def test_two_batches_are_in_the_network_at_the_same_time(network: Any, source: Any, plan: Any) -> None:
    barrier, together = threading.Barrier(2), []
    edges = plan(network, "edges", batch=2)
    # Twelve batches: each waits until a second one is in the network too.
    both = WatchedPass(network, edges, lambda: together.append(barrier.wait(timeout=30)))
    part, _ = scan(network, source, edges, session=ScanSession(scan_pass=both))
    assert sorted(together) == [0] * 6 + [1] * 6 and part.seen == 23


def test_two_more_batches_are_submitted_before_the_heaps_are_updated_with_one(network: Any, source: Any, plan: Any) -> None:
    edges = plan(network, "edges", batch=2)
    begun = WatchedPart(**vars(Part.empty(edges)))
    begun.log.clear()
    scan(network, source, edges, session=ScanSession(begun=begun))
    submitted = [begun.log[:place].count("submitted") for place, event in enumerate(begun.log) if event == "updated"]
    assert submitted == [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 12, 12]


def test_a_pass_that_several_threads_run_at_once_is_compiled_once(network: Any, plan: Any) -> None:
    traced = []

    class Counting:
        """The network, counting how often it is traced, and slow at it."""

        def __getattr__(self, name: Any) -> Any:
            return getattr(network, name)

        def trace(self, images: Any, layers: Any) -> Any:
            traced.append(layers)
            time.sleep(0.2)
            return network.trace(images, layers)

    edges = plan(network, "edges", batch=2)
    alone = ScanPass(Counting(), edges)
    closed = {"edges": Thresholds.closed(4)}
    images = np.ones((2, 16, 16, 3), np.uint8)
    alone.run(images, closed)
    once = len(traced)
    shared = ScanPass(Counting(), edges)
    with ThreadPoolExecutor(4) as threads:
        peaks = list(threads.map(lambda _: shared.run(images, closed), range(4)))
    assert len(traced) == 2 * once and len({each["edges"].maxima.tobytes() for each in peaks}) == 1


def test_the_times_of_a_scan_add_up_to_the_clock_and_tell_waiting_from_running(network: Any, source: Any, plan: Any) -> None:
    began = time.perf_counter()
    _, times = scan(network, source, plan(network, "edges"), session=ScanSession(keep=lambda part: time.sleep(0.05)))
    assert 0.05 < times.writing <= times.seconds <= time.perf_counter() - began
    assert min(times.data, times.network, times.heaps) > 0
    assert (times + times).seconds == pytest.approx(2 * times.seconds)
