"""Resize and Upsample in all modes: one table of weights an axis, worked out as ONNX's reference does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.models.onnx.values import CannotTranslate, NodeCall, Value


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@dataclass(frozen=True)
class Scaling:
    """How one axis is scaled.

    scale: the new size over the old one, as coordinates are worked out with it.
    region: where tf_crop_and_resize cuts, as fractions of the old size.
    """

    old: int
    new: int
    scale: float
    region: tuple[float, float] = (0.0, 1.0)

    def positions(self, how: str) -> np.ndarray:
        """The position of each new pixel among the old ones: float64 (new,)."""
        x = np.arange(self.new, dtype=np.float64)
        if how == "half_pixel":
            return (x + 0.5) / self.scale - 0.5
        if how == "pytorch_half_pixel":
            return (x + 0.5) / self.scale - 0.5 if self.new > 1 else np.zeros(self.new)
        if how == "asymmetric":
            return x / self.scale
        if how == "align_corners":
            length = self.scale * self.old
            return x * (self.old - 1) / (length - 1) if length != 1 else np.zeros(self.new)
        if how == "half_pixel_symmetric":
            adjusted = self.new / (self.scale * self.old)
            centre = self.old / 2
            return centre * (1 - adjusted) + (x + 0.5) / self.scale - 0.5
        if how == "tf_half_pixel_for_nn":
            return (x + 0.5) / self.scale
        if how == "tf_crop_and_resize":
            start, end = self.region
            if self.new > 1:
                return start * (self.old - 1) + x * (end - start) * (self.old - 1) / (self.new - 1)
            return np.full(self.new, 0.5 * (start + end) * (self.old - 1))
        raise CannotTranslate(f"asks for the coordinates {how!r}")


def nearest(positions: np.ndarray, old: int, how: str) -> np.ndarray:
    """The old pixel that each position is rounded to."""
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "round_prefer_floor": lambda x: np.ceil(x - 0.5),
        "round_prefer_ceil": lambda x: np.floor(x + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    return np.clip(ways[how](positions), 0, old - 1).astype(np.int32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel of Keys (1981)."""
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def weights(call: NodeCall, scaling: Scaling, mode: str, positions: np.ndarray) -> np.ndarray:
    """The weight of each old pixel in each new one: float64 (new, old)."""
    a = call.attr("cubic_coeff_a", -0.75)
    squeeze = min(scaling.scale, 1.0) if call.attr("antialias", 0) else 1.0
    support = (1 if mode == "linear" else 2) / squeeze
    table = np.zeros((scaling.new, scaling.old))
    for row, position in enumerate(positions):
        reach = np.arange(floor(position) - ceil(support) + 1, floor(position) + ceil(support) + 1)
        distance = (reach - position) * squeeze
        share = np.maximum(1 - np.abs(distance), 0) if mode == "linear" else _cubic(distance, a)
        if call.attr("exclude_outside", 0):
            share = np.where((reach < 0) | (reach >= scaling.old), 0, share)
        if call.attr("exclude_outside", 0) or call.attr("antialias", 0):
            share = share / share.sum()
        np.add.at(table[row], np.clip(reach, 0, scaling.old - 1), share)
    return table


def _resize(call: NodeCall) -> Value:
    value = call.need(0)
    shape = value.shape
    mode = _text(call.attr("mode", "nearest"))
    if call.kind == "Upsample" or call.opset < 11:
        how, rounding = "asymmetric", "floor"
        scales = [float(s) for s in call.static(1)] if call.has(1) else [float(s) for s in call.attr("scales")]
        scalings = _by_scales(shape, scales, range(len(shape)), None)
    else:
        how = _text(call.attr("coordinate_transformation_mode", "half_pixel"))
        rounding = _text(call.attr("nearest_mode", "round_prefer_floor"))
        scalings = _scalings(call, shape)
    x = call.tensor_of(value.data)
    dtype = x.dtype
    changed = {
        axis: scaling
        for axis, scaling in scalings.items()
        if scaling.old != scaling.new or scaling.scale != 1 or how == "tf_crop_and_resize"
    }
    whole = _whole(call, value, changed, mode.replace("bilinear", "linear"), how)
    if whole is not None:
        return whole
    for axis, scaling in changed.items():
        stored = value.stored_axis(axis)
        positions = scaling.positions(how)
        if mode == "nearest":
            x = tf.gather(x, nearest(positions, scaling.old, rounding), axis=stored)
        else:
            table = weights(call, scaling, "cubic" if mode == "cubic" else "linear", positions)
            x = x if x.dtype.is_floating else tf.cast(x, tf.float32)
            axes = list(range(value.rank))
            letters = "".join("abcdefgh"[dimension] for dimension in axes)
            result = letters.replace(letters[stored], "z")
            x = tf.einsum(f"{letters},z{letters[stored]}->{result}", x, tf.constant(table, x.dtype))
        if how == "tf_crop_and_resize":
            outside = (positions < 0) | (positions > scaling.old - 1)
            fill = tf.cast(call.attr("extrapolation_value", 0.0), x.dtype)
            mask = outside.reshape([-1 if dimension == stored else 1 for dimension in range(value.rank)])
            x = tf.where(mask, fill, x) if outside.any() else x
    if not dtype.is_floating and x.dtype.is_floating:
        x = tf.round(x)
    return Value(tf.cast(x, dtype), value.last, value.maps)


def _whole(call: NodeCall, value: Value, changed: dict[int, Scaling], mode: str, how: str) -> Value | None:
    """Height and width at once by TensorFlow's own operation, where it has one that computes the same."""
    fits = set(changed) == {2, 3} and value.last and value.rank == 4 and not value.is_static and value.data.dtype == tf.float32
    plainly = mode == "linear" and not call.attr("antialias", 0) and not call.attr("exclude_outside", 0)
    ways = {"half_pixel": (False, True), "pytorch_half_pixel": (False, True), "align_corners": (True, False)}
    ways["asymmetric"] = (False, False)
    exact = all(abs(scaling.scale - scaling.new / scaling.old) < 1e-6 and scaling.new > 1 for scaling in changed.values())
    if not (fits and plainly and exact and how in ways):
        return None
    corners, centres = ways[how]
    size = [changed[2].new, changed[3].new]
    data = tf.raw_ops.ResizeBilinear(images=value.data, size=size, align_corners=corners, half_pixel_centers=centres)
    return Value(data, last=True)


def _scalings(call: NodeCall, shape: tuple[int, ...]) -> dict[int, Scaling]:
    """The scaling of each axis that is to be scaled, as a node of opset 11 and later has it."""
    axes = [axis % len(shape) for axis in call.attr("axes") or range(len(shape))]
    first = 2 if call.opset >= 11 else 1
    scales = call.static(first) if call.has(first) else np.zeros(0)
    roi = call.static(1) if call.has(1) and call.opset >= 11 else np.zeros(0)
    if scales.size:
        return _by_scales(shape, [float(scale) for scale in scales], axes, roi)
    sizes = [int(size) for size in call.static(first + 1)]
    ratios = [size / shape[axis] for size, axis in zip(sizes, axes, strict=True)]
    policy = _text(call.attr("keep_aspect_ratio_policy", "stretch"))
    if policy != "stretch":
        ratio = min(ratios) if policy == "not_larger" else max(ratios)
        ratios = [ratio] * len(axes)
        sizes = [floor(ratio * shape[axis] + 0.5) for axis in axes]
    return {
        axis: Scaling(shape[axis], size, ratio, _region(roi, number, len(axes)))
        for number, (axis, size, ratio) in enumerate(zip(axes, sizes, ratios, strict=True))
    }


def _by_scales(shape: tuple[int, ...], scales: list[float], axes: Any, roi: Any) -> dict[int, Scaling]:
    return {
        axis: Scaling(shape[axis], floor(shape[axis] * scale + 1e-9), scale, _region(roi, number, len(scales)))
        for number, (axis, scale) in enumerate(zip(axes, scales, strict=True))
    }


def _region(roi: Any, number: int, axes: int) -> tuple[float, float]:
    return (0.0, 1.0) if roi is None or roi.size == 0 else (float(roi[number]), float(roi[number + axes]))


OPERATORS: dict[str, Callable[[NodeCall], Any]] = {"Resize": _resize, "Upsample": _resize}
