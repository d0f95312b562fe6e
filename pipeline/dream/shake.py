"""Shakes: small random shifts, turns and changes of size, so that a pattern must hold for more than one grid of pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tensorflow as tf

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
        seen = tf.raw_ops.ImageProjectiveTransformV3(
            images=canvas,
            transforms=self._transform(canvas.shape[1], canvas.shape[2], height, width, seed)[tf.newaxis],
            output_shape=[height, width],
            fill_value=_GREY,
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
        )
        return tf.ensure_shape(seen, (canvas.shape[0], height, width, 3))

    def _transform(self, canvas_height: int, canvas_width: int, height: int, width: int, seed: tf.Tensor) -> tf.Tensor:
        """From (x, y) in what is seen to (x, y) on the canvas, about both middles: float32 (8,)."""
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
        return tf.stack([*across, *down, 0.0, 0.0])


AT_REST = Shake()


def inner(canvas: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """The canvas without its rim: (batch, height, width, 3)."""
    top, left = (canvas.shape[1] - height) // 2, (canvas.shape[2] - width) // 2
    return canvas[:, top : top + height, left : left + width]
