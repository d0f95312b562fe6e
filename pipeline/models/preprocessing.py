"""From RGB pixels to what a network eats: the named ways, each one function of TensorFlow ops."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from pipeline.errors import WrongSpec
from pipeline.models.network import Setting

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


Ranges = tuple[tuple[float, float], ...]  # the values that became 0 and 255: of all bands, or of each


def prepare(images: tf.Tensor, mode: str, channels: int, ranges: Ranges | None = None) -> tf.Tensor:
    """Pixels, uint8 or float in 0..255, to float32 (batch, h, w, channels): what a network eats.

    Args:
        images: (batch, h, w, channels); or RGB, (batch, h, w, 3), for a grey network.
        ranges: by which samples became pixels; "none" gives the samples.
    """
    pixels = tf.cast(images, tf.float32)
    if channels == 1 and images.shape[3] == 3:
        pixels = to_grey(pixels)
    if mode == "none" and ranges is not None:
        low, high = (tf.constant(ends, tf.float32) for ends in zip(*ranges, strict=True))
        return low + pixels / 255.0 * (high - low)
    return MODES[mode](pixels)


def check_mode(mode: str, channels: int, where: str) -> None:
    """Raises: WrongSpec, for a preprocessing that is unknown ("auto" that could not be told) or for colour alone."""
    if mode not in MODES:
        raise WrongSpec(f"what {where} wants done to its pixels cannot be told. Name it in model.preprocess: {', '.join(MODES)}.")
    if mode in COLOUR_ONLY and channels != 3:
        takes = "grey images" if channels == 1 else f"images of {channels} bands"
        raise WrongSpec(f"model.preprocess = {mode!r} is for colour, but {where} takes {takes}. Choose another.")


def to_grey(pixels: tf.Tensor) -> tf.Tensor:
    """Luma by ITU-R BT.601: float32 RGB (batch, h, w, 3) to float32 (batch, h, w, 1)."""
    return tf.reduce_sum(pixels * tf.constant(_GREY), axis=-1, keepdims=True)


def of_whole_numbers(preprocessing: Setting, takes: str, where: str) -> Setting:
    """The preprocessing of a network that takes pixels as whole numbers. Raises: WrongSpec, for one that makes fractions."""
    if preprocessing.value == "auto":
        return Setting("none", f"its input takes {takes}")
    if preprocessing.value != "none":
        raise WrongSpec(
            f"model.preprocess = {preprocessing.value!r} gives fractions, but {where} takes its images as {takes}, pixels "
            'as they are. Set model.preprocess = "none".'
        )
    return preprocessing
