"""Streams without tf.data's tuner."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The same elements, and whatever is made of them, without tf.data's tuner.

    The tuner looks at a pipeline 10 ms after its start, and then each time after twice as long. A pipeline that ends
    waits for the next look (TensorFlow 2.21): so for up to as long as it ran.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
