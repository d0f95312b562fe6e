"""Transforms: small random shifts, rotations and changes of scale, so that a pattern does not rely on the grid of pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import tensorflow as tf

from pipeline.ascent.parametrization import fused

_GREY = 0.5  # what lies outside the picture


@dataclass(frozen=True)
class Transforms:
    """The random transforms of a picture before each step.

    pad: width of the margin around what the network sees, as a share of the side, for jitter to bring in.
    jitter: largest shift, as a share of the side; by whole pixels.
    scale: largest change of scale: 0.1 is from 1 / 1.1 to 1.1.
    rotate: largest rotation, in degrees, either way.
    """

    pad: float = 0.0
    jitter: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0

    @property
    def is_identity(self) -> bool:
        """Whether there are no transforms."""
        return not (self.jitter or self.scale or self.rotate)

    def margin(self, side: int) -> int:
        """Pixels by which the picture is larger than what the network sees, at each end."""
        return math.ceil(self.pad * side)

    def apply(self, picture: tf.Tensor, height: int, width: int, seed: tf.Tensor) -> tf.Tensor:
        """The transformed pictures, as the network sees them: one random transform for the whole batch, drawn by the seed.

        Args:
            picture: float32 (batch, height and width with their margins, 3), from 0 to 1.
            seed: int32 (2,): the same seed moves all pictures of this size alike.

        Returns: float32 (batch, height, width, 3).
        """
        if self.is_identity:
            return inner(picture, height, width)
        transform = self._transform(picture.shape[1], picture.shape[2], height, width, seed)
        return _moved(picture, transform, height, width)

    def _transform(self, picture_height: int, picture_width: int, height: int, width: int, seed: tf.Tensor) -> tf.Tensor:
        """From (x, y, 1) in what the network sees to (x, y) in the picture, about both centres: float32 (2, 3)."""
        chance = tf.random.stateless_uniform((4,), seed, -1.0, 1.0)
        y = tf.round(chance[0] * self.jitter * height)
        x = tf.round(chance[1] * self.jitter * width)
        angle = chance[2] * math.radians(self.rotate)
        shrink = tf.exp(-chance[3] * math.log1p(self.scale))
        cosine, sine = shrink * tf.cos(angle), shrink * tf.sin(angle)
        from_y, from_x = (height - 1) / 2, (width - 1) / 2
        to_y, to_x = (picture_height - 1) / 2 + y, (picture_width - 1) / 2 + x
        across = [cosine, -sine, to_x - cosine * from_x + sine * from_y]
        down = [sine, cosine, to_y - sine * from_x - cosine * from_y]
        return tf.stack([across, down])


STILL = Transforms()


def inner(picture: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """The picture without its margin: (batch, height, width, 3)."""
    top, left = (picture.shape[1] - height) // 2, (picture.shape[2] - width) // 2
    return picture[:, top : top + height, left : left + width]


def _moved(picture: tf.Tensor, transform: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """The picture at the positions that the transform gives; its gradient is the one from above, moved back."""

    @tf.custom_gradient
    def moved(picture: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return _sampled(upstream, _inverse(transform), picture.shape[1], picture.shape[2], 0.0)

        return _sampled(picture, transform, height, width, _GREY), gradient

    return moved(picture)


def _sampled(picture: tf.Tensor, transform: tf.Tensor, height: int, width: int, beyond: float) -> tf.Tensor:
    """The pictures at the transform's positions, bilinear: (batch, height, width, 3).

    TensorFlow's ImageProjectiveTransform gives the same numbers. It computes every position again for each picture and
    colour, and takes several times as long.
    """
    _, picture_height, picture_width, _ = picture.shape
    rows, cols = tf.range(height, dtype=tf.float32)[:, tf.newaxis], tf.range(width, dtype=tf.float32)[tf.newaxis]
    # In a picture with a border of one pixel, to which all that lies outside is clipped.
    x, y = (line[0] * cols + line[1] * rows + line[2] + 1 for line in (transform[0], transform[1]))
    x, y = tf.clip_by_value(x, 0, picture_width + 1), tf.clip_by_value(y, 0, picture_height + 1)
    left, top = tf.minimum(tf.floor(x), picture_width), tf.minimum(tf.floor(y), picture_height)
    corner = tf.cast(top, tf.int32) * (picture_width + 2) + tf.cast(left, tf.int32)
    return _blending(beyond)(picture, corner, (x - left)[..., tf.newaxis], (y - top)[..., tf.newaxis])


@lru_cache
def _blending(beyond: float) -> Callable[..., tf.Tensor]:
    """A function of pictures, each position's upper left pixel, with the border, and its distances from that: the blend."""

    def blended(picture: tf.Tensor, corner: tf.Tensor, right: tf.Tensor, down: tf.Tensor) -> tf.Tensor:
        bordered = tf.pad(picture, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=beyond)
        batch, _, line, channels = bordered.shape
        pixels = tf.reshape(bordered, (batch, -1, channels))
        above = (1 - right) * tf.gather(pixels, corner, axis=1) + right * tf.gather(pixels, corner + 1, axis=1)
        below = (1 - right) * tf.gather(pixels, corner + line, axis=1) + right * tf.gather(pixels, corner + line + 1, axis=1)
        return (1 - down) * above + down * below

    return fused(blended)


def _inverse(transform: tf.Tensor) -> tf.Tensor:
    """From (x, y, 1) in the picture to (x, y) in what the network sees."""
    (a, b, x), (c, d, y) = (tf.unstack(line) for line in tf.unstack(transform))
    area = a * d - b * c
    return tf.stack([[d, -b, b * y - d * x], [-c, a, c * x - a * y]]) / area
