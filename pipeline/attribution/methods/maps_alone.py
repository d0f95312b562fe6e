"""What class activation maps without gradients share: a layer's maps as they are, and which of their channels to try."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.attribution.methods.method import AtLayer, Evidence

if TYPE_CHECKING:
    import tensorflow as tf


def as_they_are(maps: tf.Tensor, same: tf.Tensor) -> tf.Tensor:
    """The maps."""
    return maps


def maps_at(layer: str | None) -> AtLayer:
    """The question for a layer's maps: float32 (count, targets, h, w, channels), the same for all targets."""
    assert layer is not None
    return AtLayer(layer, as_they_are, by_gradients=False)


def channels_of(maps: np.ndarray, evidence: Evidence) -> np.ndarray:
    """The channels of one image's maps (h, w, channels) that are tried: those that vary most, in order; all by default."""
    most = evidence.settings.channels or maps.shape[-1]
    deviations = maps.astype(np.float64).std(axis=(0, 1))
    return np.sort(np.argsort(-deviations, kind="stable")[:most])
