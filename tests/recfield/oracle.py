"""Receptive fields worked out from a Keras layer graph alone, without running it: what the solver is tested against.

A unit at map position (row, col) sees a set of pixels. Along any one path through the graph that set is a product:
the pixel rows that `row` reaches times the pixel columns that `col` reaches. So a tensor's field is kept as boolean
matrices, units by pixels, one pair for its rows and one for its columns, and a layer multiplies each by its own small
matrix, outputs by inputs. Sets, not intervals: a strided 1x1 convolution skips rows, and what lies above it must not
count them.

Two things break the plain product, and both are kept:
- After a concatenation the channels differ: a field is a list of channel groups.
- Where branches meet, a unit sees a union of products: a group is a list of terms. Two terms are merged into one, rows
  with rows and columns with columns, when the same units are blind in both; that changes the set, but never its
  bounding box, there or at any depth above. Blind units (they see padding only) are why terms exist at all.

A unit that sees nothing has the empty box 0, 0, 0, 0. A layer of an unknown kind raises UnknownKind.

What is assumed: inference mode, no weight is zero and nothing cancels, so a unit depends on all that the graph
lets it reach.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import keras
import numpy as np


class UnknownKind(NotImplementedError):
    """A layer, or a setting of one, that the oracle has no rule for."""


@dataclass(frozen=True)
class Term:
    """One product of pixel sets. rows: bool (h, H); cols: bool (w, W); unit (i, j) sees rows[i] x cols[j]."""

    rows: np.ndarray
    cols: np.ndarray


@dataclass(frozen=True)
class Group:
    """Consecutive channels that see the same pixels: the union of the terms."""

    channels: int
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Field:
    """What the units of one tensor see. size: (h, w), both 1 for a tensor without a map."""

    size: tuple[int, int]
    groups: tuple[Group, ...]

    @property
    def channels(self) -> int:
        return sum(group.channels for group in self.groups)

    def boxes(self) -> np.ndarray:
        """The hull over all channels. Returns: int32 (h, w, 4): y1, x1, y2, x2, half-open; zeros where empty."""
        return _hull(self.size, union(self.groups))

    def channel_boxes(self, channel: int) -> np.ndarray:
        """The same for one channel."""
        return _hull(self.size, self.between(channel, channel + 1)[0].terms)

    def between(self, start: int, stop: int) -> tuple[Group, ...]:
        """The groups of channels start to stop, cut where they must be."""
        kept, first = [], 0
        for group in self.groups:
            last = first + group.channels
            if min(last, stop) > max(first, start):
                kept.append(Group(min(last, stop) - max(first, start), group.terms))
            first = last
        return tuple(kept)


def boxes(model: keras.Model, layer: str) -> np.ndarray:
    """The bounding box of the pixels that can change each unit, in any channel.

    Returns: int32 (h, w, 4): y1, x1, y2, x2, half-open, clipped to the image.
    """
    return fields(model)[layer].boxes()


def channel_boxes(model: keras.Model, layer: str) -> np.ndarray:
    """The same for every channel. Returns: int32 (h, w, channels, 4)."""
    field = fields(model)[layer]
    parts = [np.repeat(_hull(field.size, group.terms)[:, :, None], group.channels, axis=2) for group in field.groups]
    return np.concatenate(parts, axis=2)


def fields(model: keras.Model) -> dict[str, Field]:
    """The fields of all layers of a model with one image as input, by layer name; of a shared layer, its last call."""
    height, width, channels = model.inputs[0].shape[1:]
    pixels = Term(np.eye(height, dtype=bool), np.eye(width, dtype=bool))
    actual: dict[str, Field] = {}
    _walk(model, [Field((height, width), (Group(channels, (pixels,)),))], actual)
    return actual


def union(groups: Sequence[Group]) -> tuple[Term, ...]:
    """The terms of several groups as one list, merged where the same units are blind."""
    merged: dict[tuple[bytes, bytes], tuple[np.ndarray, np.ndarray]] = {}
    for term in (term for group in groups for term in group.terms):
        sees_rows, sees_cols = term.rows.any(axis=1), term.cols.any(axis=1)
        if not (sees_rows.any() and sees_cols.any()):
            continue
        blindness = sees_rows.tobytes(), sees_cols.tobytes()
        rows, cols = merged.get(blindness, (term.rows, term.cols))
        merged[blindness] = rows | term.rows, cols | term.cols
    return tuple(Term(rows, cols) for rows, cols in merged.values())


def _hull(size: tuple[int, int], terms: Sequence[Term]) -> np.ndarray:
    far = np.iinfo(np.int32).max
    low = np.full((*size, 2), far, np.int32)
    high = np.zeros((*size, 2), np.int32)
    for term in terms:
        sees = np.outer(term.rows.any(axis=1), term.cols.any(axis=1))
        for axis, seen in enumerate((term.rows, term.cols)):
            along = (-1, 1) if axis == 0 else (1, -1)
            first = np.argmax(seen, axis=1).reshape(along)
            last = seen.shape[1] - np.argmax(seen[:, ::-1], axis=1).reshape(along)
            low[..., axis] = np.where(sees, np.minimum(low[..., axis], first), low[..., axis])
            high[..., axis] = np.where(sees, np.maximum(high[..., axis], last), high[..., axis])
    low[low == far] = 0
    return np.concatenate([low, high], axis=-1)


def _walk(model: Any, inputs: list[Field], actual: dict[str, Field] | None) -> Any:
    def visit(operation: Any, *args: Any, **kwargs: Any) -> Any:
        result = _apply(operation, *args, **kwargs)
        if actual is not None:
            actual[operation.name] = result
        return result

    graph = getattr(model, "_functional", model)  # Sequential keeps its graph there
    return graph._run_through_graph(inputs, operation_fn=lambda operation: partial(visit, operation))


def _apply(operation: Any, *args: Any, **kwargs: Any) -> Field:
    if isinstance(operation, keras.Model):
        return _walk(operation, list(args), None)
    rule = RULES.get(type(operation).__name__)
    if rule is None:
        raise UnknownKind(f"{operation.name}: no rule for {type(operation).__module__}.{type(operation).__name__}.")
    if getattr(operation, "data_format", None) == "channels_first":
        raise UnknownKind(f"{operation.name}: channels_first.")
    flat = keras.tree.flatten((args, kwargs))
    if any(np.ndim(arg) for arg in flat if not isinstance(arg, Field)):
        raise UnknownKind(f"{operation.name}: an array of constants among its inputs.")
    tensors = [arg for arg in flat if isinstance(arg, Field)]
    field = rule(operation, *tensors)
    activation = getattr(operation, "activation", None)
    mixes = activation is not None and activation.__name__ in ("softmax", "log_softmax", "glu", "sparsemax")
    return _mixed(field) if mixes else field


# One axis of a layer: bool (outputs, inputs), true where the output reads the input.


@cache
def window(size: int, kernel: int, stride: int, padding: str, dilation: int = 1) -> np.ndarray:
    """Convolution and pooling, padded as TensorFlow pads: SAME puts the odd row at the end."""
    reach = (kernel - 1) * dilation + 1
    if padding == "same":
        outputs = -(-size // stride)
        before = max((outputs - 1) * stride + reach - size, 0) // 2
    elif padding == "valid":
        outputs, before = (size - reach) // stride + 1, 0
    else:
        raise UnknownKind(f"padding {padding!r}.")
    return _marked(outputs, size, lambda out: (out * stride - before + tap * dilation for tap in range(kernel)))


@cache
def transposed(size: int, kernel: int, stride: int, padding: str, dilation: int) -> np.ndarray:
    """Transposed convolution: the window matrix of the convolution whose gradient it is, read the other way."""
    outputs = size * stride
    if padding == "valid":
        outputs += max((kernel - 1) * dilation + 1 - stride, 0)
    return window(outputs, kernel, stride, padding, dilation).T


@cache
def upsampled(size: int, factor: int, interpolation: str) -> np.ndarray:
    """Nearest and bilinear enlargement; pixel centres lie at halves, and a neighbour of weight zero is not read."""
    if interpolation == "nearest":
        return _marked(size * factor, size, lambda out: [out // factor])
    if interpolation != "bilinear":
        raise UnknownKind(f"interpolation {interpolation!r}.")

    def read(out: int) -> list[int]:
        # The centre (out + 1/2) / factor - 1/2, as a fraction, so that a weight of zero is exactly that.
        low, rest = divmod(2 * out + 1 - factor, 2 * factor)
        return [min(max(near, 0), size - 1) for near in ([low, low + 1] if rest else [low])]

    return _marked(size * factor, size, read)


def _marked(outputs: int, inputs: int, read: Callable[[int], Any]) -> np.ndarray:
    matrix = np.zeros((outputs, inputs), bool)
    for out in range(outputs):
        for index in read(out):
            if 0 <= index < inputs:
                matrix[out, index] = True
    matrix.setflags(write=False)
    return matrix


# Rules: (layer, field of each input) -> field.


def _spatial(field: Field, down: np.ndarray, across: np.ndarray) -> Field:
    """Every group seen through the same two matrices; channels stay apart."""

    def through(term: Term) -> Term:
        return Term(_product(down, term.rows), _product(across, term.cols))

    # A layer that moves units changes who is blind, and so which terms can be one.
    groups = tuple(Group(g.channels, union([Group(1, tuple(map(through, g.terms)))])) for g in field.groups)
    return Field((len(down), len(across)), groups)


def _product(reads: np.ndarray, seen: np.ndarray) -> np.ndarray:
    return (reads.astype(np.float32) @ seen.astype(np.float32)) > 0


def _mixed(field: Field, channels: int | None = None) -> Field:
    """Every output channel reads every input channel at its own position."""
    return Field(field.size, (Group(channels or field.channels, union(field.groups)),))


def _split(field: Field, parts: int) -> list[Field]:
    size = field.channels // parts
    return [Field(field.size, field.between(part * size, (part + 1) * size)) for part in range(parts)]


def _joined(parts: Sequence[Field]) -> Field:
    return Field(parts[0].size, tuple(group for part in parts for group in part.groups))


def _windows(layer: Any, field: Field) -> Field:
    kernel = layer.pool_size if hasattr(layer, "pool_size") else layer.kernel_size
    dilation = getattr(layer, "dilation_rate", (1, 1))
    axes = zip(field.size, kernel, layer.strides, dilation, strict=True)
    return _spatial(field, *(window(size, taps, stride, layer.padding, rate) for size, taps, stride, rate in axes))


def _convolution(layer: Any, field: Field) -> Field:
    parts = [_mixed(part, layer.filters // layer.groups) for part in _split(field, layer.groups)]
    return _windows(layer, _joined(parts))


def _depthwise(layer: Any, field: Field) -> Field:
    groups = tuple(Group(group.channels * layer.depth_multiplier, group.terms) for group in field.groups)
    return _windows(layer, Field(field.size, groups))


def _separable(layer: Any, field: Field) -> Field:
    return _windows(layer, _mixed(field, layer.filters))


def _transposed(layer: Any, field: Field) -> Field:
    if layer.output_padding is not None:
        raise UnknownKind(f"{layer.name}: output_padding.")
    axes = zip(field.size, layer.kernel_size, layer.strides, layer.dilation_rate, strict=True)
    matrices = (transposed(size, taps, stride, layer.padding, rate) for size, taps, stride, rate in axes)
    return _spatial(_mixed(field, layer.filters), *matrices)


def _enlarged(layer: Any, field: Field) -> Field:
    axes = zip(field.size, layer.size, strict=True)
    return _spatial(field, *(upsampled(size, factor, layer.interpolation) for size, factor in axes))


def _padded(layer: Any, field: Field) -> Field:
    axes = zip(field.size, layer.padding, strict=True)
    return _spatial(field, *(np.eye(sum(pad) + size, size, -pad[0], bool) for size, pad in axes))


def _cropped(layer: Any, field: Field) -> Field:
    axes = zip(field.size, layer.cropping, strict=True)
    return _spatial(field, *(np.eye(size - sum(crop), size, crop[0], bool) for size, crop in axes))


def _global(layer: Any, field: Field) -> Field:
    return _spatial(field, *(np.ones((1, size), bool) for size in field.size))


def _dense(layer: Any, field: Field) -> Field:
    return _mixed(field, layer.units)


def _flat(layer: Any, field: Field) -> Field:
    height, width = field.size
    units = [_spatial(field, np.eye(1, height, i, bool), np.eye(1, width, j, bool)) for i in range(height) for j in range(width)]
    return _joined(units)


def _reshaped(layer: Any, field: Field) -> Field:
    shape = tuple(layer.target_shape)
    if field.size == (1, 1) and shape[:-1] in ((), (1, 1)):
        return field
    if shape[:2] == field.size and len(shape) == 3:
        return field
    raise UnknownKind(f"{layer.name}: a reshape of {field.size} x {field.channels} to {shape}.")


def _unchanged(layer: Any, field: Field) -> Field:
    return field


def _over_channels(layer: Any, field: Field) -> Field:
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    if axes not in ([-1], [3]):
        raise UnknownKind(f"{layer.name}: normalisation over axes {axes}.")
    return _mixed(field)


def _concatenated(layer: Any, *parts: Field) -> Field:
    if layer.axis not in (-1, 3):
        raise UnknownKind(f"{layer.name}: concatenation along axis {layer.axis}.")
    return _joined(parts)


def _met(layer: Any, *parts: Field) -> Field:
    """Element by element, with broadcasting: a gate of one position, or of one channel, reaches all."""
    size = (max(part.size[0] for part in parts), max(part.size[1] for part in parts))
    channels = max(part.channels for part in parts)
    parts = tuple(_broadcast(part, size, channels) for part in parts)
    edges = {channels}
    for part in parts:
        edges.update(np.cumsum([group.channels for group in part.groups]).tolist())
    groups, start = [], 0
    for stop in sorted(edges):
        together = [group for part in parts for group in part.between(start, stop)]
        groups.append(Group(stop - start, union(together)))
        start = stop
    return Field(size, tuple(groups))


def _broadcast(part: Field, size: tuple[int, int], channels: int) -> Field:
    if part.size != size:
        matrices = [
            np.ones((to, 1), bool) if one == 1 else np.eye(to, dtype=bool) for one, to in zip(part.size, size, strict=True)
        ]
        part = _spatial(part, *matrices)
    if part.channels != channels:
        part = Field(size, (Group(channels, part.groups[0].terms),))
    return part


# By class name: keras.applications defines LayerScale and CustomScaleLayer privately, and a few of its
# networks use keras.ops, whose Add and Multiply go by the same names as the layers and mean the same here.
RULES: dict[str, Callable[..., Field]] = {
    "Conv2D": _convolution,
    "DepthwiseConv2D": _depthwise,
    "SeparableConv2D": _separable,
    "Conv2DTranspose": _transposed,
    "MaxPooling2D": _windows,
    "AveragePooling2D": _windows,
    "GlobalAveragePooling2D": _global,
    "GlobalMaxPooling2D": _global,
    "UpSampling2D": _enlarged,
    "ZeroPadding2D": _padded,
    "Cropping2D": _cropped,
    "Dense": _dense,
    "Flatten": _flat,
    "Reshape": _reshaped,
    "Concatenate": _concatenated,
    "LayerNormalization": _over_channels,
    "Softmax": _over_channels,
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "CustomScaleLayer"), _met),
    **dict.fromkeys(("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Relu", "Relu6"), _unchanged),
    **dict.fromkeys(("Dropout", "SpatialDropout2D", "StochasticDepth", "Identity"), _unchanged),
    **dict.fromkeys(("BatchNormalization", "Rescaling", "Normalization", "LayerScale"), _unchanged),
}
