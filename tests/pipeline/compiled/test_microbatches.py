"""A batch in micro-batches against the same batch at once."""

from __future__ import annotations

import gc
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.compiled import microbatches
from pipeline.compiled.microbatches import BATCHES_IN_FLIGHT, in_flight, in_microbatches, microbatch_size
from pipeline.errors import UnusableModel
from pipeline.models.network import LayerInfo


def with_maps(*shapes: Any) -> Any:
    """A network of layers of these shapes, as far as the size of a micro-batch depends on it."""
    return SimpleNamespace(layers=lambda: [LayerInfo(f"layer{number}", "Conv2D", shape) for number, shape in enumerate(shapes)])


@pytest.mark.parametrize(
    ("shape", "batch", "size"),
    [
        ((32, 32, 64), 256, 16),  # 256 KiB a map: 16 images are 4 MiB
        ((32, 32, 64), 100, 15),  # 7 of them: of 16 each, the last would be nearly empty
        ((32, 32, 64), 17, 9),
        ((32, 32, 64), 16, 16),
        ((512, 512, 64), 32, 4),  # a single map is too large: four all the same
        ((512, 512, 64), 9, 3),
        ((512, 512, 64), 3, 3),
        ((1, 1, 10), 512, 512),
    ],
)
def test_a_microbatch_is_four_mebibytes_of_the_largest_map_or_four_images_and_all_are_about_equal(
    shape: Any, batch: Any, size: Any
) -> None:
    assert microbatch_size(with_maps((1, 1, 3), shape, (1, 1, 2)), batch) == size


def test_where_there_is_a_gpu_a_batch_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind=None: ["a GPU"] if kind == "GPU" else [])
    assert microbatch_size(with_maps((512, 512, 64)), 32) == 32


@pytest.mark.parametrize("size", [1, 2, 4, 6])
def test_microbatches_give_what_the_whole_batch_gives_row_by_row(pixels: Any, size: Any) -> None:
    weights = tf.Variable(np.float32([[1, 2], [3, 4], [5, 6]]))

    def answer(images: Any, first: Any, floor: Any) -> Any:
        """Sums of every image, which images are above the floor, and by how much."""
        sums = tf.reduce_sum(tf.cast(images, tf.float32), axis=(1, 2)) @ weights
        above = tf.where(sums > floor)
        return {"sums": sums, "above": [above + tf.stack([first, 0]), tf.gather_nd(sums - floor, above)]}

    images, floor = pixels(6, 4, 4), np.float32([[17500, 25500]])
    of_batch = tf.TensorSpec((6, 4, 4, 3), tf.uint8)
    whole = answer(tf.constant(images), tf.constant(0, tf.int64), floor)
    run = in_microbatches(answer, size, of_batch, tf.TensorSpec((None, 2), tf.float32))
    result = run(images, floor)
    assert 0 < len(whole["above"][0]) < 12
    np.testing.assert_array_equal(result["sums"][:6], whole["sums"])
    np.testing.assert_array_equal(result["above"][0], whole["above"][0])
    np.testing.assert_array_equal(result["above"][1], whole["above"][1])
    assert result["sums"].shape[0] == -(-6 // size) * size and not np.any(result["sums"][6:])


def test_the_function_is_traced_once_however_many_microbatches_there_are(pixels: Any) -> None:
    kernel = tf.Variable(np.ones((3, 3, 3, 8), np.float32))
    traced = []

    def answer(images: Any, first: Any) -> Any:
        traced.append(images.shape)
        return tf.nn.conv2d(tf.cast(images, tf.float32), kernel, 1, "SAME")

    run = in_microbatches(answer, 2, tf.TensorSpec((64, 8, 8, 3), tf.uint8))
    result = run(pixels(64, 8, 8))
    assert traced == [(2, 8, 8, 3)] and result.shape == (64, 8, 8, 8)


@pytest.mark.parametrize(("cores", "each"), [(1, 1), (2, 1), (6, 1), (7, 7), (64, 64)])
def test_an_operation_has_one_thread_where_two_batches_have_microbatches_for_all_cores(
    monkeypatch: pytest.MonkeyPatch, cores: Any, each: Any
) -> None:
    asked = []
    monkeypatch.setattr(microbatches, "cpu_threads", lambda: cores)
    monkeypatch.setattr(microbatches, "in_session", lambda function, specs, threads, each: asked.append((threads, each)))
    in_microbatches(lambda images, first: tf.cast(images, tf.float32), 2, tf.TensorSpec((6, 4, 4, 3), tf.uint8))
    assert asked == [(cores, each)]


@pytest.mark.parametrize("size", [2, 6])
def test_microbatches_do_not_follow_later_changes_of_a_variable(pixels: Any, size: Any) -> None:
    weight = tf.Variable(2.0)
    run = in_microbatches(lambda images, first: tf.cast(images, tf.float32) * weight, size, tf.TensorSpec((6, 4, 4, 3), tf.uint8))
    weight.assign(3.0)
    images = pixels(6, 4, 4)
    np.testing.assert_array_equal(run(images), images * np.float32(2))


@pytest.mark.parametrize("size", [2, 6])
def test_a_function_that_calls_python_may_run_in_microbatches_too(pixels: Any, size: Any) -> None:
    def answer(images: Any, first: Any) -> Any:
        inverted = tf.numpy_function(lambda values: 255 - values, [images], tf.uint8)
        return tf.ensure_shape(inverted, images.shape)

    run = in_microbatches(answer, size, tf.TensorSpec((6, 4, 4, 3), tf.uint8))
    del answer
    gc.collect()
    images = pixels(6, 4, 4)
    np.testing.assert_array_equal(run(images), 255 - images)


@pytest.mark.parametrize("size", [2, 6])
def test_a_function_that_reads_a_table_is_refused_with_the_tables_name(size: Any) -> None:
    keys = tf.lookup.KeyValueTensorInitializer(tf.range(3, dtype=tf.int64), tf.range(3, dtype=tf.int64))
    table = tf.lookup.StaticHashTable(keys, -1)
    with pytest.raises(UnusableModel, match="table_handle.*Remove the layer"):
        in_microbatches(
            lambda images, first: table.lookup(tf.cast(images, tf.int64)), size, tf.TensorSpec((6, 4, 4, 3), tf.uint8)
        )


def test_the_next_items_run_while_the_caller_works_on_one_and_results_come_in_order() -> None:
    together = threading.Barrier(BATCHES_IN_FLIGHT, timeout=10)

    def run(number: int) -> int:
        together.wait()
        return number**2

    numbers = range(2 * BATCHES_IN_FLIGHT)
    assert list(in_flight(run, numbers)) == [number**2 for number in numbers]


def test_what_fails_in_flight_reaches_the_caller_and_nothing_runs_after_it() -> None:
    def run(number: int) -> float:
        begun.append(number)
        return 1 / (3 - number)

    begun: list[int] = []
    with pytest.raises(ZeroDivisionError):
        list(in_flight(run, range(100)))
    assert begun == list(range(len(begun))) and len(begun) <= 4 + BATCHES_IN_FLIGHT
