"""Gradients of convolutions that cost less than TensorFlow's: of the same numbers, but for the last digits.

A normalisation's gradient multiplies every channel by a number before the convolution's own takes it. These numbers go into the
kernel, which is a constant, and a pass over a whole map is saved. The gradient of a convolution of one pixel is a convolution of
one pixel too, with the kernel transposed, and oneDNN computes that faster than the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from pipeline.compiled.gradients import GradientRule, replace_gradients


def lighten(operations: Iterable[tf.Operation]) -> None:
    """Give the convolutions among some operations the lighter gradients, for every later `tf.gradients`."""
    replace_gradients((operation for operation in operations if operation.type in _LIGHTER.types), _LIGHTER)


def _gradient(operation: tf.Operation, registered: Callable[..., Any], above: tf.Tensor) -> list[tf.Tensor]:
    _, by_kernel = registered(operation, above)
    images, kernel = operation.inputs
    channels_first = operation.get_attr("data_format") == b"NCHW"
    below, factors = _factored(above, 1 if channels_first else 3)
    if factors is not None:  # of a depthwise kernel, both last axes are output channels
        kernel *= tf.reshape(factors, tf.shape(kernel)[3 if operation.type == "Conv2D" else 2 :])
    names = ("strides", "padding", "explicit_paddings", "data_format", "dilations")
    options = {name: operation.get_attr(name) for name in names}
    options |= {name: options[name].decode() for name in ("padding", "data_format")}
    if operation.type == "DepthwiseConv2dNative":
        backwards = tf.raw_ops.DepthwiseConv2dNativeBackpropInput
    elif _of_one_pixel(operation, kernel, images.shape[1 if channels_first else 3]):
        return [tf.raw_ops.Conv2D(input=below, filter=tf.transpose(kernel, [0, 1, 3, 2]), **options), by_kernel]
    else:
        backwards = tf.raw_ops.Conv2DBackpropInput
    by_images = backwards(input_sizes=tf.shape(images), filter=kernel, out_backprop=below, **options)
    return [tf.ensure_shape(by_images, images.shape), by_kernel]


def _of_one_pixel(operation: tf.Operation, kernel: tf.Tensor, channels: int | None) -> bool:
    """Whether each output is a sum over one pixel and all its channels."""
    whole = kernel.shape.rank == 4 and tuple(kernel.shape[:3]) == (1, 1, channels)
    return whole and operation.get_attr("padding") != b"EXPLICIT" and all(step == 1 for step in operation.get_attr("strides"))


def _factored(gradient: tf.Tensor, axis: int) -> tuple[tf.Tensor, tf.Tensor | None]:
    """A gradient as another one and what its channels are multiplied by, where it is such a product."""
    if gradient.op.type == "Mul":
        for whole, factors in (gradient.op.inputs, reversed(gradient.op.inputs)):
            if whole.shape.rank != 4 or factors.shape.rank is None:
                continue
            lengths = [1] * (4 - factors.shape.rank) + factors.shape.as_list()
            alone = [length for at, length in enumerate(lengths) if at != axis] == [1, 1, 1]
            if alone and lengths[axis] == whole.shape[axis]:
                return whole, factors
    return gradient, None


_LIGHTER = GradientRule("Lighter", _gradient, frozenset({"Conv2D", "DepthwiseConv2dNative"}))
