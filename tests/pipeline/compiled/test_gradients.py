"""Gradient rules: what tf.gradients computes instead, for which operations, and that nothing runs forward otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.compiled.gradients import GUIDED, OPENED, WITHOUT_CEILING, GradientRule, replace_gradients, replaced_gradients

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
