"""Operators that slide windows over maps: convolutions, transposed ones, and pools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, prod
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.models.onnx.values import CannotTranslate, NodeCall, Value, plain

Pads = list[tuple[int, int]]


@dataclass(frozen=True)
class SlidingWindows:
    """How windows lie on a map, one number an axis: their sizes, strides, dilations; the pads before and after."""

    sizes: list[int]
    strides: list[int]
    dilations: list[int]
    pads: Pads

    @classmethod
    def of(cls, call: NodeCall, sizes: Sequence[int], inputs: Sequence[int]) -> SlidingWindows:
        """The windows that a node's attributes describe, for maps of one size."""
        axes = len(sizes)
        strides = list(call.attr("strides") or [1] * axes)
        dilations = list(call.attr("dilations") or [1] * axes)
        padding = list(call.attr("pads") or [0] * 2 * axes)
        pads = [(padding[axis], padding[axes + axis]) for axis in range(axes)]
        auto = _text(call.attr("auto_pad", "NOTSET"))
        reaches = [(size - 1) * step + 1 for size, step in zip(sizes, dilations, strict=True)]
        if auto.startswith("SAME"):
            pads = []
            for size, stride, reach in zip(inputs, strides, reaches, strict=True):
                total = max((ceil(size / stride) - 1) * stride + reach - size, 0)
                pads.append((total // 2, total - total // 2) if auto == "SAME_UPPER" else (total - total // 2, total // 2))
        elif auto == "VALID":
            pads = [(0, 0)] * axes
        return cls(list(sizes), strides, dilations, pads)

    @property
    def reaches(self) -> list[int]:
        return [(size - 1) * step + 1 for size, step in zip(self.sizes, self.dilations, strict=True)]

    def grown(self, inputs: Sequence[int]) -> Pads:
        """The pads with which the last window of a map ends where the map does: what `ceil_mode` adds behind."""
        pads = []
        for size, stride, reach, (low, high) in zip(inputs, self.strides, self.reaches, self.pads, strict=True):
            count = ceil((size + low + high - reach) / stride) + 1
            if (count - 1) * stride >= size + low:  # a window would begin in the pad behind
                count -= 1
            pads.append((low, max((count - 1) * stride + reach - size - low, 0)))
        return pads

    def name(self, inputs: Sequence[int]) -> str | None:
        """What TensorFlow calls these pads, for maps of one size; None where it has no name for them."""
        if not any(map(any, self.pads)):
            return "VALID"
        same = []
        for size, stride, reach in zip(inputs, self.strides, self.reaches, strict=True):
            total = max((ceil(size / stride) - 1) * stride + reach - size, 0)
            same.append((total // 2, total - total // 2))
        return "SAME" if same == self.pads else None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _conv(call: NodeCall) -> Value:
    x, kernel = call.channels_last(0), call.need(1)
    axes = x.shape.rank - 2
    weights = call.tensor_of(plain(kernel).data)
    windows = SlidingWindows.of(call, [int(size) for size in weights.shape[2:]], [int(size) for size in x.shape[1:-1]])
    weights = _turned(weights, plain(kernel), (*range(2, axes + 2), 1, 0))
    result = _convolved(x, weights, windows, call.attr("group", 1))
    return Value(tf.nn.bias_add(result, call.tensor(2)) if call.has(2) else result, last=True)


def _turned(weights: tf.Tensor, value: Value, order: Sequence[int]) -> tf.Tensor:
    return tf.constant(value.data.transpose(order)) if value.is_static else tf.transpose(weights, order)


def _convolved(x: tf.Tensor, weights: tf.Tensor, windows: SlidingWindows, groups: int) -> tf.Tensor:
    """Weights (spatial..., inputs, filters), filters in order of their groups."""
    axes = x.shape.rank - 2
    if axes == 1:
        flat = SlidingWindows([1, *windows.sizes], [1, *windows.strides], [1, *windows.dilations], [(0, 0), *windows.pads])
        return tf.squeeze(_convolved(x[:, tf.newaxis], weights[tf.newaxis], flat, groups), 1)
    sizes = [int(size) for size in x.shape[1:-1]]
    padding: Any = windows.name(sizes)
    if padding is None and (axes != 2 or max(map(max, windows.pads)) < 0 or min(map(min, windows.pads)) < 0):
        x, padding = tf.pad(x, [(0, 0), *windows.pads, (0, 0)]), "VALID"
    elif padding is None:
        padding = [(0, 0), *windows.pads, (0, 0)]
    channels, filters = int(x.shape[-1]), int(weights.shape[-1])
    if axes == 2 and groups == channels > 1:
        each = filters // groups
        depthwise = tf.reshape(weights, (*windows.sizes, channels, each))
        if not isinstance(padding, str):  # TensorFlow's optimizer crashes on a depthwise convolution with pads of its own
            x, padding = tf.pad(x, padding), "VALID"
        uneven = windows.strides[0] != windows.strides[1]
        if uneven or (max(windows.dilations) > 1 and max(windows.strides) > 1):
            x = x if padding == "VALID" else tf.pad(x, [(0, 0), *windows.pads, (0, 0)])
            result = tf.nn.depthwise_conv2d(x, depthwise, (1, 1, 1, 1), "VALID", dilations=windows.dilations)
            return result[:, :: windows.strides[0], :: windows.strides[1]]
        return tf.nn.depthwise_conv2d(x, depthwise, (1, *windows.strides, 1), padding, dilations=windows.dilations)
    run = tf.nn.conv2d if axes == 2 else tf.nn.conv3d
    if axes == 3:
        strides, dilations = (1, *windows.strides, 1), (1, *windows.dilations, 1)
    else:
        strides, dilations = tuple(windows.strides), tuple(windows.dilations)
    if axes == 3 and max(windows.dilations) > 1:
        weights, dilations = _dilated(weights, windows.dilations), (1,) * 5
    if groups == 1:
        return run(x, weights, strides, padding, dilations=dilations)
    # One convolution a group: TensorFlow has no gradient for all in one on a CPU.
    parts = zip(tf.split(x, groups, -1), tf.split(weights, groups, -1), strict=True)
    return tf.concat([run(part, kernel, strides, padding, dilations=dilations) for part, kernel in parts], -1)


def _dilated(weights: tf.Tensor, dilations: Sequence[int]) -> tf.Tensor:
    """Weights with zeros between them: what a dilated kernel is."""
    for axis, step in enumerate(dilations):
        if step > 1:
            size = int(weights.shape[axis])
            index = np.full((size - 1) * step + 1, size)
            index[::step] = np.arange(size)
            padded = tf.pad(weights, [(0, int(dimension == axis)) for dimension in range(weights.shape.rank)])
            weights = tf.gather(padded, index, axis=axis)
    return weights


def _conv_transpose(call: NodeCall) -> Value:
    """The whole transposed convolution, cut to what the pads leave."""
    x, kernel = call.channels_last(0), plain(call.need(1))
    axes = x.shape.rank - 2
    windows = SlidingWindows.of(call, kernel.shape[2:], [int(size) for size in x.shape[1:-1]])
    groups = call.attr("group", 1)
    extra = list(call.attr("output_padding") or [0] * axes)
    whole = [
        stride * (int(size) - 1) + reach
        for size, stride, reach in zip(x.shape[1:-1], windows.strides, windows.reaches, strict=True)
    ]
    pads = windows.pads
    asked = call.attr("output_shape")
    auto = _text(call.attr("auto_pad", "NOTSET"))
    if asked or auto.startswith("SAME"):
        asked = asked or [int(size) * stride for size, stride in zip(x.shape[1:-1], windows.strides, strict=True)]
        totals = [size + more - own for size, more, own in zip(whole, extra, list(asked)[-axes:], strict=True)]
        pads = [(t // 2, t - t // 2) if auto == "SAME_UPPER" else (t - t // 2, t // 2) for t in totals]
    weights = _turned(call.tensor_of(kernel.data), kernel, (*range(2, axes + 2), 1, 0))  # (spatial..., filters a group, inputs)
    weights = _dilated(weights, windows.dilations)
    parts = zip(tf.split(x, groups, -1), tf.split(weights, groups, -1), strict=True)
    batch = call.need(0).shape[0]
    results = []
    for part, own in parts:
        shape = call.lengths([batch, *whole, int(own.shape[-2])])
        results.append(tf.nn.conv_transpose(part, own, shape, windows.strides, padding="VALID"))
    result = results[0] if groups == 1 else tf.concat(results, -1)
    ends = [high - more for (_, high), more in zip(pads, extra, strict=True)]
    if any(end < 0 for end in ends) or any(low < 0 for low, _ in pads):
        grown = [(max(-low, 0), max(-end, 0)) for (low, _), end in zip(pads, ends, strict=True)]
        result = tf.pad(result, [(0, 0), *grown, (0, 0)])
    cuts = [slice(max(low, 0), -end if end > 0 else None) for (low, _), end in zip(pads, ends, strict=True)]
    if any(cut != slice(0, None) for cut in cuts):
        result = result[(slice(None), *cuts)]
    return Value(tf.nn.bias_add(result, call.tensor(2)) if call.has(2) else result, last=True)


def _windows_of_pool(call: NodeCall, x: tf.Tensor) -> SlidingWindows:
    windows = SlidingWindows.of(call, call.attr("kernel_shape"), [int(size) for size in x.shape[1:-1]])
    if not call.attr("ceil_mode", 0):
        return windows
    return SlidingWindows(windows.sizes, windows.strides, windows.dilations, windows.grown([int(size) for size in x.shape[1:-1]]))


def _pooled(x: tf.Tensor, windows: SlidingWindows, kind: str, padding: str = "VALID") -> tf.Tensor:
    far = any(step > size for step, size in zip(windows.strides, windows.sizes, strict=True))
    dilated = max(windows.dilations) > 1 or far  # which TensorFlow pools with no strides
    strides = [1] * len(windows.strides) if dilated else windows.strides
    result = tf.nn.pool(x, windows.sizes, kind, strides, padding, dilations=windows.dilations)
    return result[(slice(None), *(slice(None, None, step) for step in windows.strides))] if dilated else result


def _max_pool(call: NodeCall) -> Value | list[Value]:
    x = call.channels_last(0)
    own_type = x.dtype
    x = x if own_type.is_floating else tf.cast(x, tf.float32)
    windows = _windows_of_pool(call, x)
    sizes = [int(size) for size in x.shape[1:-1]]
    name = windows.name(sizes)
    pads = [(0, 0), *windows.pads, (0, 0)]
    if name == "SAME" and max(windows.dilations) == 1:
        result = _pooled(x, windows, "MAX", "SAME")
    else:
        fill = tf.constant(x.dtype.min, x.dtype)
        result = _pooled(x if name == "VALID" else tf.pad(x, pads, constant_values=fill), windows, "MAX")
    result = tf.cast(result, own_type)
    if call.outputs == 1:
        return Value(result, last=True)
    return [Value(result, last=True), Value(_positions(call, x, windows), last=True)]


def _positions(call: NodeCall, x: tf.Tensor, windows: SlidingWindows) -> tf.Tensor:
    """Where the largest numbers lie, counted through ONNX's tensor."""
    if x.shape.rank == 3:
        windows = SlidingWindows([1, *windows.sizes], [1, *windows.strides], [1, *windows.dilations], [(0, 0), *windows.pads])
        return tf.squeeze(_positions(call, x[:, tf.newaxis], windows), 1)
    if x.shape.rank != 4:
        raise CannotTranslate("asks for the positions of maxima in more than two dimensions")
    batch, height, width, channels = (int(size) for size in x.shape)
    area = height * width
    index = np.arange(batch * channels * area).reshape(batch, channels, height, width)
    if call.attr("storage_order", 0):
        index = np.arange(batch * channels * area).reshape(batch, channels, width, height).transpose(0, 1, 3, 2)
    pads = [(0, 0), *windows.pads, (0, 0)]
    values = tf.pad(tf.cast(x, tf.float64), pads, constant_values=tf.constant(-np.inf, tf.float64))
    where = tf.pad(tf.constant(index.transpose(0, 2, 3, 1), tf.float64), pads)

    def patches(tensor: tf.Tensor) -> tf.Tensor:
        cut = tf.image.extract_patches(
            tensor, (1, *windows.sizes, 1), (1, *windows.strides, 1), (1, *windows.dilations, 1), "VALID"
        )
        return tf.reshape(cut, (*cut.shape[:3], prod(windows.sizes), channels))

    best = tf.argmax(patches(values), 3)
    chosen = tf.one_hot(best, prod(windows.sizes), axis=3, dtype=tf.float64)
    return tf.cast(tf.reduce_sum(patches(where) * chosen, 3), tf.int64)


def _average_pool(call: NodeCall) -> Value:
    x = call.channels_last(0)
    windows = _windows_of_pool(call, x)
    sizes = [int(size) for size in x.shape[1:-1]]
    if not any(map(any, windows.pads)):
        return Value(_pooled(x, windows, "AVG"), last=True)
    if windows.name(sizes) == "SAME" and not call.attr("count_include_pad", 0) and max(windows.dilations) == 1:
        return Value(_pooled(x, windows, "AVG", "SAME"), last=True)
    own = SlidingWindows.of(call, windows.sizes, sizes)
    counted = own.pads if call.attr("count_include_pad", 0) else [(0, 0)] * len(sizes)
    rest = [(low - before, high - after) for (low, high), (before, after) in zip(windows.pads, counted, strict=True)]
    # What ceil_mode adds behind counts for nothing; a floor may have left some of the pad behind unused.
    mask = np.ones([size + sum(pads) for size, pads in zip(sizes, counted, strict=True)], np.float32)
    mask = mask[tuple(slice(None, high if high < 0 else None) for _, high in rest)]
    mask = np.pad(mask, [(low, max(high, 0)) for low, high in rest])
    with tf.init_scope():
        share = _pooled(tf.constant(mask[np.newaxis, ..., np.newaxis]), windows, "AVG").numpy()
    padded = tf.pad(x, [(0, 0), *windows.pads, (0, 0)])
    return Value(_pooled(padded, windows, "AVG") / tf.cast(share, x.dtype), last=True)


def _lp_pool(call: NodeCall) -> Value:
    x = call.channels_last(0)
    windows, order = _windows_of_pool(call, x), call.attr("p", 2)
    padded = tf.pad(tf.abs(x) ** order, [(0, 0), *windows.pads, (0, 0)])
    return Value((_pooled(padded, windows, "AVG") * prod(windows.sizes)) ** (1 / order), last=True)


def _global(function: Callable[..., tf.Tensor], call: NodeCall) -> Value:
    x = call.channels_last(0)
    return Value(function(x, list(range(1, x.shape.rank - 1)), keepdims=True), last=True)


def _global_lp(call: NodeCall) -> Value:
    x, order = call.channels_last(0), call.attr("p", 2)
    return Value(tf.reduce_sum(tf.abs(x) ** order, list(range(1, x.shape.rank - 1)), keepdims=True) ** (1 / order), last=True)


def _lrn(call: NodeCall) -> Value:
    x = call.channels_last(0)
    size = call.attr("size")
    alpha, beta, bias = call.attr("alpha", 1e-4), call.attr("beta", 0.75), call.attr("bias", 1.0)
    if size % 2 and x.shape.rank == 4 and x.dtype == tf.float32:
        return Value(tf.nn.lrn(x, size // 2, bias, alpha / size, beta), last=True)
    square = tf.pad(tf.square(x), [(0, 0)] * (x.shape.rank - 1) + [((size - 1) // 2, size // 2)])
    channels = int(x.shape[-1])
    total = tf.add_n([square[..., shift : shift + channels] for shift in range(size)])
    return Value(x / (bias + alpha / size * total) ** beta, last=True)


def _max_unpool(call: NodeCall) -> tf.Tensor:
    x, index = call.tensor(0), call.tensor(1)
    shape = call.need(0).shape
    windows = SlidingWindows.of(call, call.attr("kernel_shape"), shape[2:])
    sizes = [
        (size - 1) * stride - sum(pads) + reach
        for size, stride, pads, reach in zip(shape[2:], windows.strides, windows.pads, windows.reaches, strict=True)
    ]
    output_shape = [*shape[:2], *sizes]
    # Positions count through the shape that is asked for.
    asked = [int(size) for size in call.static(2)] if call.has(2) else output_shape
    flat = tf.scatter_nd(tf.reshape(index, (-1, 1)), tf.reshape(x, (-1,)), tf.constant([prod(asked)], tf.int64))
    return tf.reshape(flat, asked)


OPERATORS: dict[str, Callable[[NodeCall], Any]] = {
    "AveragePool": _average_pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "GlobalAveragePool": partial(_global, tf.reduce_mean),
    "GlobalLpPool": _global_lp,
    "GlobalMaxPool": partial(_global, tf.reduce_max),
    "LRN": _lrn,
    "LpPool": _lp_pool,
    "MaxPool": _max_pool,
    "MaxUnpool": _max_unpool,
}
