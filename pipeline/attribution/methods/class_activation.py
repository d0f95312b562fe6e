"""Class activation maps: a layer's maps, weighted by their gradients, summed over the channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pipeline.attribution.methods.method import AtLayer, Evidence, Method, Quantity

if TYPE_CHECKING:
    import tensorflow as tf


def gradcam(maps: tf.Tensor, gradients: tf.Tensor) -> tf.Tensor:
    """Every channel weighted by its mean gradient."""
    import tensorflow as tf

    return _weighted(maps, tf.reduce_mean(gradients, axis=(1, 2), keepdims=True))


def hirescam(maps: tf.Tensor, gradients: tf.Tensor) -> tf.Tensor:
    """Every position of every channel weighted by its own gradient."""
    return _weighted(maps, gradients)


def gradcam_plus_plus(maps: tf.Tensor, gradients: tf.Tensor) -> tf.Tensor:
    """Grad-CAM++ for the exponential of the score, but for the factor exp(score), which all channels share."""
    import tensorflow as tf

    total = tf.reduce_sum(maps, axis=(1, 2), keepdims=True)
    alphas = tf.math.divide_no_nan(gradients**2, 2 * gradients**2 + total * gradients**3)
    return _weighted(maps, tf.reduce_sum(alphas * tf.nn.relu(gradients), axis=(1, 2), keepdims=True))


def xgradcam(maps: tf.Tensor, gradients: tf.Tensor) -> tf.Tensor:
    """Every channel weighted by its gradients, each by its position's share of the channel; a channel that sums to 0 by none."""
    import tensorflow as tf

    total = tf.reduce_sum(maps, axis=(1, 2), keepdims=True)
    return _weighted(maps, tf.math.divide_no_nan(tf.reduce_sum(maps * gradients, axis=(1, 2), keepdims=True), total))


def layercam(maps: tf.Tensor, gradients: tf.Tensor) -> tf.Tensor:
    """Every position of every channel weighted by its own gradient, where that is positive."""
    import tensorflow as tf

    return _weighted(maps, tf.nn.relu(gradients))


def _weighted(maps: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    import tensorflow as tf

    return tf.reduce_sum(maps * weights, axis=-1)


def class_activation_map(name: str, title: str, paper: str, combine: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> Method:
    """A method that one formula of a layer's maps and gradients makes; `combine` as of `AtLayer`."""

    def needs(layer: str | None) -> tuple[Quantity, ...]:
        assert layer is not None
        return (AtLayer(layer, combine),)

    def explain(evidence: Evidence, layer: str | None) -> np.ndarray:
        return evidence.of(needs(layer)[0])

    return Method(name, title, paper, "layer", "heat", needs, explain)


GRADCAM = class_activation_map("gradcam", "GradCAM", "Selvaraju et al., 2017", gradcam)
HIRESCAM = class_activation_map("hirescam", "HiResCAM", "Draelos and Carin, 2020", hirescam)
GRADCAM_PLUS_PLUS = class_activation_map("gradcam++", "Grad-CAM++", "Chattopadhay et al., 2018", gradcam_plus_plus)
XGRADCAM = class_activation_map("xgradcam", "XGrad-CAM", "Fu et al., 2020", xgradcam)
LAYERCAM = class_activation_map("layercam", "LayerCAM", "Jiang et al., 2021", layercam)
