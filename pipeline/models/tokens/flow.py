"""How attention hands information from token to token through a whole network: rollout, plain or weighed by gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from pipeline.errors import UnusableModel
from pipeline.models.tokens.following import Follower
from pipeline.models.tokens.placing import Placement, placed
from pipeline.models.tokens.positions import EXTRA


@dataclass(frozen=True, eq=False)
class AttentionFlow:
    """The attention of every block of a network, all tokens of one grid to all, in forward order.

    blocks: what each softmax gives, in the network's own order of axes.
    orders: the axes of each as (batch, heads, those that look, those looked at).
    reader: the token from which the logits are read, the first that is beside the image; None where there is none: then all
        tokens of the image count alike.
    placement: how (batch, tokens, 1) lies on the image.
    """

    blocks: Sequence[tf.Tensor]
    orders: Sequence[tuple[int, ...]]
    reader: int | None
    placement: Placement

    def rollout(self) -> tf.Tensor:
        """Float32 (batch, rows, columns): the product over the blocks of (A + I) / 2, A the mean of the heads.

        Abnar and Zuidema, 2020: "Quantifying Attention Flow in Transformers".
        """
        flow: tf.Tensor | None = None
        for block, order in zip(self.blocks, self.orders, strict=True):
            attention = tf.reduce_mean(_ordered(block, order), axis=1)
            step = (attention + tf.eye(int(attention.shape[-1]))) / 2
            flow = step if flow is None else step @ flow
        return self._map(flow)

    def weighed(self, gradients: Sequence[tf.Tensor | None]) -> tf.Tensor:
        """Float32 (batch, rows, columns): R + max(G * A, 0) R over the blocks, of the mean of the heads, less the tokens' own.

        Chefer et al., 2021: "Generic Attention-model Explainability", of self-attention.

        Args:
            gradients: of the sum of the images' scores by the attention of each block, G; None where it has none.
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
    """The attention of the network that was traced into the graph of some images, (batch, h, w, bands) of a fixed batch.

    Raises: UnusableModel, for a network without attention, or whose attention is within windows or between several grids.
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
        looking = [axis for axis in positions.axes if axis]
        looked = [axis for axis in positions.keys.axes if axis]
        same = len(looking) == len(looked) == 1 and rank == 4 and softmax.shape[0] == images.shape[0]
        ids, keys = (tokens.ids.reshape(tokens.ids.shape[0], -1) for tokens in (positions, positions.keys))
        if not same or ids.shape != keys.shape or not (ids == keys).all():
            refused = f"{softmax.op.name} looks at other tokens than it looks from, or within windows"
            continue
        if placement is not None and ids.shape[1] != placement.rows:
            refused = f"{softmax.op.name} has {ids.shape[1]} tokens, an earlier one {placement.rows}"
            continue
        beside = np.flatnonzero((ids == EXTRA).all(axis=0))
        reader = int(beside[0]) if len(beside) else None
        shape = [int(softmax.shape[0]), ids.shape[1], 1]
        along = positions.keys.along(lambda ids, axis=looked[0]: ids.reshape(ids.shape[0], ids.shape[axis], 1))  # type: ignore[misc]
        placement = placed(along, shape, int(images.shape[0])).tokens
        heads = ({1, 2, 3} - {looking[0], looked[0]}).pop()
        blocks.append(softmax)
        orders.append((0, heads, looking[0], looked[0]))
    if refused or placement is None:
        reason = refused or "it has no attention between tokens of the image"
        raise UnusableModel(
            f"attention cannot be followed through {where}: {reason}. Explain it by gradcam or integrated_gradients instead."
        )
    return AttentionFlow(blocks, orders, reader, placement)


def _ordered(attention: tf.Tensor, order: tuple[int, ...]) -> tf.Tensor:
    return tf.cast(attention if order == (0, 1, 2, 3) else tf.transpose(attention, order), tf.float32)
