"""Operators that move numbers about: shapes, slices, gathers, pads, and the making of arrays."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import onnx
import tensorflow as tf

from pipeline.models.onnx.values import BATCH, CannotTranslate, NodeCall, Value, grows, plain, stored_last


def _shape(call: NodeCall) -> np.ndarray:
    shape = call.need(0).shape
    return np.array(shape[call.attr("start", 0) : call.attr("end", len(shape))], np.int64)


def _size(call: NodeCall) -> np.ndarray:
    return np.array(prod(call.need(0).shape), np.int64)


def _reshape(call: NodeCall) -> Any:
    value = call.need(0)
    asked = call.integers(1, "shape")
    shape = value.shape
    sizes = [shape[axis] if size == 0 and not call.attr("allowzero", 0) else size for axis, size in enumerate(asked)]
    if -1 in sizes:
        rest = prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = prod(shape) // rest if rest else 0
    return _reshaped(call, value, sizes)


def _reshaped(call: NodeCall, value: Value, sizes: list[int]) -> Any:
    if tuple(sizes) == value.shape:
        return value
    if value.last and sizes and prod(value.shape[2:]) == 1 and prod(sizes) == prod(value.shape):
        return call.reshape(call.tensor_of(value.data), sizes)  # a vector an image: no order to mind
    if value.last and len(sizes) == 3 and tuple(sizes[:2]) == value.shape[:2]:  # (batch, c, h * w): tokens, channels first
        joined = call.reshape(call.tensor_of(value.data), [sizes[0], sizes[2], sizes[1]])
        return Value(joined, last=True)
    if value.last and value.rank == 3 and tuple(sizes[:2]) == value.shape[:2]:
        return Value(call.reshape(call.tensor_of(value.data), [sizes[0], *sizes[2:], sizes[1]]), last=True)
    return call.reshape(call.tensor_of(plain(value).data), sizes)


def _flatten(call: NodeCall) -> Any:
    value = call.need(0)
    shape, axis = value.shape, call.attr("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return _reshaped(call, value, [prod(shape[:axis]), prod(shape[axis:])])


def _squeeze(call: NodeCall) -> Any:
    value = call.need(0)
    axes = call.integers(1, "axes")
    shape = value.shape
    gone = {axis % len(shape) for axis in axes} if axes is not None else {axis for axis, size in enumerate(shape) if size == 1}
    return _reshaped(call, value, [size for axis, size in enumerate(shape) if axis not in gone])


def _unsqueeze(call: NodeCall) -> Any:
    value = call.need(0)
    axes = call.integers(1, "axes")
    rank = value.rank + len(axes)
    new, rest = {axis % rank for axis in axes}, iter(value.shape)
    return _reshaped(call, value, [1 if axis in new else next(rest) for axis in range(rank)])


def _transpose(call: NodeCall) -> Any:
    value = call.need(0)
    order = list(call.attr("perm") or reversed(range(value.rank)))
    stored = [value.stored_axis(axis) for axis in order]
    rank = value.rank
    if stored == list(range(rank)):
        return Value(value.data, maps=rank == 4)
    if rank >= 3 and [stored[0], *stored[2:], stored[1]] == list(range(rank)):
        return Value(value.data, last=True)
    result = tf.transpose(call.tensor_of(value.data), stored)
    return Value(result, maps=rank == 4 and order == [0, 2, 3, 1])


def _concat(call: NodeCall) -> Any:
    values = [call.need(index) for index in range(len(call.inputs))]
    last = any(value.last for value in values)
    values = [stored_last(value) if last else value for value in values]
    axis = values[0].stored_axis(call.attr("axis", 0))
    if all(value.is_static for value in values):
        return Value(np.concatenate([value.data for value in values], axis), last)
    maps = any(value.maps for value in values)
    return Value(tf.concat([call.tensor_of(value.data) for value in values], axis), last, maps)


def _split(call: NodeCall) -> list[Value]:
    value = call.need(0)
    axis = call.attr("axis", 0)
    size = value.shape[axis]
    sizes = call.integers(1, "split")
    if sizes is None:
        parts = call.attr("num_outputs") or call.outputs
        length = -(-size // parts)
        sizes = [length] * (parts - 1) + [size - length * (parts - 1)]
    parts = tf.split(call.tensor_of(value.data), sizes, value.stored_axis(axis))
    return [Value(part, value.last, value.maps) for part in parts]


def _slice(call: NodeCall) -> Any:
    value = call.need(0)
    starts, ends = call.integers(1, "starts"), call.integers(2, "ends")
    axes = call.integers(3, "axes") or list(range(len(starts)))
    steps = [int(step) for step in call.static(4)] if call.has(4) else [1] * len(starts)
    cuts: list[Any] = [slice(None)] * value.rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = value.shape[axis]
        begin, stop, _ = slice(max(start, -(2**62)), max(min(end, 2**62), -(2**62)), step).indices(size)
        if (begin, stop, step) == (0, size, 1):
            continue
        if (step < 0 and stop < 0) or (size and size % BATCH == 0 and call.batch is not None and stop == size):
            cuts[value.stored_axis(axis)] = slice(begin, None, step)
        elif size and size % BATCH == 0 and call.batch is not None and (grows([begin]) or grows([stop])):
            cuts[value.stored_axis(axis)] = slice(call.length(begin), call.length(stop), step)
        else:
            cuts[value.stored_axis(axis)] = slice(begin, max(stop, 0), step)
    if value.is_static:
        return Value(value.data[tuple(cuts)], value.last)
    return Value(value.data[tuple(cuts)], value.last, value.maps)


def _gather(call: NodeCall) -> Any:
    value, indices = call.need(0), plain(call.need(1))
    axis = call.attr("axis", 0)
    size = value.shape[axis]
    if value.is_static and indices.is_static:
        return np.take(plain(value).data, indices.data, axis)
    if indices.is_static and indices.data.size == 1 and indices.data.ndim == 0 and not value.last:
        index = int(indices.data) % size
        return value.data[(slice(None),) * (axis % value.rank) + (index,)]
    if indices.is_static and indices.data.ndim == 1:  # the rank stays: so may the order of axes
        wrapped = np.where(indices.data < 0, indices.data + size, indices.data)
        return Value(tf.gather(call.tensor_of(value.data), wrapped, axis=value.stored_axis(axis)), value.last, value.maps)
    index = call.tensor_of(indices.data)
    index = tf.where(index < 0, index + tf.cast(size, index.dtype), index)
    return tf.gather(call.tensor(0), index, axis=axis)


def _wrapped(call: NodeCall, index: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.where(index < 0, index + call.length(call.need(0).shape[axis], index.dtype.as_numpy_dtype), index)


def _gather_elements(call: NodeCall) -> tf.Tensor:
    axis = call.attr("axis", 0) % call.need(0).rank
    return tf.gather_nd(call.tensor(0), _elements(call, axis))


def _elements(call: NodeCall, axis: int) -> tf.Tensor:
    """Where each element of an index along one axis points: (..., rank)."""
    index = _wrapped(call, call.tensor(1), axis)
    grid = tf.meshgrid(*(tf.range(size, dtype=index.dtype) for size in tf.unstack(tf.shape(index, index.dtype))), indexing="ij")
    return tf.stack([index if number == axis else part for number, part in enumerate(grid)], -1)


def _gather_nd(call: NodeCall) -> tf.Tensor:
    index = call.tensor(1)
    batch, shape = call.attr("batch_dims", 0), call.need(0).shape
    sizes = np.array(shape[batch : batch + index.shape[-1]], index.dtype.as_numpy_dtype)
    return tf.gather_nd(call.tensor(0), tf.where(index < 0, index + sizes, index), batch_dims=batch)


_SCATTERED: dict[str, Callable[..., tf.Tensor]] = {
    "none": tf.tensor_scatter_nd_update,
    "add": tf.tensor_scatter_nd_add,
    "max": tf.tensor_scatter_nd_max,
    "min": tf.tensor_scatter_nd_min,
}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _scattered(call: NodeCall, data: tf.Tensor, index: tf.Tensor, updates: tf.Tensor) -> tf.Tensor:
    how = _text(call.attr("reduction", "none"))
    if how == "mul":
        flat, values = tf.reshape(index, (-1, index.shape[-1])), tf.reshape(updates, (-1, *data.shape[index.shape[-1] :]))
        for number in range(flat.shape[0]):
            old = tf.gather_nd(data, flat[number : number + 1])
            data = tf.tensor_scatter_nd_update(data, flat[number : number + 1], old * values[number : number + 1])
        return data
    return _SCATTERED[how](data, index, updates)


def _scatter_elements(call: NodeCall) -> tf.Tensor:
    axis = call.attr("axis", 0) % call.need(0).rank
    return _scattered(call, call.tensor(0), _elements(call, axis), call.tensor(2))


def _scatter_nd(call: NodeCall) -> tf.Tensor:
    index = call.tensor(1)
    sizes = np.array(call.need(0).shape[: index.shape[-1]], index.dtype.as_numpy_dtype)
    return _scattered(call, call.tensor(0), tf.where(index < 0, index + sizes, index), call.tensor(2))


def _pad(call: NodeCall) -> Any:
    value = call.need(0)
    pads = call.integers(1, "pads")
    axes = [axis % value.rank for axis in call.static(3)] if call.has(3) else list(range(value.rank))
    fill: Any = call.tensor(2) if call.has(2) else call.attr("value", 0.0)
    amounts = [(0, 0)] * value.rank
    for number, axis in enumerate(axes):
        amounts[value.stored_axis(int(axis))] = (pads[number], pads[number + len(axes)])
    x = call.tensor_of(value.data)
    cuts = [slice(max(-low, 0), -high if high < 0 else None) for low, high in amounts]
    if any(low < 0 or high < 0 for low, high in amounts):
        x = x[tuple(cuts)]
    grown = [(max(low, 0), max(high, 0)) for low, high in amounts]
    mode = _text(call.attr("mode", "constant"))
    if mode == "constant":
        fill = tf.reshape(tf.cast(fill, x.dtype), ())
        return Value(tf.pad(x, grown, constant_values=fill), value.last, value.maps)
    for axis, (low, high) in enumerate(grown):
        if low or high:
            size = int(x.shape[axis])
            modes: Any = mode  # reflect, edge and wrap, as NumPy calls them
            index = np.pad(np.arange(size), (low, high), mode=modes)
            x = tf.gather(x, index, axis=axis)
    return Value(x, value.last, value.maps)


def _expand(call: NodeCall) -> Any:
    value = plain(call.need(0))
    shape = np.broadcast_shapes(value.shape, tuple(int(size) for size in call.static(1)))
    if shape == value.shape:
        return call.need(0)
    return _broadcast(call, call.tensor_of(value.data), shape)


def _broadcast(call: NodeCall, x: tf.Tensor, shape: Any) -> tf.Tensor:
    return tf.broadcast_to(x, call.lengths(shape))


def _tile(call: NodeCall) -> Any:
    value = call.need(0)
    times = [int(number) for number in call.static(1)]
    return tf.tile(call.tensor(0), call.lengths(times)) if value.rank else call.tensor(0)


def _constant_of_shape(call: NodeCall) -> tf.Tensor:
    value = call.attr("value")
    fill = np.zeros((), np.float32) if value is None else np.asarray(value).reshape(())
    return _broadcast(call, tf.constant(fill), [int(size) for size in call.static(0)])


def _range(call: NodeCall) -> tf.Tensor:
    start, limit, step = (call.static(index).reshape(-1)[0] for index in range(3))
    if call.batch is not None and grows([limit]) and step == 1 and start == 0:
        return tf.range(call.length(int(limit), limit.dtype.type), dtype=limit.dtype)
    return tf.constant(np.arange(start, limit, step, dtype=start.dtype))


def _one_hot(call: NodeCall) -> tf.Tensor:
    depth = int(call.static(1).reshape(()))
    index = tf.cast(call.tensor(0), tf.int64)
    index = tf.where(index < 0, index + depth, index)
    off, on = tf.unstack(call.tensor(2))
    return tf.one_hot(index, depth, on, off, axis=call.attr("axis", -1) % (index.shape.rank + 1), dtype=on.dtype)


def _eye_like(call: NodeCall) -> tf.Tensor:
    value = call.need(0)
    dtype = call.attr("dtype")
    kind = value.data.dtype if dtype is None else onnx.helper.tensor_dtype_to_np_dtype(dtype)
    rows, columns = value.shape
    return tf.constant(np.eye(rows, columns, call.attr("k", 0)).astype(tf.as_dtype(kind).as_numpy_dtype))


def _trilu(call: NodeCall) -> tf.Tensor:
    x = call.tensor(0)
    shift = int(call.static(1).reshape(())) if call.has(1) else 0
    rows, columns = x.shape[-2:]
    keep = (
        np.triu(np.ones((rows, columns), bool), shift)
        if call.attr("upper", 1)
        else np.tril(np.ones((rows, columns), bool), shift)
    )
    return tf.where(keep, x, tf.zeros((), x.dtype))


def _depth_to_space(call: NodeCall) -> Value:
    value = stored_last(call.need(0))
    size = call.attr("blocksize")
    x = call.tensor_of(value.data)
    if _text(call.attr("mode", "DCR")) == "CRD":
        channels = x.shape[-1] // size**2
        order = np.arange(channels * size**2).reshape(channels, size, size).transpose(1, 2, 0).reshape(-1)
        x = tf.gather(x, order, axis=-1)
    return Value(tf.nn.depth_to_space(x, size), last=True)


def _space_to_depth(call: NodeCall) -> Value:
    value = stored_last(call.need(0))
    size = call.attr("blocksize")
    x = tf.nn.space_to_depth(call.tensor_of(value.data), size)
    if _text(call.attr("mode", "DCR")) == "CRD":
        x = tf.gather(x, np.arange(x.shape[-1]).reshape(size, size, -1).transpose(2, 0, 1).reshape(-1), axis=-1)
    return Value(x, last=True)


def _reverse_sequence(call: NodeCall) -> tf.Tensor:
    time, batch = call.attr("time_axis", 0), call.attr("batch_axis", 1)
    return tf.reverse_sequence(call.tensor(0), call.tensor(1), seq_axis=time, batch_axis=batch)


def _non_zero(call: NodeCall) -> tf.Tensor:
    x = call.tensor(0)
    x = tf.reshape(x, (1,)) if x.shape.rank == 0 else x
    hits = tf.where(x if x.dtype == tf.bool else x != tf.cast(0, x.dtype))
    return tf.transpose(hits)[: call.need(0).rank or 1]


def _compress(call: NodeCall) -> tf.Tensor:
    x, keep = call.tensor(0), call.static(1).astype(bool)
    axis = call.attr("axis")
    flat = tf.reshape(x, (-1,)) if axis is None else x
    return tf.gather(flat, np.flatnonzero(keep), axis=axis or 0)


def _constant(call: NodeCall) -> np.ndarray:
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        value = call.attr(name)
        if value is not None:
            dtype = {"value": None, "value_float": np.float32, "value_floats": np.float32}.get(name, np.int64)
            return np.asarray(value, dtype)
    raise CannotTranslate("holds a constant that is no array of numbers")


OPERATORS: dict[str, Callable[[NodeCall], Any]] = {
    "Compress": _compress,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "EyeLike": _eye_like,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "NonZero": _non_zero,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "ReverseSequence": _reverse_sequence,
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
