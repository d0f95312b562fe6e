"""Operators that read maps at positions between pixels: GridSample, AffineGrid, RoiAlign."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.models.onnx.values import CannotTranslate, NodeCall, Value


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _reflected(x: tf.Tensor, low: float, high: float) -> tf.Tensor:
    """Positions thrown back at both ends of a range until they lie within."""
    length = high - low
    if length <= 0:
        return x * 0
    turned = tf.math.floormod(x - low, 2 * length)
    return tf.where(turned > length, 2 * length - turned, turned) + low


def _grid_sample(call: NodeCall) -> Value:
    x, grid = call.channels_last(0), call.tensor(1)
    axes = x.shape.rank - 2
    sizes = [int(size) for size in x.shape[1:-1]]
    corners = bool(call.attr("align_corners", 0))
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(_text(call.attr("mode", "linear")), _text(call.attr("mode", "linear")))
    padding = _text(call.attr("padding_mode", "zeros"))
    positions = []
    for axis, size in enumerate(sizes):
        position = tf.cast(grid[..., axes - 1 - axis], x.dtype)  # x comes first in a grid
        position = (position + 1) / 2 * (size - 1) if corners else ((position + 1) * size - 1) / 2
        if mode != "cubic":
            position = _within(position, size, padding, corners)
        positions.append(position)
    if mode == "nearest":
        return Value(_at(call, x, [tf.cast(tf.round(position), tf.int32) for position in positions], padding, corners), last=True)
    reach, share = ((0, 1), _linear_share) if mode == "linear" else ((-1, 0, 1, 2), _cubic_share)
    floors = [tf.floor(position) for position in positions]
    result: Any = 0
    for offsets in product(reach, repeat=axes):
        shares = [share(position - floor - offset) for position, floor, offset in zip(positions, floors, offsets, strict=True)]
        weight = shares[0]
        for other in shares[1:]:
            weight = weight * other
        index = [tf.cast(floor, tf.int32) + offset for floor, offset in zip(floors, offsets, strict=True)]
        result = result + _at(call, x, index, padding, corners) * weight[..., tf.newaxis]
    return Value(result, last=True)


def _within(position: tf.Tensor, size: int, padding: str, corners: bool) -> tf.Tensor:
    if padding == "border":
        return tf.clip_by_value(position, 0, size - 1)
    if padding == "reflection":
        position = _reflected(position, 0.0, size - 1.0) if corners else _reflected(position, -0.5, size - 0.5)
        return tf.clip_by_value(position, 0, size - 1)
    return position


def _linear_share(distance: tf.Tensor) -> tf.Tensor:
    return 1 - tf.abs(distance)


def _cubic_share(distance: tf.Tensor, a: float = -0.75) -> tf.Tensor:
    x = tf.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    return tf.where(x <= 1, near, a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a)


def _at(call: NodeCall, x: tf.Tensor, index: list[tf.Tensor], padding: str, corners: bool) -> tf.Tensor:
    """The pixels at whole positions, one an axis; what lies outside is zero, or as the padding says."""
    sizes = [int(size) for size in x.shape[1:-1]]
    if padding == "reflection":
        ends = [(0.0, size - 1.0) if corners else (-0.5, size - 0.5) for size in sizes]
        index = [
            tf.cast(tf.round(_reflected(tf.cast(positions_of_axis, tf.float32), *end)), tf.int32)
            for positions_of_axis, end in zip(index, ends, strict=True)
        ]
    inside = tf.equal(index[0], index[0])
    for positions_of_axis, size in zip(index, sizes, strict=True):
        inside &= (positions_of_axis >= 0) & (positions_of_axis < size)
    clipped = [tf.clip_by_value(positions_of_axis, 0, size - 1) for positions_of_axis, size in zip(index, sizes, strict=True)]
    values = tf.gather_nd(x, tf.stack(clipped, -1), batch_dims=1)
    return tf.where(inside[..., tf.newaxis], values, tf.zeros((), x.dtype)) if padding == "zeros" else values


def _affine_grid(call: NodeCall) -> tf.Tensor:
    theta = call.tensor(0)
    sizes = [int(size) for size in call.static(1)][2:]
    corners = bool(call.attr("align_corners", 0))
    lines = [np.linspace(-1, 1, size) if corners else (np.arange(size) * 2 + 1) / size - 1 for size in sizes]
    points = np.stack([*reversed(np.meshgrid(*lines, indexing="ij")), np.ones(sizes)], -1)
    flat = tf.constant(points.reshape(-1, len(sizes) + 1), theta.dtype)
    grid = tf.einsum("pk,bdk->bpd", flat, theta)
    return call.reshape(grid, [call.need(0).shape[0], *sizes, len(sizes)])


def _roi_align(call: NodeCall) -> Value:
    """He et al. 2017, Mask R-CNN: means, or maxima, of points inside each cell, read bilinearly."""
    x, boxes, images = call.channels_last(0), call.tensor(1), tf.cast(call.tensor(2), tf.int32)
    height, width = call.attr("output_height", 1), call.attr("output_width", 1)
    scale, ratio = call.attr("spatial_scale", 1.0), call.attr("sampling_ratio", 0)
    if not ratio:
        raise CannotTranslate("leaves the number of points a cell to the boxes (sampling_ratio = 0)")
    half = _text(call.attr("coordinate_transformation_mode", "half_pixel" if call.opset >= 16 else "output_half_pixel"))
    shift = 0.5 if half == "half_pixel" else 0.0
    left, top, right, bottom = tf.unstack(boxes * scale - shift, axis=1)
    columns, rows = right - left, bottom - top
    if not shift:
        columns, rows = tf.maximum(columns, 1), tf.maximum(rows, 1)

    def points(start: tf.Tensor, length: tf.Tensor, cells: int) -> tf.Tensor:
        steps = tf.constant((np.arange(cells * ratio) + 0.5) / (cells * ratio), x.dtype)
        return start[:, tf.newaxis] + length[:, tf.newaxis] * steps

    grid = [points(top, rows, height)[:, :, tf.newaxis], points(left, columns, width)[:, tf.newaxis, :]]
    sizes = [int(size) for size in x.shape[1:3]]
    outside = (grid[0] < -1) | (grid[0] > sizes[0]) | (grid[1] < -1) | (grid[1] > sizes[1])
    grid = [tf.clip_by_value(positions_of_axis, 0, size - 1) for positions_of_axis, size in zip(grid, sizes, strict=True)]
    floors = [tf.floor(positions_of_axis) for positions_of_axis in grid]
    parts = []
    for down, across in product((0, 1), repeat=2):
        row = tf.minimum(tf.cast(floors[0], tf.int32) + down, sizes[0] - 1)
        column = tf.minimum(tf.cast(floors[1], tf.int32) + across, sizes[1] - 1)
        row, column = row + column * 0, column + row * 0
        image = images[:, tf.newaxis, tf.newaxis] + row * 0
        weight = _linear_share(grid[0] - floors[0] - down) * _linear_share(grid[1] - floors[1] - across)
        weight = tf.where(outside, tf.zeros((), x.dtype), weight)
        parts.append(tf.gather_nd(x, tf.stack([image, row, column], -1)) * weight[..., tf.newaxis])
    channels = int(x.shape[-1])
    largest = _text(call.attr("mode", "avg")) == "max"
    values = tf.reduce_max(tf.stack(parts), 0) if largest else tf.add_n(parts)
    cells = tf.reshape(values, (-1, height, ratio, width, ratio, channels))
    return Value(tf.reduce_max(cells, (2, 4)) if largest else tf.reduce_mean(cells, (2, 4)), last=True)


OPERATORS: dict[str, Callable[[NodeCall], Any]] = {"AffineGrid": _affine_grid, "GridSample": _grid_sample, "RoiAlign": _roi_align}
