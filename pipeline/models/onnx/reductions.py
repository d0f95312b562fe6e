"""Operators that sum up axes, sort along them, or turn them into probabilities, and matrix products."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import tensorflow as tf

from pipeline.models.onnx.values import CannotTranslate, NodeCall, Value, plain


def _reduced(function: Callable[..., tf.Tensor], call: NodeCall) -> Any:
    value = call.need(0)
    axes = call.integers(1, "axes")
    keep = bool(call.attr("keepdims", 1))
    if not axes:
        if call.attr("noop_with_empty_axes", 0):
            return _elementwise(call, value)
        axes = list(range(value.rank))
    axes = sorted(axis % value.rank for axis in axes) if value.rank else []
    if value.last and not keep:
        rest = [value.stored_axis(axis) for axis in range(value.rank) if axis not in axes]
        value = value if rest == sorted(rest) else plain(value)
    stored = [value.stored_axis(axis) for axis in axes]
    x = call.tensor_of(value.data)
    if x.dtype == tf.bool:
        logical = tf.reduce_any if call.kind == "ReduceMax" else tf.reduce_all
        result = logical(x, stored, keepdims=keep)
    else:
        result = function(x, stored, keepdims=keep)
    return Value(result, value.last and keep, value.maps and keep)


def _elementwise(call: NodeCall, value: Value) -> Value:
    """What a reduction over no axis does: its function of each number."""
    each: dict[str, Callable[[Any], Any]] = {"ReduceL1": tf.abs, "ReduceL2": tf.abs, "ReduceSumSquare": tf.square}
    each["ReduceLogSum"] = tf.math.log
    x = call.tensor_of(value.data)
    return Value(each.get(call.kind, tf.identity)(x), value.last)


def _l1(x: tf.Tensor, axes: Any, keepdims: bool) -> tf.Tensor:
    return tf.reduce_sum(tf.abs(x), axes, keepdims=keepdims)


def _l2(x: tf.Tensor, axes: Any, keepdims: bool) -> tf.Tensor:
    total = tf.reduce_sum(tf.square(x), axes, keepdims=keepdims)
    return tf.sqrt(total) if x.dtype.is_floating else tf.cast(tf.sqrt(tf.cast(total, tf.float64)), x.dtype)


def _log_sum(x: tf.Tensor, axes: Any, keepdims: bool) -> tf.Tensor:
    return tf.math.log(tf.reduce_sum(x, axes, keepdims=keepdims))


def _sum_square(x: tf.Tensor, axes: Any, keepdims: bool) -> tf.Tensor:
    return tf.reduce_sum(tf.square(x), axes, keepdims=keepdims)


def _softmax(function: Callable[..., tf.Tensor], call: NodeCall) -> Any:
    value = call.need(0)
    if call.opset >= 13:
        axis = call.attr("axis", -1)
        return Value(function(call.tensor_of(value.data), axis=value.stored_axis(axis)), value.last, value.maps)
    axis = call.attr("axis", 1) % max(value.rank, 1)
    shape = value.shape
    flat = call.reshape(call.tensor(0), [prod(shape[:axis]), prod(shape[axis:])])
    return call.reshape(function(flat), shape)


def _hardmax(x: tf.Tensor, axis: int = -1) -> tf.Tensor:
    return tf.one_hot(tf.argmax(x, axis), x.shape[axis], axis=axis, dtype=x.dtype)


def _arg(function: Callable[..., tf.Tensor], call: NodeCall) -> tf.Tensor:
    x, axis = call.tensor(0), call.attr("axis", 0)
    if call.attr("select_last_index", 0):
        result = tf.cast(x.shape[axis] - 1, tf.int64) - function(tf.reverse(x, [axis % x.shape.rank]), axis)
    else:
        result = function(x, axis)
    return tf.expand_dims(result, axis) if call.attr("keepdims", 1) else result


def _top_k(call: NodeCall) -> list[tf.Tensor]:
    x, axis = call.tensor(0), call.attr("axis", -1)
    k = int(call.integers(1, "k")[0])
    order = list(range(x.shape.rank))
    axis %= x.shape.rank
    order[axis], order[-1] = order[-1], order[axis]
    turned = tf.transpose(x, order)
    largest = call.attr("largest", 1)
    # Ties by the lower index, in both directions.
    index = tf.argsort(turned, direction="DESCENDING" if largest else "ASCENDING", stable=True)[..., :k]
    values = tf.gather(turned, index, batch_dims=turned.shape.rank - 1)
    return [tf.transpose(values, order), tf.cast(tf.transpose(index, order), tf.int64)]


def _cum(function: Callable[..., tf.Tensor], call: NodeCall) -> tf.Tensor:
    axis = int(call.static(1).reshape(()))
    return function(call.tensor(0), axis, exclusive=bool(call.attr("exclusive", 0)), reverse=bool(call.attr("reverse", 0)))


def _matmul(call: NodeCall) -> Any:
    first, second = call.need(0), call.need(1)
    a, b = call.tensor(0), call.tensor(1)
    ranks = (a.shape.rank, b.shape.rank)
    a = a[tf.newaxis] if ranks[0] == 1 else a
    b = b[:, tf.newaxis] if ranks[1] == 1 else b
    if ranks[1] == 2 and ranks[0] > 2 and second.is_static:
        shape = plain(first).shape
        flat = call.reshape(a, [prod(shape[:-1]), shape[-1]])
        result = call.reshape(tf.matmul(flat, b), [*shape[:-1], int(b.shape[-1])])
        return Value(result, maps=ranks[0] == 4)
    result = tf.matmul(a, b) if a.dtype.is_floating else tf.cast(tf.matmul(tf.cast(a, tf.int64), tf.cast(b, tf.int64)), a.dtype)
    result = tf.squeeze(result, -2) if ranks[0] == 1 else result
    return tf.squeeze(result, -1) if ranks[1] == 1 else result


def _gemm(call: NodeCall) -> tf.Tensor:
    a, b = call.tensor(0), call.tensor(1)
    alpha, beta = call.attr("alpha", 1.0), call.attr("beta", 1.0)
    result = tf.linalg.matmul(a, b, transpose_a=bool(call.attr("transA", 0)), transpose_b=bool(call.attr("transB", 0)))
    result = result if alpha == 1 else tf.cast(alpha, result.dtype) * result
    if not call.has(2):
        return result
    c = call.tensor(2)
    c = c if beta == 1 else tf.cast(beta, c.dtype) * c
    return tf.nn.bias_add(result, c) if c.shape.rank == 1 and c.shape[0] == result.shape[1] else result + c


def _einsum(call: NodeCall) -> tf.Tensor:
    equation = call.attr("equation")
    text = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    return tf.einsum(text, *(call.tensor(index) for index in range(len(call.inputs))))


def _det(call: NodeCall) -> tf.Tensor:
    return tf.linalg.det(call.tensor(0))


def _lp_normalization(call: NodeCall) -> Value:
    value = call.need(0)
    x, axis, order = call.tensor_of(value.data), value.stored_axis(call.attr("axis", -1)), call.attr("p", 2)
    if order not in (1, 2):
        raise CannotTranslate(f"asks for the norm of order {order}")
    norm = _l1(x, [axis], True) if order == 1 else _l2(x, [axis], True)
    return Value(tf.math.divide_no_nan(x, norm), value.last)


_REDUCTIONS: dict[str, Callable[..., tf.Tensor]] = {
    "ReduceL1": _l1,
    "ReduceL2": _l2,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": tf.reduce_logsumexp,
    "ReduceMax": tf.reduce_max,
    "ReduceMean": tf.reduce_mean,
    "ReduceMin": tf.reduce_min,
    "ReduceProd": tf.reduce_prod,
    "ReduceSum": tf.reduce_sum,
    "ReduceSumSquare": _sum_square,
}

OPERATORS: dict[str, Callable[[NodeCall], Any]] = {
    **{kind: partial(_reduced, function) for kind, function in _REDUCTIONS.items()},
    "ArgMax": partial(_arg, tf.argmax),
    "ArgMin": partial(_arg, tf.argmin),
    "CumProd": partial(_cum, tf.math.cumprod),
    "CumSum": partial(_cum, tf.math.cumsum),
    "Det": _det,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "Hardmax": partial(_softmax, _hardmax),
    "LogSoftmax": partial(_softmax, tf.nn.log_softmax),
    "LpNormalization": _lp_normalization,
    "MatMul": _matmul,
    "Softmax": partial(_softmax, tf.nn.softmax),
    "TopK": _top_k,
}
