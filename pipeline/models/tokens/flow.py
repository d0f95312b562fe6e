"""Attention rollout: how attention passes information from token to token through a network, plain or weighted by gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from pipeline.errors import UnusableModel
from pipeline.models.tokens.following import Follower
from pipeline.models.tokens.placing import Placement, placements
from pipeline.models.tokens.positions import EXTRA


@dataclass(frozen=True, eq=False)
class AttentionFlow:
    """The attention of every block of a network, each from all tokens to all tokens, in forward order.

    blocks: the output of each block's softmax, with its axes in the network's order.
    orders: for each block, which of its axes are (batch, heads, queries, keys).
    reader: the index of the token from which the logits are read, the first extra token; None without one, when all tokens of the
        image count equally.
    placement: makes a map of (batch, tokens, 1).
    """

    blocks: Sequence[tf.Tensor]
    orders: Sequence[tuple[int, ...]]
    reader: int | None
    placement: Placement

    def rollout(self) -> tf.Tensor:
        """Float32 (batch, rows, columns): the product over the blocks of (A + I) / 2, A the mean over the heads.

        Abnar and Zuidema, 2020: "Quantifying Attention Flow in Transformers".
        """
        flow: tf.Tensor | None = None
        for block, order in zip(self.blocks, self.orders, strict=True):
            attention = tf.reduce_mean(_ordered(block, order), axis=1)
            step = (attention + tf.eye(int(attention.shape[-1]))) / 2
            flow = step if flow is None else step @ flow
        return self._map(flow)

    def weighted(self, gradients: Sequence[tf.Tensor | None]) -> tf.Tensor:
        """Float32 (batch, rows, columns): R + mean over the heads of max(G * A, 0) times R, block by block.

        Chefer et al., 2021: "Generic Attention-model Explainability", its rule for self-attention.

        Args:
            gradients: G for each block, of the sum of the images' scores with respect to A; None for a block that the scores do
                not depend on, which is skipped.
        """
        flow: tf.Tensor | None = None
        for block, order, gradient in zip(self.blocks, self.orders, gradients, strict=True):
            if gradient is None:
                continue
            attention = tf.cast(_ordered(block, order), tf.float32)
            heads = tf.reduce_mean(tf.nn.relu(attention * tf.cast(_ordered(gradient, order), tf.float32)), axis=1)
            flow = tf.eye(int(attention.shape[-1]), batch_shape=tf.shape(attention)[:1]) if flow is None else flow
            flow = flow + heads @ flow
        return self._map(flow)

    def _map(self, flow: tf.Tensor) -> tf.Tensor:
        row = tf.reduce_mean(flow, axis=1) if self.reader is None else flow[:, self.reader]
        return self.placement(row[..., tf.newaxis])[..., 0]


def attention_flow(images: tf.Tensor, where: str) -> AttentionFlow:
    """The attention of a traced network.

    Args:
        images: its input, (batch, height, width, bands) with a fixed batch, in the graph that holds the network.
        where: the network's name, for errors.

    Raises: UnusableModel, if the network has no attention, or its attention is within windows or between different grids.
    """
    follower = Follower(images.graph, images, (1, 2), {})
    blocks: list[tf.Tensor] = []
    orders: list[tuple[int, ...]] = []
    placement: Placement | None = None
    reader: int | None = None
    refused = ""
    for softmax in follower.attention:
        positions, rank = follower.known[softmax.name], int(softmax.shape.rank)
        assert positions.keys is not None
        query_axes = [axis for axis in positions.axes if axis]
        key_axes = [axis for axis in positions.keys.axes if axis]
        is_plain = len(query_axes) == len(key_axes) == 1 and rank == 4 and softmax.shape[0] == images.shape[0]
        ids, keys = (tokens.ids.reshape(tokens.ids.shape[0], -1) for tokens in (positions, positions.keys))
        if not is_plain or ids.shape != keys.shape or not (ids == keys).all():
            refused = f"{softmax.op.name} looks at other tokens than it looks from, or within windows"
            continue
        if placement is not None and ids.shape[1] != placement.rows:
            refused = f"{softmax.op.name} has {ids.shape[1]} tokens, an earlier one {placement.rows}"
            continue
        extra = np.flatnonzero((ids == EXTRA).all(axis=0))
        reader = int(extra[0]) if len(extra) else None
        tokens = positions.keys.along(lambda _, keys=keys: keys[..., np.newaxis])  # type: ignore[misc]
        placement = placements(tokens, [int(softmax.shape[0]), ids.shape[1], 1], int(images.shape[0])).tokens
        heads = ({1, 2, 3} - {query_axes[0], key_axes[0]}).pop()
        blocks.append(softmax)
        orders.append((0, heads, query_axes[0], key_axes[0]))
    if refused or placement is None:
        reason = refused or "it has no attention between tokens of the image"
        raise UnusableModel(
            f"attention cannot be followed through {where}: {reason}. Explain it by gradcam or integrated_gradients instead."
        )
    return AttentionFlow(blocks, orders, reader, placement)


def _ordered(attention: tf.Tensor, order: tuple[int, ...]) -> tf.Tensor:
    return tf.cast(attention if order == (0, 1, 2, 3) else tf.transpose(attention, order), tf.float32)
