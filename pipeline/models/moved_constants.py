"""Constants that go with values: what a ceiling of values becomes where the values are moved, pooled, padded or joined."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from pipeline.models.clamps import simplest

_IN_PLACE = frozenset({"Identity", "StopGradient", "Snapshot", "PreventGradient", "CheckNumerics", "EnsureShape"})
_POOLS = frozenset({"MaxPool", "MaxPoolV2"})
_RESHAPES = frozenset({"Reshape", "Squeeze", "ExpandDims"})


def moved(constant: tf.Tensor, operation: tf.Operation) -> tf.Tensor | None:
    """A constant of an operation's first input as one of its output; None where that would not be a constant of each position.

    Args:
        operation: one that moves values or leaves some out, and makes none.
    """
    kind, varies = operation.type, [axis for axis, length in enumerate(constant.shape.as_list()) if length != 1]
    if not varies or kind in _IN_PLACE:
        return constant
    if kind in _POOLS:
        return constant if varies == [1 if operation.get_attr("data_format") == b"NCHW" else 3] else None
    if kind in ("Pad", "PadV2", "MirrorPad"):
        added = tf.get_static_value(operation.inputs[1])
        return constant if added is not None and not added[varies].any() else None
    values, before, after = tf.get_static_value(constant), operation.inputs[0].shape, operation.outputs[0].shape
    if values is None:
        return None
    if kind == "Transpose":
        order = tf.get_static_value(operation.inputs[1])
        return None if order is None else tf.constant(values.transpose(order), constant.dtype)
    if kind == "Max":
        axes = tf.get_static_value(operation.inputs[1])
        if axes is None or set(np.ravel(axes) % values.ndim) & set(varies):
            return None
        left_out = () if operation.get_attr("keep_dims") else tuple(np.ravel(axes) % values.ndim)
        return tf.constant(values.squeeze(left_out), constant.dtype)
    if kind in _RESHAPES and before[1:].is_fully_defined() and after.rank is not None and after[1:].is_fully_defined():
        of_an_image = int(np.prod(before[1:]))  # with the axis of images first, before and after
        if varies[0] > 0 and of_an_image == int(np.prod(after[1:])):
            whole = np.broadcast_to(values, (1, *before[1:].as_list())).reshape(1, *after[1:].as_list())
            return tf.constant(simplest(whole), constant.dtype)
    return None


def joined(constants: Sequence[tf.Tensor], values: Sequence[tf.Tensor], axis: int) -> tf.Tensor | None:
    """The constants of several values as one of their concatenation; None where they are not known."""
    known = [tf.get_static_value(constant) for constant in constants]
    if any(constant is None for constant in known):
        return None
    if all(constant.ndim == 0 and constant == known[0] for constant in known):
        return constants[0]
    rank, lengths = values[0].shape.rank, [value.shape[axis] for value in values]
    if rank is None or any(length is None for length in lengths):
        return None
    whole = [constant.reshape((1,) * rank) if constant.ndim == 0 else constant for constant in known]
    shape = np.broadcast_shapes(*(np.delete(constant.shape, axis) for constant in whole))
    spread = [
        np.broadcast_to(constant, (*shape[:axis], length, *shape[axis:])) for constant, length in zip(whole, lengths, strict=True)
    ]
    return tf.constant(simplest(np.concatenate(spread, axis)), constants[0].dtype)
