"""Regularizers: penalties on pictures, diversity within a group, Laplacian normalisation of gradients, and two denoisers."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from pipeline.compiled.gradients import deterministic_gradients

TV_WEIGHT = 2.0  # of the picture against its total variation: the smaller, the smoother

_WINDOW = 2  # pixels that the bilateral filter looks to each side
_FAINT = 1e-5  # neighbours with a smaller weight, the pixel's own being 1, are left out
_BINOMIAL = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]).astype(np.float32) / 256


def normalised(gradient: tf.Tensor) -> tf.Tensor:
    """Each of a batch divided by its root mean square; zeros stay zeros. float32, any shape after the batch."""
    axes = list(range(1, gradient.shape.rank))
    # Divided by the largest first: the squares of very large or small gradients would leave the range of float32.
    gradient = tf.math.divide_no_nan(gradient, tf.reduce_max(tf.abs(gradient), axis=axes, keepdims=True))
    return tf.math.divide_no_nan(gradient, tf.sqrt(tf.reduce_mean(tf.square(gradient), axis=axes, keepdims=True)))


def per_picture(values: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """(batch,) with as many axes as another tensor, to be broadcast over it."""
    return tf.reshape(values, (-1, *[1] * (other.shape.rank - 1)))


def penalised(gradient: tf.Tensor, picture: tf.Tensor, tv: float, l2: float) -> tuple[tf.Tensor, tf.Tensor]:
    """The objective's gradient on the pictures, normalised, less those of the penalties.

    Args:
        gradient, picture: float32 (batch, h, w, 3).
        tv, l2: weights of total variation and of the squared distance from grey.

    Returns: whether the objective has no gradient at all, bool (batch,); and the sum.
    """
    inactive = tf.reduce_all(tf.equal(gradient, 0.0), axis=[1, 2, 3])
    gradient = normalised(gradient)  # before the penalties are added, so that a weight has the same strength in every network
    if tv:
        gradient -= tv * deterministic_gradients(tf.image.total_variation(picture), picture)[0]
    if l2:
        gradient -= l2 * (picture - 0.5)
    return inactive, gradient


def diversity_penalty(values: tf.Tensor, maps: tf.Tensor, group: int, weight: float) -> tf.Tensor:
    """The similarity of each picture to the others of its group: float32 (batch,), as a share of its objective's value.

    The mean cosine between the Gram matrix of a picture's map and those of the others (Olah et al., 2017).

    Args:
        values: of the objectives, float32 (batch,); no gradient passes them.
        maps: float32 (batch, h, w, c), or logits (batch, classes).
        group: so many pictures in a row, two or more.
    """
    flat = tf.reshape(maps, (maps.shape[0], -1, maps.shape[-1]))
    gram = tf.reshape(tf.matmul(flat, flat, transpose_a=True), (-1, group, maps.shape[-1] ** 2))
    gram = tf.math.l2_normalize(gram, axis=2, epsilon=1e-20)
    alike = tf.matmul(gram, gram, transpose_b=True)
    others = (tf.reduce_sum(alike, axis=2) - tf.linalg.diag_part(alike)) / (group - 1)
    return weight * tf.stop_gradient(tf.abs(values)) * tf.reshape(others, (-1,))


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
        high.append(gradient - _enlarged(low, kernel, tf.shape(gradient)))
        gradient = low
    merged = normalised(gradient)
    for level in reversed(high):
        merged = _enlarged(merged, kernel, tf.shape(level)) + normalised(level)
    return merged


def _enlarged(low: tf.Tensor, kernel: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    return tf.nn.conv2d_transpose(low, 4 * kernel, shape, 2, "SAME")


def bilateral(picture: tf.Tensor, sigma: tf.Tensor, largest: float) -> tf.Tensor:
    """The bilateral filter: a mean of neighbours weighted by their distance in space and colour (Tomasi and Manduchi, 1998).

    The formula of scikit-image's `denoise_bilateral`, with a window of 5 and mirrored borders, but in the graph. Its
    table of distances is shifted (0.26, odd windows), so its pictures drift a little at each step.

    Args:
        picture: float32 (1, height, width, 3), from 0 to 1.
        sigma: both of the distance in pixels and of the distance in colour.
        largest: that sigma can be; decides which neighbours are looked at.
    """
    if largest <= 0:
        return picture
    height, width = tf.shape(picture)[1], tf.shape(picture)[2]
    # One plane for each colour: contiguous values are processed alike, which is several times faster.
    planes = tf.transpose(picture[0], (2, 0, 1))
    edge = [_WINDOW, _WINDOW]
    padded = tf.pad(planes, [[0, 0], edge, edge], "SYMMETRIC")
    narrow = -0.5 / tf.square(tf.maximum(sigma, 1e-6))

    def at(field: tf.Tensor, y: int, x: int) -> tf.Tensor:
        """A field shifted so that its pixel (y, x) comes first."""
        return field[:, y : y + height, x : x + width]

    total, weights = planes, tf.ones_like(planes[:1])
    for y, x in _half_window(largest):
        # A weight is the same in both directions, so it is computed once for each pair of neighbours.
        left, right = max(0, -x), max(0, x)
        ones = padded[:, : height + 2 * _WINDOW - y, left : width + 2 * _WINDOW - right]
        others = padded[:, y:, left + x : width + 2 * _WINDOW - right + x]
        # The distance of two colours is a third of the Euclidean, as in scikit-image.
        unlike = tf.reduce_sum(tf.math.squared_difference(ones, others), axis=0, keepdims=True) / 9
        weight = tf.exp(narrow * (y**2 + x**2 + unlike))
        ahead, behind = at(weight, _WINDOW, _WINDOW - left), at(weight, _WINDOW - y, _WINDOW - left - x)
        total += ahead * at(padded, _WINDOW + y, _WINDOW + x) + behind * at(padded, _WINDOW - y, _WINDOW - x)
        weights += ahead + behind
    return tf.transpose(total / weights, (1, 2, 0))[tf.newaxis]


def _half_window(sigma: float) -> list[tuple[int, int]]:
    """The neighbours that count, one of each opposite pair."""
    reach = range(-_WINDOW, _WINDOW + 1)
    half = [(y, x) for y in range(_WINDOW + 1) for x in reach if (y, x) > (0, 0)]
    return [(y, x) for y, x in half if np.exp(-0.5 * (y**2 + x**2) / sigma**2) >= _FAINT]


def tv_bregman(picture: np.ndarray) -> np.ndarray:
    """A picture with less total variation (Goldstein and Osher, 2009), by scikit-image. float32 (h, w, 3), from 0 to 1."""
    from skimage.restoration import denoise_tv_bregman

    return np.asarray(denoise_tv_bregman(picture, weight=TV_WEIGHT, channel_axis=-1), np.float32)
