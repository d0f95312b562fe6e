"""Where the time of a scan went: only what the network stands still of is counted as waiting."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.activations import scan_times
from pipeline.activations.scan_times import ScanTimes, Stopwatch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The time as the stopwatch sees it; the test moves it."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(scan_times, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    return now


def test_time_before_the_first_batch_is_waiting(clock: Any) -> None:
    times = ScanTimes()
    with Stopwatch(times).spent_on("data"):
        clock.seconds += 3
    assert times == ScanTimes(data=3)


def test_time_while_the_network_runs_is_the_networks(clock: Any) -> None:
    times = ScanTimes()
    stopwatch = Stopwatch(times)
    stopwatch.watch(Future())
    clock.seconds += 1
    with stopwatch.spent_on("writing"):
        clock.seconds += 5
    assert times == ScanTimes(network=6)


def test_time_after_the_output_is_ready_is_waiting(clock: Any) -> None:
    times, answer = ScanTimes(), Future()
    stopwatch = Stopwatch(times)
    stopwatch.watch(answer)
    with stopwatch.spent_on("heaps"):
        clock.seconds += 4
        answer.set_result(("responses", clock.seconds))
        clock.seconds += 2
    assert times == ScanTimes(network=4, heaps=2)
    with stopwatch.spent_on("data"):
        clock.seconds += 7
    assert times == ScanTimes(network=4, heaps=2, data=7) and times.seconds == 13


@pytest.mark.parametrize("how", ["cancelled", "failed"])
def test_a_network_that_was_cancelled_or_failed_is_not_waited_for(clock: Any, how: Any) -> None:
    times, answer = ScanTimes(), Future()
    stopwatch = Stopwatch(times)
    stopwatch.watch(answer)
    if how == "cancelled":
        answer.cancel()
    else:
        answer.set_exception(RuntimeError("out of memory"))
    with stopwatch.spent_on("writing"):
        clock.seconds += 2
    assert times.seconds == 2
