"""From RGB pixels to what a network eats: the named ways, each one function of TensorFlow ops."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

# ImageNet's means and deviations: of RGB in 0..1, and (Caffe's) of BGR in 0..255.
_RGB_MEAN, _RGB_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BGR_MEAN = (103.939, 116.779, 123.68)

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601


def _caffe(pixels: tf.Tensor) -> tf.Tensor:
    return tf.reverse(pixels, axis=[-1]) - tf.constant(_BGR_MEAN)


def _torch(pixels: tf.Tensor) -> tf.Tensor:
    return (pixels / 255.0 - tf.constant(_RGB_MEAN)) / tf.constant(_RGB_DEVIATION)


# Float32 pixels in 0..255, (batch, h, w, channels), to float32 of the same shape.
MODES: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "none": lambda pixels: pixels,
    "unit": lambda pixels: pixels / 255.0,
    "symmetric": lambda pixels: pixels / 127.5 - 1.0,
    "caffe": _caffe,
    "torch": _torch,
    "standardize": tf.image.per_image_standardization,
}

COLOUR_ONLY = ("caffe", "torch")


def to_grey(pixels: tf.Tensor) -> tf.Tensor:
    """Luma by ITU-R BT.601: float32 RGB (batch, h, w, 3) to float32 (batch, h, w, 1)."""
    return tf.reduce_sum(pixels * tf.constant(_GREY), axis=-1, keepdims=True)
