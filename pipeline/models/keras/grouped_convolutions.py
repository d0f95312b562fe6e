"""Convolutions in groups by TensorFlow's own operations, where Keras would have XLA compile a function of each.

On CPUs, XLA's are many times slower, above all their gradients; and what goes through a graph sees no more of them than a call.
TensorFlow's own operation has no gradient there, unless it is oneDNN that computes it, so it is not used for groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from pipeline.compiled.keras_private import convolutions_by


@contextmanager
def without_compiled_convolutions() -> Iterator[None]:
    """Keras computes convolutions of maps and of rows in groups by plain operations while the block traces a network."""
    with convolutions_by(_convolution):
        yield


def grouped_convolution(
    images: tf.Tensor, kernel: tf.Tensor, strides: Sequence[int], padding: str, dilations: Sequence[int]
) -> tf.Tensor:
    """A convolution of channels in groups: depthwise, where every channel is a group; else one for each group.

    Args:
        images: (batch, height, width, channels).
        kernel: (height, width, channels of a group, filters), those of the first group first.
        padding: "SAME" or "VALID".
    """
    channels, (height, width, inputs, filters) = images.shape[-1], kernel.shape
    count = channels // inputs
    strided = strides[0] != strides[1] or (max(strides) > 1 and max(dilations) > 1)  # no depthwise operation is both
    if inputs == 1 and not strided:
        depthwise = tf.reshape(kernel, [height, width, channels, filters // channels])
        return tf.nn.depthwise_conv2d(images, depthwise, [1, *strides, 1], padding, dilations=list(dilations))
    groups = zip(tf.split(images, count, axis=-1), tf.split(kernel, count, axis=-1), strict=True)
    return tf.concat(
        [tf.nn.convolution(group, part, list(strides), padding, dilations=list(dilations)) for group, part in groups], axis=-1
    )


def _convolution(plain: Callable[..., Any], images: Any, kernel: Any, *arguments: Any, **options: Any) -> Any:
    """`keras.ops.conv`, given Keras's own computation of it and its arguments."""
    given = dict(zip(("strides", "padding", "data_format", "dilation_rate"), arguments, strict=False)) | options
    images, kernel = tf.convert_to_tensor(images), tf.convert_to_tensor(kernel)
    rank, form = images.shape.rank, given.get("data_format")
    axis = {"channels_last": -1, "channels_first": 1}.get(form or "", -1)
    if rank not in (3, 4) or form is None or images.shape[axis] == kernel.shape[-2]:
        return plain(images, kernel, **given)
    if axis == 1:
        inner = [*range(2, rank)]
        last = _convolution(plain, tf.transpose(images, [0, *inner, 1]), kernel, **given | {"data_format": "channels_last"})
        return tf.transpose(last, [0, rank - 1, *range(1, rank - 1)])
    if rank == 3:  # as a map of one row
        sizes = {name: (1, *_pair(given.get(name, 1))[-1:]) for name in ("strides", "dilation_rate")}
        row = _convolution(plain, images[:, tf.newaxis], kernel[tf.newaxis], **given | sizes)
        return tf.squeeze(row, 1)
    strides, dilations = (_pair(given.get(name, 1)) for name in ("strides", "dilation_rate"))
    return grouped_convolution(images, kernel, strides, given.get("padding", "valid").upper(), dilations)


def _pair(size: int | Sequence[int]) -> Sequence[int]:
    return (size, size) if isinstance(size, int) else tuple(size)
