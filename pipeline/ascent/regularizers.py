"""Smoothing: what keeps a growing picture from noise. The gradient's frequencies made equal, and two denoisers."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from pipeline.ascent.optimizer import normalised

TV_WEIGHT = 2.0  # of the picture against its total variation: the smaller, the smoother

_WINDOW = 2  # pixels that the bilateral filter looks to each side
_FAINT = 1e-5  # neighbours that count less than this beside the pixel itself are passed over
_BINOMIAL = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]).astype(np.float32) / 256


def laplacian_normalised(gradient: tf.Tensor, levels: int) -> tf.Tensor:
    """A gradient whose octaves of frequency all have the same strength (Mordvintsev et al., the DeepDream notebook, 2015).

    Args:
        gradient: float32 (1, height, width, 3).
        levels: of the Laplacian pyramid, above the rest that is left; each is divided by its root mean square.
    """
    if not levels:
        return gradient
    kernel = tf.constant(_BINOMIAL[:, :, None, None] * np.eye(3, dtype=np.float32))
    high = []
    for _ in range(levels):
        low = tf.nn.conv2d(gradient, kernel, 2, "SAME")
        high.append(gradient - _grown(low, kernel, tf.shape(gradient)))
        gradient = low
    merged = normalised(gradient)
    for level in reversed(high):
        merged = _grown(merged, kernel, tf.shape(level)) + normalised(level)
    return merged


def _grown(low: tf.Tensor, kernel: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    return tf.nn.conv2d_transpose(low, 4 * kernel, shape, 2, "SAME")


def bilateral(picture: tf.Tensor, sigma: tf.Tensor, largest: float) -> tf.Tensor:
    """Each pixel as a mean of its neighbours, the near and the alike counting most (Tomasi and Manduchi, 1998).

    The formula of scikit-image's `denoise_bilateral`, with a window of 5 and mirrored borders, but in the graph. Its
    own weights of distance stand in the wrong places (0.26, odd windows): its pictures drift a little at each step.

    Args:
        picture: float32 (1, height, width, 3), from 0 to 1.
        sigma: both of the distance in pixels and of the distance in colour.
        largest: that sigma can be; decides which neighbours are looked at.
    """
    if largest <= 0:
        return picture
    height, width = tf.shape(picture)[1], tf.shape(picture)[2]
    # Colours as planes: numbers that are treated alike lie side by side, several times as quick as three by three.
    planes = tf.transpose(picture[0], (2, 0, 1))
    edge = [_WINDOW, _WINDOW]
    padded = tf.pad(planes, [[0, 0], edge, edge], "SYMMETRIC")
    narrow = -0.5 / tf.square(tf.maximum(sigma, 1e-6))

    def at(field: tf.Tensor, y: int, x: int) -> tf.Tensor:
        """The pixels of a field, moved: those at (y, x) stand where the picture's first pixel is."""
        return field[:, y : y + height, x : x + width]

    total, weights = planes, tf.ones_like(planes[:1])
    for y, x in _half_window(largest):
        # A pixel weighs as much for its neighbour as that one for it, so a weight is worked out once for both.
        left, right = max(0, -x), max(0, x)
        ones = padded[:, : height + 2 * _WINDOW - y, left : width + 2 * _WINDOW - right]
        others = padded[:, y:, left + x : width + 2 * _WINDOW - right + x]
        # The distance of two colours is a third of Euclid's, as there.
        unlike = tf.reduce_sum(tf.math.squared_difference(ones, others), axis=0, keepdims=True) / 9
        weight = tf.exp(narrow * (y**2 + x**2 + unlike))
        ahead, behind = at(weight, _WINDOW, _WINDOW - left), at(weight, _WINDOW - y, _WINDOW - left - x)
        total += ahead * at(padded, _WINDOW + y, _WINDOW + x) + behind * at(padded, _WINDOW - y, _WINDOW - x)
        weights += ahead + behind
    return tf.transpose(total / weights, (1, 2, 0))[tf.newaxis]


def _half_window(sigma: float) -> list[tuple[int, int]]:
    """The neighbours that count, one of each two that lie opposite each other."""
    reach = range(-_WINDOW, _WINDOW + 1)
    half = [(y, x) for y in range(_WINDOW + 1) for x in reach if (y, x) > (0, 0)]
    return [(y, x) for y, x in half if np.exp(-0.5 * (y**2 + x**2) / sigma**2) >= _FAINT]


def tv_bregman(picture: np.ndarray) -> np.ndarray:
    """A picture with less total variation (Goldstein and Osher, 2009), by scikit-image. float32 (h, w, 3), from 0 to 1."""
    from skimage.restoration import denoise_tv_bregman

    return np.asarray(denoise_tv_bregman(picture, weight=TV_WEIGHT, channel_axis=-1), np.float32)
