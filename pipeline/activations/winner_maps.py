"""Winner maps: the map of the channel that an image may win, kept beside its response as 8-bit shares of it.

They show where in the image the channel responds. A scan has every map once, on the device; with those of the winners
kept, no second pass of the network over the winning images is needed.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

MOST_CELLS = 28  # along a side of a map that is kept: a heap of nine then takes no more than nine maps of a layer


def keeps_maps(shape: tuple[int, ...]) -> bool:
    """Whether a scan keeps the winners' maps of a layer of this shape: (height, width, channels)."""
    return 1 < max(shape[:2]) <= MOST_CELLS


def map_shares(values: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """Maps as shares of their peaks, which may lie nowhere above zero.

    Args:
        values: float (n, cells): maps in reading order. NaN count as the lowest value.
        index: int64 (n,): where each map's peak is.

    Returns: uint8 (n, cells): 255 at the peak, 0 at zero and below or, where the peak is not positive, at the lowest finite
        value.
    """
    most = tf.float32.max / 4
    finite = tf.minimum(tf.where(tf.math.is_nan(values), -np.inf, tf.cast(values, tf.float32)), most)
    peaks = tf.gather(finite, index, axis=1, batch_dims=1)[:, tf.newaxis]
    least = tf.reduce_min(tf.where(tf.math.is_finite(finite), finite, np.inf), axis=1, keepdims=True)
    floor = tf.where((peaks <= 0) & tf.math.is_finite(least), least, 0.0)
    heights, peak = tf.maximum(finite - floor, 0), peaks - floor
    shares = tf.where(peak > 0, tf.minimum(tf.math.divide_no_nan(heights, peak), 1), 1.0)
    return tf.cast(tf.round(255 * shares), tf.uint8)
