"""Operators that work on each number by itself: arithmetic, comparisons, activations, casts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
import tensorflow as tf

from pipeline.models.onnx.values import CannotTranslate, NodeCall, Value, aligned, stored_last

Unary = Callable[[tf.Tensor], tf.Tensor]


def _unary(function: Callable[..., Any], call: NodeCall, **defaults: Any) -> Value:
    value = call.need(0)
    arguments = {name: float(call.attr(name, default)) for name, default in defaults.items()}
    return Value(function(call.tensor_of(value.data), **arguments), value.last, value.maps)


def _chain(function: Callable[[Any, Any], Any], call: NodeCall) -> Value:
    data, last, maps = aligned([call.need(index) for index in range(len(call.inputs))])
    result = call.tensor_of(data[0])
    for other in data[1:]:
        result = function(result, call.tensor_of(other))
    return Value(result, last, maps)


def _mean(call: NodeCall) -> Value:
    total = _chain(tf.add, call)
    return Value(total.data / tf.cast(len(call.inputs), total.data.dtype), total.last, total.maps)


def _div(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    if x.dtype.is_floating:
        return tf.raw_ops.RealDiv(x=x, y=y)
    if x.dtype.is_unsigned:
        return x // y
    return tf.raw_ops.TruncateDiv(x=x, y=y)


def _mod(call: NodeCall) -> Value:
    if call.attr("fmod", 0):
        return _chain(_fmod, call)
    return _chain(tf.math.floormod, call)


def _fmod(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    wide = [tf.cast(z, tf.float32) if z.dtype in (tf.float16, tf.bfloat16) else z for z in (x, y)]
    return tf.cast(tf.raw_ops.TruncateMod(x=wide[0], y=wide[1]), x.dtype)


def _pow(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    known = tf.get_static_value(y)
    if known is not None and np.all(known == 2):
        return tf.square(x)
    if x.dtype.is_floating:
        return tf.pow(x, tf.cast(y, x.dtype))
    wide = tf.pow(tf.cast(x, tf.float64), tf.cast(y, tf.float64))
    return tf.cast(wide, x.dtype)


def _where(call: NodeCall) -> Value:
    data, last, maps = aligned([call.need(index) for index in range(3)])
    return Value(tf.where(*(call.tensor_of(part) for part in data)), last, maps)


def _clip(call: NodeCall) -> Value:
    value = call.need(0)
    result = call.tensor_of(value.data)
    bounds = [call.optional(1), call.optional(2)] if call.opset >= 11 else [call.attr("min"), call.attr("max")]
    low, high = (None if bound is None else tf.reshape(tf.cast(bound, result.dtype), ()) for bound in bounds)
    if low is not None and high is not None and _is(low, 0) and _is(high, 6) and result.dtype.is_floating:
        return Value(tf.nn.relu6(result), value.last, value.maps)
    if low is not None:
        result = tf.nn.relu(result) if _is(low, 0) and result.dtype.is_floating else tf.maximum(result, low)
    if high is not None:
        result = tf.minimum(result, high)
    return Value(result, value.last, value.maps)


def _is(bound: tf.Tensor, number: float) -> bool:
    known = tf.get_static_value(bound)
    return known is not None and float(known) == number


def _gelu(call: NodeCall) -> Value:
    return _unary(partial(tf.nn.gelu, approximate=_text(call.attr("approximate", b"none")) == "tanh"), call)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _prelu(call: NodeCall) -> Value:
    value, slope = call.need(0), call.need(1)
    data, last, maps = aligned([value, slope])
    x, a = (call.tensor_of(part) for part in data)
    return Value(tf.nn.relu(x) - a * tf.nn.relu(-x), last, maps)


def _cast(call: NodeCall) -> Value:
    value = call.need(0)
    if call.kind == "CastLike":
        dtype = tf.as_dtype(call.need(1).data.dtype)
    else:
        try:
            dtype = tf.as_dtype(onnx.helper.tensor_dtype_to_np_dtype(call.attr("to")))
        except (TypeError, KeyError):
            raise CannotTranslate("casts to a type that TensorFlow does not have") from None
    data = call.tensor_of(value.data)
    if data.dtype == tf.string or dtype == tf.string:
        raise CannotTranslate("casts texts")
    return Value(tf.cast(data, dtype), value.last, value.maps)


def _celu(x: tf.Tensor, alpha: float) -> tf.Tensor:
    return tf.nn.relu(x) + tf.minimum(tf.cast(0, x.dtype), alpha * tf.math.expm1(x / alpha))


def _elu(x: tf.Tensor, alpha: float) -> tf.Tensor:
    return tf.nn.elu(x) if alpha == 1 else tf.where(x > 0, x, alpha * tf.math.expm1(tf.minimum(x, 0)))


def _selu(x: tf.Tensor, alpha: float, gamma: float) -> tf.Tensor:
    return gamma * tf.where(x > 0, x, alpha * tf.math.expm1(tf.minimum(x, 0)))


def _hard_sigmoid(x: tf.Tensor, alpha: float, beta: float) -> tf.Tensor:
    return tf.minimum(tf.nn.relu(alpha * x + beta), tf.cast(1, x.dtype))


def _hard_swish(x: tf.Tensor) -> tf.Tensor:
    return x * tf.nn.relu6(x + 3) / 6


def _shrink(x: tf.Tensor, lambd: float, bias: float) -> tf.Tensor:
    zero = tf.zeros((), x.dtype)
    limit, shift = tf.cast(lambd, x.dtype), tf.cast(bias, x.dtype)
    return tf.where(x < -limit, x + shift, tf.where(x > limit, x - shift, zero))


def _is_inf(call: NodeCall) -> Value:
    value = call.need(0)
    x = call.tensor_of(value.data)
    signs = [sign for sign, name in ((1, "detect_positive"), (-1, "detect_negative")) if call.attr(name, 1)]
    hits = [tf.math.is_inf(x) & (tf.sign(x) == sign) for sign in signs]
    result = hits[0] if len(hits) == 1 else (hits[0] | hits[1] if hits else tf.not_equal(x, x) & False)
    return Value(result, value.last, value.maps)


def _shift(call: NodeCall) -> Value:
    run = tf.bitwise.left_shift if _text(call.attr("direction")) == "LEFT" else tf.bitwise.right_shift

    def shifted(x: tf.Tensor, by: tf.Tensor) -> tf.Tensor:
        width = tf.constant(8 * x.dtype.size, by.dtype)
        outside = (by < 0) | (by >= width)  # past its width a number is all sign
        rest = tf.zeros((), x.dtype)
        if run is tf.bitwise.right_shift and not x.dtype.is_unsigned:
            rest = tf.where(x < 0, tf.constant(-1, x.dtype), rest)
        return tf.where(outside, rest, run(x, tf.where(outside, tf.zeros((), by.dtype), by)))

    return _chain(shifted, call)


def _batch_norm(call: NodeCall) -> Value | list[Any]:
    """A constant scale and shift for each channel; in training mode, those of the batch's own statistics."""
    value = stored_last(call.need(0))
    x = call.tensor_of(value.data)
    scale, bias, mean, variance = (call.tensor(index) for index in range(1, 5))
    epsilon = call.attr("epsilon", 1e-5)
    if not call.attr("training_mode", 0):
        if call.outputs > 1 and call.opset >= 14:
            raise CannotTranslate("asks for running statistics outside of training")
        factor = tf.cast(scale, mean.dtype) * tf.math.rsqrt(variance + tf.cast(epsilon, variance.dtype))
        shift = tf.cast(bias, mean.dtype) - mean * factor
        return Value(x * tf.cast(factor, x.dtype) + tf.cast(shift, x.dtype), value.last)
    axes = list(range(x.shape.rank - 1))
    batch_mean = tf.reduce_mean(x, axes)
    spread = tf.math.reduce_variance(x, axes)
    result = (x - batch_mean) * tf.math.rsqrt(spread + epsilon) * scale + bias
    momentum = call.attr("momentum", 0.9)
    running = [mean * momentum + batch_mean * (1 - momentum), variance * momentum + spread * (1 - momentum)]
    return [Value(result, value.last), *running][: call.outputs]


def _dropout(call: NodeCall) -> Value | list[Any]:
    value = call.need(0)
    if call.has(2) and bool(call.static(2)) and not (call.has(1) and float(call.static(1)) == 0):
        raise CannotTranslate("drops at random: export the network in inference mode")
    if call.outputs > 1:
        return [value, Value(_all_true(call.tensor_of(value.data)), value.last)]
    return value


def _all_true(x: tf.Tensor) -> tf.Tensor:
    return tf.equal(x, x) | True


def _same(call: NodeCall) -> Value:
    return call.need(0)


_UNARY: dict[str, Unary] = {
    "Abs": tf.abs,
    "Acos": tf.acos,
    "Acosh": tf.acosh,
    "Asin": tf.asin,
    "Asinh": tf.asinh,
    "Atan": tf.atan,
    "Atanh": tf.atanh,
    "BitwiseNot": tf.bitwise.invert,
    "Ceil": tf.math.ceil,
    "Cos": tf.cos,
    "Cosh": tf.cosh,
    "Erf": tf.math.erf,
    "Exp": tf.exp,
    "Floor": tf.floor,
    "HardSwish": _hard_swish,
    "IsNaN": tf.math.is_nan,
    "Log": tf.math.log,
    "Mish": lambda x: x * tf.tanh(tf.math.softplus(x)),
    "Neg": tf.negative,
    "Not": tf.logical_not,
    "Reciprocal": lambda x: 1 / x,
    "Relu": tf.nn.relu,
    "Round": tf.round,
    "Sigmoid": tf.sigmoid,
    "Sign": tf.sign,
    "Sin": tf.sin,
    "Sinh": tf.sinh,
    "Softplus": tf.math.softplus,
    "Softsign": tf.nn.softsign,
    "Sqrt": tf.sqrt,
    "Tan": tf.tan,
    "Tanh": tf.tanh,
}
_PARAMETRIC: dict[str, tuple[Callable[..., Any], dict[str, float]]] = {
    "Celu": (_celu, {"alpha": 1.0}),
    "Elu": (_elu, {"alpha": 1.0}),
    "HardSigmoid": (_hard_sigmoid, {"alpha": 0.2, "beta": 0.5}),
    "LeakyRelu": (tf.nn.leaky_relu, {"alpha": 0.01}),
    "Selu": (_selu, {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}),
    "Shrink": (_shrink, {"lambd": 0.5, "bias": 0.0}),
    "Swish": (lambda x, alpha: x * tf.sigmoid(alpha * x), {"alpha": 1.0}),
    "ThresholdedRelu": (lambda x, alpha: tf.where(x > alpha, x, tf.zeros((), x.dtype)), {"alpha": 1.0}),
}


def _parametric(function: Callable[..., Any], defaults: dict[str, float]) -> Callable[[NodeCall], Value]:
    return lambda call: _unary(function, call, **defaults)


_CHAINS: dict[str, Callable[[Any, Any], Any]] = {
    "Add": tf.add,
    "Sub": tf.subtract,
    "Mul": tf.multiply,
    "Div": _div,
    "Pow": _pow,
    "Max": tf.maximum,
    "Min": tf.minimum,
    "Sum": tf.add,
    "And": tf.logical_and,
    "Or": tf.logical_or,
    "Xor": tf.math.logical_xor,
    "Equal": tf.equal,
    "Greater": tf.greater,
    "GreaterOrEqual": tf.greater_equal,
    "Less": tf.less,
    "LessOrEqual": tf.less_equal,
    "BitwiseAnd": tf.bitwise.bitwise_and,
    "BitwiseOr": tf.bitwise.bitwise_or,
    "BitwiseXor": tf.bitwise.bitwise_xor,
}

OPERATORS: dict[str, Callable[[NodeCall], Any]] = {
    **{kind: partial(_unary, function) for kind, function in _UNARY.items()},
    **{kind: _parametric(function, defaults) for kind, (function, defaults) in _PARAMETRIC.items()},
    **{kind: partial(_chain, function) for kind, function in _CHAINS.items()},
    "BatchNormalization": _batch_norm,
    "BitShift": _shift,
    "Cast": _cast,
    "CastLike": _cast,
    "Clip": _clip,
    "Dropout": _dropout,
    "Gelu": _gelu,
    "Identity": _same,
    "IsInf": _is_inf,
    "Mean": _mean,
    "Mod": _mod,
    "PRelu": _prelu,
    "Where": _where,
}
