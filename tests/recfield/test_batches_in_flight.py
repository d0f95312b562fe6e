"""Several batches of probes at a time: the answers come from threads in any order, and the fields stay the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import fast_convolutions as fast
import numpy as np
import pytest

from recfield import BatchDependent, RandomForward, ReceptiveField

_SHAPE = (4, 26, 22, 3)


class Watched:
    """A forward function that remembers which threads called it, and how many were in it at a time."""

    def __init__(self, run: Callable[[np.ndarray], np.ndarray], hold: bool = False) -> None:
        """hold: the first call waits until another thread calls, or two seconds, so that later batches are answered before it."""
        self._run, self._hold = run, hold
        self._lock, self._second = threading.Lock(), threading.Event()
        self.threads: set[int] = set()
        self.images = self.most = self._inside = 0

    def __call__(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        with self._lock:
            first = not self.threads
            self.threads.add(threading.get_ident())
            self.images += len(images)
            self._inside += 1
            self.most = max(self.most, self._inside)
            if not first:
                self._second.set()
        if first and self._hold:
            self._second.wait(2)
            time.sleep(0.05)
        try:
            return {"map": self._run(images)}
        finally:
            with self._lock:
                self._inside -= 1


def test_batches_in_flight_give_the_same_boxes_and_are_all_counted() -> None:
    run = fast.stack(fast.direct, [8] * 3)
    one = ReceptiveField.of_layers(_SHAPE, lambda images: {"map": run(images)})["map"]
    forward = Watched(run, hold=True)
    several = ReceptiveField.of_layers(_SHAPE, forward, in_flight=2)["map"]
    assert np.array_equal(one.boxes, several.boxes)
    assert forward.most == 2 and several.probes == forward.images
    assert several.channel_boxes(0) is not None and several.probes == forward.images


def test_one_batch_in_flight_is_called_in_the_thread_of_the_caller() -> None:
    forward = Watched(fast.stack(fast.direct, [8] * 2))
    ReceptiveField.of_layers(_SHAPE, forward)
    assert forward.threads == {threading.get_ident()} and forward.most == 1


def test_randomness_and_dependence_on_the_batch_are_told_apart_with_batches_in_flight() -> None:
    random, lock = np.random.default_rng(0), threading.Lock()

    def noisy(images: np.ndarray) -> dict[str, np.ndarray]:
        with lock:
            return {"map": images + random.standard_normal(images.shape, np.float32)}

    with pytest.raises(RandomForward):
        ReceptiveField.of_layers(_SHAPE, noisy, in_flight=3)
    with pytest.raises(BatchDependent):
        ReceptiveField.of_layers(_SHAPE, lambda images: {"map": images - images.mean(axis=0)}, in_flight=3)


def test_an_error_of_the_function_ends_the_solving() -> None:
    def broken(images: np.ndarray) -> dict[str, np.ndarray]:
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        ReceptiveField.of_layers(_SHAPE, broken, in_flight=2)
