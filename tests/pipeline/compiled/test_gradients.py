"""Gradient rules: what tf.gradients computes instead, for which operations, and that nothing runs forward otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.compiled.convolution_gradients import lighten
from pipeline.compiled.gradients import (
    GUIDED,
    OPENED,
    WITHOUT_CEILING,
    GradientRule,
    deterministic_gradients,
    replace_gradients,
    replaced_gradients,
)

VALUES = np.float32([[-2.0, 0.5, 7.0]])


def gradients_of(function: Any, *values: Any) -> Any:
    """Outputs of a function of tensors in a graph, and whatever it asked tf.gradients for."""
    return [value.numpy() for value in tf.function(function, autograph=False)(*map(tf.constant, values))]


@pytest.mark.parametrize(
    ("rule", "activation", "expected"),
    [
        (WITHOUT_CEILING, tf.nn.relu6, [0, 3, 3]),
        (WITHOUT_CEILING, tf.nn.relu, [0, 3, 3]),
        (OPENED, tf.nn.relu6, [0, 3, 0]),  # a part of the gradient passes
        (OPENED, lambda x: tf.nn.relu(x - 10.0), [3, 3, 3]),
        (OPENED, lambda x: tf.nn.relu6(x + 10.0), [3, 3, 3]),
        (OPENED, lambda x: tf.nn.relu6(x - 10.0) + 0 * x, [3, 3, 3]),
    ],
)
def test_a_rule_changes_the_gradients_of_what_its_block_adds_and_no_forward_value(
    rule: Any, activation: Any, expected: Any
) -> None:
    def both(x: Any) -> Any:
        with replaced_gradients(rule):
            inside = activation(x)
        outside = activation(x)
        return inside, outside, tf.gradients(3 * inside, x)[0], tf.gradients(3 * outside, x)[0]

    inside, outside, changed, plain = gradients_of(both, VALUES)
    np.testing.assert_array_equal(inside, outside)
    assert changed.tolist() == [expected]
    with tf.GradientTape() as tape:
        x = tf.constant(VALUES)
        tape.watch(x)
        value = 3 * activation(x)
    np.testing.assert_array_equal(plain, tape.gradient(value, x))


def test_opened_relus_let_pass_the_gradients_of_those_images_alone_that_would_have_none() -> None:
    def slope(images: Any) -> Any:
        with replaced_gradients(OPENED):
            return [tf.gradients(tf.nn.relu(images), images)[0]]

    assert gradients_of(slope, np.float32([[-1.0, -2.0], [-1.0, 2.0]]))[0].tolist() == [[1, 1], [0, 1]]


def test_a_guided_operation_passes_its_own_gradient_of_what_is_positive_from_above() -> None:
    def guided(x: Any, above: Any) -> Any:
        value = tf.nn.leaky_relu(x, 0.25)
        before = tf.gradients(value, x, grad_ys=above)[0]
        replace_gradients([value.op], GUIDED)
        return before, tf.gradients(value, x, grad_ys=above)[0]

    before, after = gradients_of(guided, np.float32([-1, -1, 2, 2]), np.float32([4, -4, 4, -4]))
    assert before.tolist() == [1, -1, 4, -4] and after.tolist() == [1, 0, 4, 0]


def test_rules_add_up_in_the_order_in_which_they_are_given() -> None:
    doubled = GradientRule("Doubled", lambda operation, own, above: 2 * own(operation, above))

    def both(x: Any, above: Any) -> Any:
        value = tf.nn.relu6(x)
        replace_gradients([value.op], WITHOUT_CEILING)
        replace_gradients([value.op], doubled)
        replace_gradients([value.op], GUIDED)
        return [tf.gradients(value, x, grad_ys=above)[0]]

    assert gradients_of(both, np.float32([-1, 7, 7]), np.float32([1, 1, -1]))[0].tolist() == [0, 2, 0]


def test_an_error_in_the_block_is_raised_as_it_is() -> None:
    with tf.Graph().as_default(), pytest.raises(KeyError, match="layer"), replaced_gradients(OPENED):
        raise KeyError("layer")


@pytest.mark.parametrize(("kind", "dtype"), [("FusedBatchNorm", "f4"), ("FusedBatchNormV2", "f2"), ("FusedBatchNormV3", "f2")])
def test_batch_normalisation_in_inference_mode_has_a_gradient_without_an_operation_of_its_own(kind: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    x, above = rng.normal(size=(2, 2, 3, 5, 4)).astype(dtype)
    scale, offset, mean, variance = rng.uniform(0.5, 2, (4, 4)).astype(np.float32)

    def both(x: Any, above: Any, scale: Any, offset: Any) -> Any:
        options = {"mean": mean, "variance": variance, "epsilon": 0.01, "is_training": False}
        y = getattr(tf.raw_ops, kind)(x=x, scale=scale, offset=offset, **options).y
        theirs = tf.gradients(y, [x, scale, offset], grad_ys=above)
        ours = deterministic_gradients(y, [x, scale, offset], grad_ys=above)
        first = getattr(tf.raw_ops, kind)(
            x=tf.transpose(x, (0, 3, 1, 2)), scale=scale, offset=offset, data_format="NCHW", **options
        ).y
        return *theirs, *ours, *deterministic_gradients(first, [x, scale, offset], grad_ys=tf.transpose(above, (0, 3, 1, 2)))

    (*theirs,) = gradients_of(both, x, above, scale, offset)
    for ours in (theirs[3:6], theirs[6:]):
        for own, other in zip(ours, theirs[:3], strict=True):
            assert own.dtype == other.dtype
            np.testing.assert_allclose(own, other, rtol=2e-3 if dtype == "f2" else 1e-5, atol=2e-2 if dtype == "f2" else 1e-5)


@pytest.mark.parametrize("options", [{}, {"align_corners": True}, {"half_pixel_centers": True}], ids=str)
@pytest.mark.parametrize("size", [(6, 8), (5, 9), (2, 3), (1, 7)], ids=str)
def test_nearest_resizing_has_a_gradient_without_an_operation_of_its_own(size: tuple[int, int], options: dict) -> None:
    rng = np.random.default_rng(0)
    x, above = rng.normal(size=(2, 3, 4, 2)).astype(np.float32), rng.normal(size=(2, *size, 2)).astype(np.float32)

    def both(x: Any, above: Any) -> Any:
        y = tf.raw_ops.ResizeNearestNeighbor(images=x, size=size, **options)
        return [tf.gradients(y, x, grad_ys=above)[0], deterministic_gradients(y, x, grad_ys=above)[0]]

    theirs, ours = gradients_of(both, x, above)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_batch_normalisation_in_training_mode_keeps_its_own_gradient() -> None:
    def both(x: Any) -> Any:
        y = tf.compat.v1.nn.fused_batch_norm(x, [2.0, 1.0], [0.0, 1.0], is_training=True)[0] ** 2
        return [tf.gradients(y, x)[0], deterministic_gradients(y, x)[0]]

    theirs, ours = gradients_of(both, np.random.default_rng(0).normal(size=(2, 3, 3, 2)).astype(np.float32))
    np.testing.assert_array_equal(ours, theirs)


def _conv(x: Any, kernel: Any, **options: Any) -> Any:
    options = {"strides": [1, 1, 1, 1], "padding": "SAME", **options}
    make = tf.raw_ops.DepthwiseConv2dNative if options.pop("depthwise", False) else tf.raw_ops.Conv2D
    return make(input=x, filter=kernel, **options)


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ((1, 1, 4, 6), {}),
        ((1, 1, 4, 6), {"strides": [1, 2, 2, 1]}),
        ((1, 1, 4, 6), {"padding": "EXPLICIT", "explicit_paddings": [0, 0, 1, 0, 0, 2, 0, 0]}),
        ((3, 3, 4, 6), {"strides": [1, 2, 2, 1], "padding": "VALID"}),
        ((3, 3, 4, 6), {"dilations": [1, 2, 2, 1]}),
        ((1, 1, 2, 6), {}),  # of two groups
        ((3, 3, 4, 2), {"depthwise": True, "strides": [1, 2, 2, 1]}),
        ((3, 3, 4, 1), {"depthwise": True, "padding": "VALID"}),
    ],
)
@pytest.mark.parametrize("scaled", ["by channel", "by position", "not"])
def test_lighter_gradients_of_convolutions_are_those_of_tensorflow(kernel: Any, options: Any, scaled: str) -> None:
    random = np.random.default_rng(0)
    images = random.normal(size=(2, 6, 6, 4)).astype(np.float32)
    weights = random.normal(size=kernel).astype(np.float32)

    def both(x: Any, w: Any) -> list[Any]:
        answers = _conv(x, w, **options)
        shape = {"by channel": answers.shape[3:], "by position": (1, *answers.shape[1:3], 1), "not": ()}[scaled]
        score = tf.reduce_sum(tf.sin(answers * random.uniform(0.5, 2, shape).astype(np.float32)))
        plain = tf.gradients(score, [x, w])
        lighten(tf.compat.v1.get_default_graph().get_operations())
        lighter = tf.gradients(score, [x, w])
        last = lighter[0].op.inputs[0].op if lighter[0].op.type == "EnsureShape" else lighter[0].op
        given = last.inputs[0 if last.type == "Conv2D" else 2]
        return [*plain, *lighter, tf.constant(given.op.type == "Mul" and given.op.inputs[1].shape.rank == 1)]

    by_images, by_kernel, lighter, of_kernel, takes_a_product = gradients_of(both, images, weights)
    np.testing.assert_allclose(lighter, by_images, atol=1e-5)
    np.testing.assert_allclose(of_kernel, by_kernel, atol=1e-5)
    assert not takes_a_product  # of the gradient by channel and numbers by channel
