"""How records become tf.data streams: read in batches from files that hold many of them, and without autotuning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.sources.records import Record

if TYPE_CHECKING:
    import tensorflow as tf


def stream_batches(read: Callable[[], Iterator[Sequence[Record]]]) -> tf.data.Dataset:
    """The records of all batches as `Records.read` gives them; `read` is called once a pass, in a thread of tf.data."""
    import tensorflow as tf

    signature = {name: tf.TensorSpec((None,), tf.string) for name in ("key", "label", "data", "error")}
    signature["example"] = tf.TensorSpec((None,), tf.int64)

    def columns() -> Iterator[dict[str, np.ndarray]]:
        for batch in read():
            yield {
                "example": np.array([record.example for record in batch], np.int64),
                "data": np.array([record.data for record in batch], object),
                **{
                    name: np.array([getattr(record, name).encode() for record in batch], object)
                    for name in ("key", "label", "error")
                },
            }

    # One batch waits while another is decoded: memory holds two, however many there are.
    return tf.data.Dataset.from_generator(columns, output_signature=signature).prefetch(1).unbatch()


def without_autotune(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The same elements without tf.data's autotuning, here and in whatever is made of the dataset.

    The tuner looks at a pipeline 10 ms after its start, and then each time after twice as long. A pipeline that has ended
    waits for the next look (TensorFlow 2.21): up to as long as it ran.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
