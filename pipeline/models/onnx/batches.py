"""Networks that were exported for a batch of one length made to run with any."""

from __future__ import annotations

from dataclasses import replace

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
        if asked.size and own and own[0] == BATCH and int(asked.reshape(-1)[0]) == fixed and _means_batch(own, asked, fixed):
            open_ = asked.copy()
            open_[0] = BATCH
            return replace(call, inputs=[call.inputs[0], Value(open_), *call.inputs[2:]])
    if call.kind == "Concat" and call.inputs:
        values = [call.need(index) for index in range(len(call.inputs))]
        if call.attr("axis", 0) % values[0].rank and any(value.shape[0] == BATCH for value in values):
            return replace(call, inputs=[_repeated(call, value, fixed) for value in values])
    return call


def _means_batch(own: tuple[int, ...], asked: np.ndarray, fixed: int) -> bool:
    """Whether the first size that is asked for is the batch's: the others hold what one image has."""
    rest = [int(size) for size in asked.reshape(-1)[1:]]
    each = int(np.prod(own[1:], dtype=np.int64))
    return -1 in rest or 0 in rest or int(np.prod(rest, dtype=np.int64)) == each


def _repeated(call: NodeCall, value: Value, fixed: int) -> Value:
    """A value of the exported batch, such as a class token, for as many images as there are."""
    if value.shape[0] != fixed or fixed != 1:
        return value
    times = [call.length(BATCH), *[1] * (value.rank - 1)]
    return Value(tf.tile(call.tensor_of(value.data), tf.stack(times)), value.last, value.maps)
