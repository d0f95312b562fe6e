"""What a session returns, and which threads it computes with."""

from __future__ import annotations

import gc
import sys
import textwrap
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.compiled.cpu_session import in_session
from pipeline.compiled.freezing import freeze


def test_a_session_returns_arrays_in_the_structure_of_the_function() -> None:
    specs = [tf.TensorSpec((2, None)), tf.TensorSpec((), tf.int64)]
    run = in_session(lambda x, n: {"sum": tf.reduce_sum(x, 1), "rest": [x * 2, (n + 1,)]}, specs, threads=2)
    result = run(tf.constant([[1.0, 2.0], [3.0, 4.0]]), 41)
    assert result["sum"].tolist() == [3.0, 7.0] and result["rest"][0].tolist() == [[2.0, 4.0], [6.0, 8.0]]
    assert result["rest"][1][0] == 42 and type(result["sum"]) is np.ndarray
    assert run(np.ones((2, 5), np.float32), 0)["sum"].tolist() == [5.0, 5.0]


def test_it_takes_no_other_shape() -> None:
    run = in_session(lambda x: x + 1, [tf.TensorSpec((2, 3))], threads=1)
    with pytest.raises(ValueError, match="shape"):
        run(np.ones((3, 3), np.float32))


@pytest.mark.parametrize(
    "make",
    [lambda body, specs: in_session(body, specs, threads=2), lambda body, specs: freeze(body, *specs)],
    ids=["session", "frozen function"],
)
def test_a_graph_is_planned_once_by_the_first_of_several_threads(make: Any) -> None:
    inside, most, lock, both = 0, [], threading.Lock(), threading.Barrier(2)

    def enter(x: np.ndarray, wait: bool) -> np.ndarray:
        nonlocal inside
        with lock:
            inside += 1
            most.append(inside)
        if wait:
            both.wait(30)  # passes only if both threads are inside
        else:
            time.sleep(0.2)
        with lock:
            inside -= 1
        return x

    def body(x: tf.Tensor, wait: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(enter, [x, wait], tf.float32), (2,))

    run = make(body, [tf.TensorSpec((2,)), tf.TensorSpec((), tf.bool)])
    with ThreadPoolExecutor(2) as threads:
        given = [np.full(2, number, np.float32) for number in range(2)]
        first = list(threads.map(run, given, [np.array(False)] * 2))
        assert most == [1, 1]  # the second waits for the first, which plans
        again = list(threads.map(run, given, [np.array(True)] * 2))
    assert sorted(most[2:]) == [1, 2]
    for outputs in (first, again):
        np.testing.assert_array_equal(outputs, given)


def test_several_threads_may_call_at_the_same_time() -> None:
    weights = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    run = in_session(lambda x: tf.matmul(x, weights), [tf.TensorSpec((None, 64))], threads=2)
    given = [np.full((50 + number, 64), number, np.float32) for number in range(40)]
    with ThreadPoolExecutor(4) as threads:
        for x, product in zip(given, threads.map(run, given), strict=True):
            np.testing.assert_allclose(product, x @ weights, rtol=1e-4, atol=1e-3)


def test_a_session_that_nobody_holds_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    made, new = [], tf.compat.v1.Session

    def kept(*args: Any, **options: Any) -> Any:
        session = new(*args, **options)
        made.append(weakref.ref(session))
        return session

    monkeypatch.setattr(tf.compat.v1, "Session", kept)
    run = in_session(lambda x: x + 1, [tf.TensorSpec(())], threads=1)
    assert run(1.0) == 2 and made[0]() is not None
    del run
    gc.collect()
    assert made[0]() is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted as Linux lists them")
@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="on a GPU batches stay whole")
def test_after_devices_are_prepared_a_session_owns_a_thread_for_operations_beside_those_that_run_them(
    program: Any,
) -> None:
    code = """
        import os
        import tensorflow as tf
        from pipeline.compiled.cpu_session import in_session
        from pipeline.compiled.devices import prepare_devices

        def started(threads):
            before = len(os.listdir("/proc/self/task"))
            run = in_session(lambda x: tf.matmul(x, x), [tf.TensorSpec((2, 2))], threads)
            run([[1.0, 0.0], [0.0, 1.0]])
            kept.append(run)
            return len(os.listdir("/proc/self/task")) - before

        kept = []
        prepare_devices()
        tf.matmul(tf.ones((2, 2)), tf.ones((2, 2)))
        print(started(2), started(4))
    """
    child = program(textwrap.dedent(code))
    assert child.out.split() == ["3", "5"], child.err
