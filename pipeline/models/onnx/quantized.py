"""Quantised numbers as floats: what rounding does to values stays, gradients pass as if nothing had been rounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import tensorflow as tf

from pipeline.models.onnx.values import CannotTranslate, NodeCall, Value, plain

_RANGES = {tf.uint8: (0, 255), tf.int8: (-128, 127), tf.uint16: (0, 65535), tf.int16: (-32768, 32767)}


def _along(call: NodeCall, index: int, rank: int, axis: int) -> tf.Tensor:
    """A scale or a zero point of each slice of an axis, to be broadcast."""
    values = call.tensor(index)
    if values.shape.rank == 0 or values.shape.num_elements() == 1:
        return tf.reshape(values, ())
    if values.shape.rank != 1:
        raise CannotTranslate("is quantised in blocks")
    return tf.reshape(values, [-1 if dimension == axis % rank else 1 for dimension in range(rank)])


def _quantize(call: NodeCall) -> Value:
    """Whole numbers, as floats."""
    value = plain(call.need(0))
    x = tf.cast(call.tensor_of(value.data), tf.float32)
    axis = call.attr("axis", 1)
    kind = tf.uint8
    if call.has(2):
        kind = tf.as_dtype(call.need(2).data.dtype)
    elif call.attr("output_dtype"):
        kind = tf.as_dtype(onnx.helper.tensor_dtype_to_np_dtype(call.attr("output_dtype")))
    if kind not in _RANGES:
        raise CannotTranslate(f"gives {kind.name}")
    scale = tf.cast(_along(call, 1, value.rank, axis), tf.float32)
    zero = tf.cast(_along(call, 2, value.rank, axis), tf.float32) if call.has(2) else tf.constant(0.0)
    exact = x / scale
    low, high = _RANGES[kind]
    rounded = tf.clip_by_value(tf.round(exact) + zero, low, high)
    if call.batch is None:
        return Value(rounded)
    # What is added is a gradient and 0. The check of the rank, which is known, keeps TensorFlow from moving the zero point
    # that _dequantize takes off into that sum, where it is rounded.
    passed = tf.stop_gradient(rounded) + (exact - tf.stop_gradient(exact))
    return Value(tf.ensure_shape(passed, [None] * value.rank))


def _dequantize(call: NodeCall) -> Value:
    value = plain(call.need(0))
    axis = call.attr("axis", 1)
    scale = _along(call, 1, value.rank, axis)
    x = call.tensor_of(value.data)
    if x.dtype not in (*_RANGES, tf.int32, tf.float32):
        raise CannotTranslate(f"takes {x.dtype.name}")
    result = tf.cast(x, tf.float32)
    if call.has(2):
        result = result - tf.cast(_along(call, 2, value.rank, axis), tf.float32)
    return Value(tf.cast(result * tf.cast(scale, tf.float32), scale.dtype))


def _dynamic(call: NodeCall) -> list[Any]:
    x = call.tensor(0)
    low, high = tf.minimum(tf.reduce_min(x), 0.0), tf.maximum(tf.reduce_max(x), 0.0)
    scale = (high - low) / 255
    zero = tf.clip_by_value(tf.round(-low / scale), 0, 255)
    return [tf.clip_by_value(tf.round(x / scale) + zero, 0, 255), scale, tf.cast(zero, tf.uint8)]


OPERATORS: dict[str, Callable[[NodeCall], Any]] = {
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _dynamic,
    "QuantizeLinear": _quantize,
}
