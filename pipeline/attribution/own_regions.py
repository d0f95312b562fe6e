"""Own regions: where a network predicts a class in the image that is explained, held fixed as methods change the image.

What a square or noise does to the score would otherwise be mixed with what it does to the region: where the evidence is taken
away, the region shrinks to what is left of it, and the mean over it hardly falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.attribution.asked_targets import RegionTarget
from pipeline.attribution.targets import PREDICTED, Target, TargetOfOutput
from pipeline.models.labels import logits_shape
from pipeline.models.network import Network

if TYPE_CHECKING:
    import tensorflow as tf


def of_own_region(target: Target) -> RegionTarget | None:
    """The target of a class in the region that the network predicts for each image; None for any other target."""
    inner = target.target if isinstance(target, TargetOfOutput) else target
    return inner if isinstance(inner, RegionTarget) and inner.region is None else None


def held_for(target: Target, logits: np.ndarray, number: int) -> Target:
    """A target with the region that it has for one image, by its logits."""
    own = of_own_region(target)
    return target if own is None else own.held(logits, number)


def cells_of(network: Network, targets: Sequence[Target]) -> int:
    """The positions of the network's map of classes, if any target has its own region there; else 0."""
    return int(np.prod(logits_shape(network)[1:3])) if any(map(of_own_region, targets)) else 0


def regions_of(logits: tf.Tensor, numbers: tf.Tensor, asked: tf.Tensor) -> tf.Tensor:
    """The regions as they are asked for, int32 (batch, targets, cells), and in the place of PREDICTED those of these logits.

    numbers: int32 (batch, targets), the classes.
    """
    import tensorflow as tf

    if asked.shape[-1] == 0:
        return asked
    highest = tf.argmax(logits, axis=-1, output_type=tf.int32)[:, tf.newaxis]
    own = tf.cast(highest == numbers[..., tf.newaxis, tf.newaxis], tf.int32)
    return tf.where(asked == PREDICTED, tf.reshape(own, tf.shape(asked)), asked)


def score_in_region(target: Target, logits: tf.Tensor, numbers: tf.Tensor, region: tf.Tensor) -> tf.Tensor:
    """A target's score, float32 (batch,), in a region, int32 (batch, cells), if it counts in its own."""
    import tensorflow as tf

    own = of_own_region(target)
    if own is None:
        return target.score(logits, numbers)
    return own.score_in(logits, numbers, tf.cast(tf.reshape(region, tf.shape(logits)[:3]), tf.float32))
