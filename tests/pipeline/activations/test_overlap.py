"""The scan's threads: what runs beside what, what ends them, and how their time is told."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pipeline.activations import scan as scanning
from pipeline.activations.scan import Tap, scan
from pipeline.activations.scan_pass import Gates


def network_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("network")]


@pytest.mark.parametrize("where", ["keep", "progress"])
def test_what_stops_the_scan_from_outside_leaves_no_thread_behind(network, source, plan, where):
    def stop(*news):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(network, source, plan(network, "edges"), **{where: stop})
    assert network_threads() == []


def test_what_goes_wrong_in_the_network_is_raised_where_the_scan_was_called(network, source, plan, monkeypatch):
    def fail(self, images, floors):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Tap, "ask", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        scan(network, source, plan(network, "edges"))
    assert network_threads() == []


def test_the_network_is_never_more_than_two_batches_ahead_of_the_heaps(network, source, plan, monkeypatch):
    asked, answer = [], Tap.ask

    def ask(self, images, floors):
        asked.append(len(asked))
        return answer(self, images, floors)

    monkeypatch.setattr(Tap, "ask", ask)
    learned = []

    def keep(part):
        learned.append(part)
        assert len(asked) <= len(learned) + 2

    scan(network, source, plan(network, "edges", batch=2), keep=keep)
    assert len(learned) == len(asked) == 12


def test_a_batch_is_sent_while_the_network_is_at_the_last_one(network, source, plan, monkeypatch):
    answer, passes = Tap.ask, threading.Barrier(2)
    together = []

    def ask(self, images, floors):
        # Twelve batches: each pass waits for a second one to be in the network too.
        together.append(passes.wait(timeout=30))
        return answer(self, images, floors)

    monkeypatch.setattr(Tap, "ask", ask)
    part, _ = scan(network, source, plan(network, "edges", batch=2))
    assert sorted(together) == [0] * 6 + [1] * 6 and part.seen == 23


def test_before_the_heaps_are_at_a_batch_the_network_has_two_more_to_go_on_with(network, source, plan, monkeypatch):
    sent, judge = [], scanning.gates
    monkeypatch.setattr(scanning, "gates", lambda part, batch: sent.append(batch) or judge(part, batch))
    learned, learn = [], scanning.learn

    def learning(part, batch, responses):
        learned.append(len(sent))
        return learn(part, batch, responses)

    monkeypatch.setattr(scanning, "learn", learning)
    scan(network, source, plan(network, "edges", batch=2))
    assert learned == [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 12, 12]


def test_a_pass_that_several_threads_ask_for_is_compiled_once(network, plan, monkeypatch):
    compiled, build = [], Tap._compile

    def slowly(self, with_nan):
        compiled.append(with_nan)
        time.sleep(0.2)
        return build(self, with_nan)

    monkeypatch.setattr(Tap, "_compile", slowly)
    tap = plan(network, "edges", batch=2).compile(network)
    closed = {"edges": Gates(np.full((1, tap._counts[0]), np.inf, np.float32), np.full((1, tap._counts[0]), -np.inf, np.float32))}
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: tap.ask(np.ones((2, 16, 16, 3), np.uint8), closed), range(4)))
    assert compiled == [False] and len({one["edges"].maxima.tobytes() for one in answers}) == 1


def test_the_seconds_of_the_meter_are_those_of_the_clock_and_waiting_is_told_from_running(network, source, plan):
    began = time.perf_counter()
    _, meter = scan(network, source, plan(network, "edges"), keep=lambda part: time.sleep(0.05))
    assert 0.05 < meter.writing <= meter.seconds <= time.perf_counter() - began
    assert min(meter.data, meter.network, meter.heaps) > 0
    assert (meter + meter).seconds == pytest.approx(2 * meter.seconds)
