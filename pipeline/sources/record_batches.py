"""Runs: records that are stored many to a file, and read a run at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.sources.records import Record

if TYPE_CHECKING:
    import tensorflow as tf


def stream_runs(make: Callable[[], Iterator[Sequence[Record]]]) -> tf.data.Dataset:
    """The records of all runs as `Records.read` gives them. `make` is called anew for each pass, in a thread of tf.data."""
    import tensorflow as tf

    signature = {name: tf.TensorSpec((None,), tf.string) for name in ("key", "label", "data", "error")}
    signature["example"] = tf.TensorSpec((None,), tf.int64)

    def columns() -> Iterator[dict[str, np.ndarray]]:
        for run in make():
            yield {
                "example": np.array([record.example for record in run], np.int64),
                "data": np.array([record.data for record in run], object),
                **{
                    name: np.array([getattr(record, name).encode() for record in run], object)
                    for name in ("key", "label", "error")
                },
            }

    # One run waits while another is decoded: memory holds two, however many there are.
    return tf.data.Dataset.from_generator(columns, output_signature=signature).prefetch(1).unbatch()
