"""The layers that the logits are computed from: in another order of axes, computed a second time, or not among them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.compiled.graph_walk import LogitsGraph, map_size


def run(function: Any, *shapes: Any) -> Any:
    """Run a function of tensors as a tf.function, on random numbers of these shapes."""
    random = np.random.default_rng(0)
    given = [tf.constant(random.normal(size=shape).astype(np.float32)) for shape in shapes]
    return tf.function(function, autograph=False)(*given)


def test_a_map_in_another_order_of_axes_is_traced_back_to_the_tensor_that_the_logits_use() -> None:
    def check(images: Any) -> Any:
        maps = tf.cast(tf.transpose(images, (0, 3, 1, 2)), tf.float16)  # the network's own: channels first, in half precision
        logits = tf.cast(tf.reduce_sum(maps, axis=(2, 3)), tf.float32)
        turned = tf.transpose(tf.cast(maps, tf.float32), (0, 2, 3, 1))
        returned = tf.ensure_shape(tf.transpose(turned, (0, 2, 1, 3)), (None, 5, 4, 3))
        layer = LogitsGraph(logits).locate(returned)
        assert layer.tensor is maps and [view.type for view in layer.views] == ["Cast", "Transpose", "Transpose", "EnsureShape"]
        return returned, layer.as_map(layer.tensor), layer.as_map(2 * layer.tensor)

    returned, as_map, doubled = run(check, (2, 4, 5, 3))
    assert as_map.dtype == tf.float32
    np.testing.assert_array_equal(as_map, returned)
    np.testing.assert_array_equal(doubled, 2 * returned)


def test_a_vector_is_read_as_a_map_of_one_by_one() -> None:
    def check(images: Any) -> Any:
        units = tf.reduce_mean(images, axis=(1, 2))
        layer = LogitsGraph(2 * units).locate(units[:, tf.newaxis, tf.newaxis, :])
        assert layer.tensor is units
        return layer.as_map(units)

    assert run(check, (2, 4, 5, 3)).shape == (2, 1, 1, 3)


@pytest.mark.parametrize(
    ("used", "returned", "same"),
    [
        (lambda x, other: tf.nn.relu(x), lambda x, other: tf.nn.relu(x), True),
        (lambda x, other: tf.nn.relu(x), lambda x, other: tf.nn.relu(other), False),
        (lambda x, other: tf.nn.relu(x), lambda x, other: tf.nn.relu6(x), False),
        (lambda x, other: tf.nn.relu(2 * x), lambda x, other: tf.nn.relu(3 * x), False),
        (lambda x, other: tf.split(x, 2, axis=2)[1] + 1, lambda x, other: tf.split(x, 2, axis=2)[1] + 1, True),
        (lambda x, other: tf.split(x, 2, axis=2)[1] + 1, lambda x, other: tf.split(x, 2, axis=2)[0] + 1, False),
        (lambda x, other: tf.nn.max_pool(x, 2, 1, "SAME"), lambda x, other: tf.nn.max_pool(x, 2, 1, "SAME"), True),
        (lambda x, other: tf.nn.max_pool(x, 2, 1, "SAME"), lambda x, other: tf.nn.max_pool(x, 3, 1, "SAME"), False),
    ],
)
def test_a_map_computed_a_second_time_is_traced_to_its_twin_and_one_that_only_looks_alike_is_not(
    used: Any, returned: Any, same: Any
) -> None:
    def check(x: Any, other: Any) -> Any:
        inside, outside = used(x, other), returned(x, other)
        assert inside is not outside
        layer = LogitsGraph(tf.reduce_sum(inside, axis=(1, 2))).locate(outside)
        assert layer.tensor is inside if same else layer is None
        return x

    run(check, (2, 4, 6, 3), (2, 4, 6, 3))


@pytest.mark.parametrize(("order", "shape"), [("NHWC", (2, 8, 9, 3)), ("NCHW", (2, 3, 8, 9))])
def test_a_map_has_its_height_and_width_in_either_order_of_axes(order: Any, shape: Any) -> None:
    def check(images: Any) -> Any:
        convolved = tf.nn.conv2d(images, tf.ones((3, 3, 3, 5)), 1, "VALID", data_format=order)
        assert map_size(convolved.op) == (6, 7) and map_size(tf.reduce_sum(convolved).op) == (1, 1)
        return images

    run(check, shape)
