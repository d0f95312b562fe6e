"""Attention and rotary embeddings, as single operators."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.models.onnx.values import NodeCall


def _heads(call: NodeCall, index: int, count: int | None) -> tf.Tensor:
    """Queries, keys or values as (batch, heads, tokens, width)."""
    x, shape = call.tensor(index), call.need(index).shape
    if len(shape) == 4:
        return x
    assert count
    split = call.reshape(x, [shape[0], shape[1], count, shape[2] // count])
    return tf.transpose(split, (0, 2, 1, 3))


def _attention(call: NodeCall) -> list[Any]:
    query = _heads(call, 0, call.attr("q_num_heads"))
    key, value = (_heads(call, index, call.attr("kv_num_heads")) for index in (1, 2))
    if call.has(4):
        key, value = tf.concat([call.tensor(4), key], 2), tf.concat([call.tensor(5), value], 2)
    present = [key, value]
    times = int(query.shape[1]) // int(key.shape[1])
    if times > 1:
        key, value = (tf.gather(part, np.repeat(np.arange(part.shape[1]), times), axis=1) for part in (key, value))
    width = int(query.shape[-1])
    scale = sqrt(call.attr("scale", 1 / sqrt(width)))
    dtype = query.dtype
    raw = tf.matmul(query * tf.cast(scale, dtype), key * tf.cast(scale, dtype), transpose_b=True)
    tokens, others = int(query.shape[2]), int(key.shape[2])
    bias = _bias(call, tokens, others, dtype)
    softcap = call.attr("softcap", 0.0)
    mode = call.attr("qk_matmul_output_mode", 0)
    capped = tf.cast(softcap, dtype) * tf.tanh(raw / tf.cast(softcap, dtype)) if softcap else raw
    masked = capped if bias is None else capped + bias
    weights = _softmax(masked, bias is not None)
    stages = {0: raw, 1: capped, 2: masked, 3: weights}
    result = tf.matmul(weights, value)
    shape = call.need(0).shape
    if len(shape) == 3:
        result = call.reshape(tf.transpose(result, (0, 2, 1, 3)), [shape[0], shape[1], int(value.shape[1]) * int(value.shape[3])])
    return [result, *present, stages[mode]][: call.outputs]


def _bias(call: NodeCall, tokens: int, others: int, dtype: tf.DType) -> tf.Tensor | None:
    """What is added to the scores: the mask, and minus infinity at tokens that come later or are padding."""
    bias = None
    if call.has(3):
        mask = call.tensor(3)
        if mask.dtype == tf.bool:
            mask = tf.where(mask, tf.zeros((), dtype), tf.constant(-np.inf, dtype))
        missing = others - int(mask.shape[-1])
        if missing > 0:
            pads = [(0, 0)] * (mask.shape.rank - 1) + [(0, missing)]
            mask = tf.pad(mask, pads, constant_values=tf.constant(-np.inf, dtype))
        bias = mask
    left, right = call.attr("left_window_size", -1), call.attr("right_window_size", -1)
    if call.attr("is_causal", 0) or left >= 0 or right >= 0:
        past: Any = int(call.need(4).shape[2]) if call.has(4) else 0
        if call.has(6):  # tokens stand at the end of what each image's cache holds
            past = tf.cast(call.tensor(6), tf.int32)[:, tf.newaxis, tf.newaxis, tf.newaxis] - tokens
        behind = past + np.arange(tokens, dtype=np.int32)[:, np.newaxis] - np.arange(others, dtype=np.int32)
        hidden = behind < 0 if call.attr("is_causal", 0) else behind != behind
        hidden = hidden | (behind > left) if left >= 0 else hidden
        hidden = hidden | (-behind > right) if right >= 0 else hidden
        bias = (
            _hidden(tf.convert_to_tensor(hidden), dtype) if bias is None else bias + _hidden(tf.convert_to_tensor(hidden), dtype)
        )
    if call.has(6):
        padding = tf.range(others)[tf.newaxis] >= tf.cast(call.tensor(6), tf.int32)[:, tf.newaxis]
        from_lengths = _hidden(padding[:, tf.newaxis, tf.newaxis], dtype)
        bias = from_lengths if bias is None else bias + from_lengths
    return bias


def _hidden(where: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    return tf.where(where, tf.constant(-np.inf, dtype), tf.zeros((), dtype))


def _softmax(scores: tf.Tensor, may_be_hidden: bool) -> tf.Tensor:
    """Softmax along the last axis; a token to which all others are hidden attends to none."""
    wide = tf.cast(scores, tf.float32) if scores.dtype in (tf.float16, tf.bfloat16) else scores
    if not may_be_hidden:
        return tf.cast(tf.nn.softmax(wide, -1), scores.dtype)
    alone = tf.reduce_all(tf.math.is_inf(wide) & (wide < 0), -1, keepdims=True)
    weights = tf.nn.softmax(tf.where(alone, tf.zeros((), wide.dtype), wide), -1)
    return tf.cast(tf.where(alone, tf.zeros((), wide.dtype), weights), scores.dtype)


def _rotary(call: NodeCall) -> tf.Tensor:
    """Su et al. 2021, RoFormer."""
    value = call.need(0)
    shape = value.shape
    x = call.tensor(0)
    if len(shape) == 4:
        x = tf.transpose(x, (0, 2, 1, 3))
    else:
        count = call.attr("num_heads")
        x = call.reshape(x, [shape[0], shape[1], count, shape[2] // count])
    width = call.attr("rotary_embedding_dim", 0) or int(x.shape[-1])
    turned, rest = x[..., :width], x[..., width:]
    cosine, sine = call.tensor(1), call.tensor(2)
    if call.has(3):
        cosine, sine = (tf.gather(table, call.tensor(3)) for table in (cosine, sine))
    cosine, sine = (table[..., tf.newaxis, : width // 2] for table in (cosine, sine))
    if call.attr("interleaved", 0):
        first, second = turned[..., ::2], turned[..., 1::2]
        real, imaginary = first * cosine - second * sine, first * sine + second * cosine
        whole = tf.reshape(tf.stack([real, imaginary], -1), tf.shape(turned))
    else:
        first, second = turned[..., : width // 2], turned[..., width // 2 :]
        whole = tf.concat([first * cosine - second * sine, first * sine + second * cosine], -1)
    result = tf.concat([whole, rest], -1)
    return tf.transpose(result, (0, 2, 1, 3)) if len(shape) == 4 else call.reshape(result, shape)


OPERATORS: dict[str, Callable[[NodeCall], Any]] = {"Attention": _attention, "RotaryEmbedding": _rotary}
