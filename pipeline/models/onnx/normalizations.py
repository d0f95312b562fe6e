"""Operators that normalise by the statistics of an image or of a token."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import tensorflow as tf

from pipeline.models.onnx.values import NodeCall, Value, plain, stored_last


def _normalised(x: tf.Tensor, axes: list[int], epsilon: float) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Zero mean and variance one over some axes; the mean, and what was multiplied by."""
    mean = tf.reduce_mean(x, axes, keepdims=True)
    factor = tf.math.rsqrt(tf.reduce_mean(tf.math.squared_difference(x, mean), axes, keepdims=True) + tf.cast(epsilon, x.dtype))
    return (x - mean) * factor, mean, factor


def _instance(call: NodeCall) -> Value:
    value = stored_last(call.need(0))
    x = call.tensor_of(value.data)
    result, _, _ = _normalised(x, list(range(1, value.rank - 1)), call.attr("epsilon", 1e-5))
    return Value(result * call.tensor(1) + call.tensor(2), value.last)


def _layer(call: NodeCall) -> list[Any]:
    value = plain(call.need(0))
    x = call.tensor_of(value.data)
    axes = list(range(call.attr("axis", -1) % value.rank, value.rank))
    wide = tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x
    result, mean, factor = _normalised(wide, axes, call.attr("epsilon", 1e-5))
    result = tf.cast(result, x.dtype) * call.tensor(1)
    result = result + call.tensor(2) if call.has(2) else result
    return [Value(result, maps=call.need(0).maps), mean, factor][: call.outputs]


def _rms(call: NodeCall) -> Value:
    value = plain(call.need(0))
    x = call.tensor_of(value.data)
    axes = list(range(call.attr("axis", -1) % value.rank, value.rank))
    mean = tf.reduce_mean(tf.square(x), axes, keepdims=True)
    return Value(x * tf.math.rsqrt(mean + tf.cast(call.attr("epsilon", 1e-5), x.dtype)) * call.tensor(1), maps=call.need(0).maps)


def _group(call: NodeCall) -> tf.Tensor:
    value = plain(call.need(0))
    shape, groups = value.shape, call.attr("num_groups")
    x = call.reshape(call.tensor_of(value.data), [shape[0], groups, shape[1] // groups * prod(shape[2:])])
    result, _, _ = _normalised(x, [2], call.attr("epsilon", 1e-5))
    ones = [1] * (len(shape) - 2)
    if call.opset < 21:  # a scale a group
        split = call.reshape(result, [shape[0], groups, shape[1] // groups, *shape[2:]])
        scale, bias = (tf.reshape(call.tensor(index), (1, groups, 1, *ones)) for index in (1, 2))
        return call.reshape(split * scale + bias, shape)
    scale, bias = (tf.reshape(call.tensor(index), (1, shape[1], *ones)) for index in (1, 2))
    return call.reshape(result, shape) * scale + bias


def _mean_variance(call: NodeCall) -> Value:
    value = call.need(0)
    x = call.tensor_of(value.data)
    axes = [value.stored_axis(axis) for axis in call.attr("axes") or (0, 2, 3)]
    mean = tf.reduce_mean(x, axes, keepdims=True)
    deviation = tf.sqrt(tf.reduce_mean(tf.square(x), axes, keepdims=True) - tf.square(mean))
    return Value((x - mean) / (deviation + 1e-9), value.last)


OPERATORS: dict[str, Callable[[NodeCall], Any]] = {
    "GroupNormalization": _group,
    "InstanceNormalization": _instance,
    "LayerNormalization": _layer,
    "MeanVarianceNormalization": _mean_variance,
    "RMSNormalization": _rms,
}
