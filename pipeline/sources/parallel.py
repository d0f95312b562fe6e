"""How many images the sources read and decode at the same time: as many as there are cores, throughout."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf


def cores() -> int:
    """The cores that this process may use; all of the machine's where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The same elements, and whatever is made of them, without tf.data's tuner.

    The tuner looks at a pipeline 10 ms after its start, and then each time after twice as long. A pipeline that ends
    waits for the next look (TensorFlow 2.21): so for up to as long as it ran.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
