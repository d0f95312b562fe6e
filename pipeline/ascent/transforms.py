"""Shakes: small random shifts, turns and changes of size, so that a pattern must hold for more than one grid of pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from pipeline.ascent.parametrization import fused

_GREY = 0.5  # what lies beyond the canvas


@dataclass(frozen=True)
class Shake:
    """How far a picture is moved before each step.

    pad: width of the rim around what the network sees, as a share of the side: what jitter brings in.
    jitter: largest shift, as a share of the side; by whole pixels.
    scale: largest change of size: 0.1 is from 1 / 1.1 to 1.1.
    rotate: largest turn, in degrees, either way.
    """

    pad: float = 0.0
    jitter: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0

    @property
    def rests(self) -> bool:
        """Whether nothing moves."""
        return not (self.jitter or self.scale or self.rotate)

    def rim(self, side: int) -> int:
        """Pixels by which the canvas is larger than what the network sees, at each end."""
        return math.ceil(self.pad * side)

    def see(self, canvas: tf.Tensor, height: int, width: int, seed: tf.Tensor) -> tf.Tensor:
        """What the network is shown of a canvas: one move for the whole batch, drawn by the seed.

        Args:
            canvas: float32 (batch, height and width with their rims, 3), from 0 to 1.
            seed: int32 (2,): the same seed moves all canvases of this size alike.

        Returns: float32 (batch, height, width, 3).
        """
        if self.rests:
            return inner(canvas, height, width)
        transform = self._transform(canvas.shape[1], canvas.shape[2], height, width, seed)
        return _moved(canvas, transform, height, width)

    def _transform(self, canvas_height: int, canvas_width: int, height: int, width: int, seed: tf.Tensor) -> tf.Tensor:
        """From (x, y, 1) in what is seen to (x, y) on the canvas, about both middles: float32 (2, 3)."""
        chance = tf.random.stateless_uniform((4,), seed, -1.0, 1.0)
        y = tf.round(chance[0] * self.jitter * height)
        x = tf.round(chance[1] * self.jitter * width)
        angle = chance[2] * math.radians(self.rotate)
        shrink = tf.exp(-chance[3] * math.log1p(self.scale))
        cosine, sine = shrink * tf.cos(angle), shrink * tf.sin(angle)
        from_y, from_x = (height - 1) / 2, (width - 1) / 2
        to_y, to_x = (canvas_height - 1) / 2 + y, (canvas_width - 1) / 2 + x
        across = [cosine, -sine, to_x - cosine * from_x + sine * from_y]
        down = [sine, cosine, to_y - sine * from_x - cosine * from_y]
        return tf.stack([across, down])


AT_REST = Shake()


def inner(canvas: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """The canvas without its rim: (batch, height, width, 3)."""
    top, left = (canvas.shape[1] - height) // 2, (canvas.shape[2] - width) // 2
    return canvas[:, top : top + height, left : left + width]


def _moved(canvas: tf.Tensor, transform: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """What lies where the transform points; its gradient is what comes back, moved the other way."""

    @tf.custom_gradient
    def moved(canvas: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(pull: tf.Tensor) -> tf.Tensor:
            return _sampled(pull, _inverse(transform), canvas.shape[1], canvas.shape[2], 0.0)

        return _sampled(canvas, transform, height, width, _GREY), gradient

    return moved(canvas)


def _sampled(canvas: tf.Tensor, transform: tf.Tensor, height: int, width: int, beyond: float) -> tf.Tensor:
    """The canvases at the transform's places, between four pixels each: (batch, height, width, 3).

    TensorFlow's ImageProjectiveTransform is the same numbers. It works every place out anew, for each picture and
    colour, and takes several times as long.
    """
    batch, canvas_height, canvas_width, channels = canvas.shape
    rows, cols = tf.range(height, dtype=tf.float32)[:, tf.newaxis], tf.range(width, dtype=tf.float32)[tf.newaxis]
    # On a canvas with a border of one pixel, on which everything that lies beyond is found.
    x, y = (line[0] * cols + line[1] * rows + line[2] + 1 for line in (transform[0], transform[1]))
    x, y = tf.clip_by_value(x, 0, canvas_width + 1), tf.clip_by_value(y, 0, canvas_height + 1)
    left, top = tf.minimum(tf.floor(x), canvas_width), tf.minimum(tf.floor(y), canvas_height)
    line = canvas_width + 2
    corner = tf.cast(top, tf.int32) * line + tf.cast(left, tf.int32)

    def blended(canvas: tf.Tensor, corner: tf.Tensor, right: tf.Tensor, down: tf.Tensor) -> tf.Tensor:
        bordered = tf.pad(canvas, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=beyond)
        pixels = tf.reshape(bordered, (batch, -1, channels))
        above = (1 - right) * tf.gather(pixels, corner, axis=1) + right * tf.gather(pixels, corner + 1, axis=1)
        below = (1 - right) * tf.gather(pixels, corner + line, axis=1) + right * tf.gather(pixels, corner + line + 1, axis=1)
        return (1 - down) * above + down * below

    return fused(blended)(canvas, corner, (x - left)[..., tf.newaxis], (y - top)[..., tf.newaxis])


def _inverse(transform: tf.Tensor) -> tf.Tensor:
    """From (x, y, 1) on the canvas to (x, y) in what is seen."""
    (a, b, x), (c, d, y) = (tf.unstack(line) for line in tf.unstack(transform))
    area = a * d - b * c
    return tf.stack([[d, -b, b * y - d * x], [-c, a, c * x - a * y]]) / area
