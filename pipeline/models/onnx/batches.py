"""Networks that were exported for a batch of one length made to run with any."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import tensorflow as tf

from pipeline.models.onnx.values import BATCH, NodeCall, Value

_TABLES = {"Reshape": 1, "Expand": 1}  # which input of an operator is the shape that is asked for


def fitted(call: NodeCall, fixed: int) -> NodeCall:
    """A call whose shapes say `fixed` where the length of the batch is meant, with that length left open.

    Raises: CannotTranslate.
    """
    if call.kind in _TABLES and call.has(1) and call.has(0):
        asked = call.static(_TABLES[call.kind])
        own = call.need(0).shape
        sizes = (
            _with_batch(own, asked.reshape(-1).tolist(), fixed, bool(call.attr("allowzero", 0)))
            if call.kind == "Reshape"
            else None
        )
        if sizes is None and asked.size and own and own[0] == BATCH and int(asked.reshape(-1)[0]) == fixed:
            sizes = [BATCH, *asked.reshape(-1)[1:].tolist()]
        if sizes is not None:
            return replace(call, inputs=[call.inputs[0], Value(np.array(sizes, asked.dtype)), *call.inputs[2:]])
    if call.kind == "Concat" and call.inputs:
        values = [call.need(index) for index in range(len(call.inputs))]
        if call.attr("axis", 0) % values[0].rank and any(value.shape[0] == BATCH for value in values):
            return replace(call, inputs=[_repeated(call, value, fixed) for value in values])
    return call


def _with_batch(own: tuple[int, ...], asked: list[int], fixed: int, zeros: bool) -> list[int] | None:
    """The sizes that are asked for of a batch of `fixed`, with the length of the batch put where it lies; None without.

    The batch goes to an axis of length `fixed` with as many numbers before it as there were. Where there is none, it is joined to
    the axis that begins there, as to heads, unless that is the last, which holds channels: then to the one before.

    Args:
        zeros: whether a 0 that is asked for is a length, and not that of the input's axis.
    """
    axes = [axis for axis, size in enumerate(own) if size and size % BATCH == 0]
    if len(axes) != 1 or 0 in own or any(size > 0 and size % BATCH == 0 for size in asked):
        return None
    lengths = [size // BATCH * fixed if axis in axes else size for axis, size in enumerate(own)]
    sizes = [lengths[axis] if size == 0 and not zeros and axis < len(lengths) else size for axis, size in enumerate(asked)]
    if -1 in sizes:
        sizes[sizes.index(-1)] = prod(lengths) // (prod(size for size in sizes if size != -1) or 1)
    if prod(sizes) != prod(lengths):
        return None
    joined_to = own[axes[0]] // BATCH
    for before in dict.fromkeys((prod(lengths[: axes[0]]), prod(lengths[: axes[0]]) * joined_to)):
        starts = [axis for axis in range(len(sizes) + 1) if prod(sizes[:axis]) == before]
        alone = [axis for axis in starts if axis < len(sizes) and sizes[axis] == fixed]
        if alone:
            axis = axes[0] if axes[0] in alone else alone[0]
            return [*sizes[:axis], BATCH, *sizes[axis + 1 :]]
    starts = [axis for axis in range(len(sizes) + 1) if prod(sizes[:axis]) == prod(lengths[: axes[0]])]
    if not starts:
        return None
    axis = starts[-1] if starts[-1] < len(sizes) - 1 or starts[-1] == 0 else starts[-1] - 1
    return None if sizes[axis] % fixed else [*sizes[:axis], sizes[axis] // fixed * BATCH, *sizes[axis + 1 :]]


def _repeated(call: NodeCall, value: Value, fixed: int) -> Value:
    """A value of the exported batch, such as a class token, for as many images as there are."""
    if value.shape[0] != fixed or fixed != 1:
        return value
    times = [call.length(BATCH), *[1] * (value.rank - 1)]
    return Value(tf.tile(call.tensor_of(value.data), tf.stack(times)), value.last, value.maps)
