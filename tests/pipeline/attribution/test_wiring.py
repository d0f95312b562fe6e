"""Where a layer lies on the way to the logits: seen through other axes, computed once more, or not at all."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from pipeline.compiled.graph_walk import Way, map_size


def draw(function, *shapes):
    """A function of tensors, run in a graph on random ones."""
    random = np.random.default_rng(0)
    given = [tf.constant(random.normal(size=shape).astype(np.float32)) for shape in shapes]
    return tf.function(function, autograph=False)(*given)


def test_a_layer_seen_through_other_axes_is_tapped_where_the_logits_take_it():
    def look(images):
        maps = tf.cast(tf.transpose(images, (0, 3, 1, 2)), tf.float16)  # the network's own: channels first, in half precision
        logits = tf.cast(tf.reduce_sum(maps, axis=(2, 3)), tf.float32)
        turned = tf.transpose(tf.cast(maps, tf.float32), (0, 2, 3, 1))
        seen = tf.ensure_shape(tf.transpose(turned, (0, 2, 1, 3)), (None, 5, 4, 3))
        tap = Way(logits).tap(seen)
        assert tap.tensor is maps and [view.type for view in tap.views] == ["Cast", "Transpose", "Transpose", "EnsureShape"]
        return seen, tap.show(tap.tensor), tap.show(2 * tap.tensor)

    seen, shown, doubled = draw(look, (2, 4, 5, 3))
    assert shown.dtype == tf.float32
    np.testing.assert_array_equal(shown, seen)
    np.testing.assert_array_equal(doubled, 2 * seen)


def test_vectors_are_tapped_as_maps_of_one_place():
    def look(images):
        units = tf.reduce_mean(images, axis=(1, 2))
        tap = Way(2 * units).tap(units[:, tf.newaxis, tf.newaxis, :])
        assert tap.tensor is units
        return tap.show(units)

    assert draw(look, (2, 4, 5, 3)).shape == (2, 1, 1, 3)


@pytest.mark.parametrize(
    ("on_the_way", "layer", "same"),
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
def test_what_is_computed_once_more_is_tapped_on_the_way_and_what_only_looks_like_it_is_not(on_the_way, layer, same):
    def look(x, other):
        used, beside = on_the_way(x, other), layer(x, other)
        assert used is not beside
        tap = Way(tf.reduce_sum(used, axis=(1, 2))).tap(beside)
        assert tap.tensor is used if same else tap is None
        return x

    draw(look, (2, 4, 6, 3), (2, 4, 6, 3))


@pytest.mark.parametrize(("order", "shape"), [("NHWC", (2, 8, 9, 3)), ("NCHW", (2, 3, 8, 9))])
def test_a_map_has_its_height_and_width_in_either_order_of_axes(order, shape):
    def look(images):
        convolved = tf.nn.conv2d(images, tf.ones((3, 3, 3, 5)), 1, "VALID", data_format=order)
        assert map_size(convolved.op) == (6, 7) and map_size(tf.reduce_sum(convolved).op) == (1, 1)
        return images

    draw(look, shape)
