"""Columns of numbers in the stored records of TensorFlow Datasets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pipeline.errors import UnknownName, UnusableData, one_line
from pipeline.sources.columns import numbers
from pipeline.sources.tfrecord import check_records


class RecordRange(NamedTuple):
    """Consecutive records of one file: `take` of them after `skip`; the first is example `first`."""

    path: str
    skip: int
    take: int
    first: int


class NumberFeature(NamedTuple):
    """A feature of numbers: its shape, None where a record has any number of them; whether it is a box, as tfds defines it."""

    shape: tuple[int | None, ...]
    is_box: bool


def number_features(features: Mapping[str, Any], prefix: str = "", outer: tuple[None, ...] = ()) -> dict[str, NumberFeature]:
    """The features that hold numbers, by name; those within others as tfds stores them, "objects/bbox".

    outer: the lengths, of any number, of the sequences that they lie in.
    """
    import tensorflow_datasets as tfds

    columns: dict[str, NumberFeature] = {}
    for key, feature in features.items():
        repeated = isinstance(feature, tfds.features.Sequence)
        inner = feature.feature if repeated else feature
        shape = (*outer, *(() if feature.shape is None or isinstance(inner, tfds.features.FeaturesDict) else feature.shape))
        if isinstance(inner, tfds.features.FeaturesDict):
            columns |= number_features(dict(inner.items()), f"{prefix}{key}/", (*outer, None) if repeated else outer)
        elif isinstance(inner, tfds.features.BBoxFeature):
            columns[prefix + key] = NumberFeature(shape, True)
        elif _holds_numbers(inner):
            columns[prefix + key] = NumberFeature(shape, False)
    return columns


def _holds_numbers(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    plain = isinstance(feature, (tfds.features.Scalar, tfds.features.ClassLabel)) or type(feature) is tfds.features.Tensor
    return plain and np.dtype(feature.np_dtype).kind in "iufb"


@dataclass
class TfdsColumn:
    """The values of one feature; see `pipeline.sources.columns.Column`. Records are read in order, one file at a time.

    is_box: whether they are y1, x1, y2, x2 in shares of the image, as tfds defines them.
    """

    name: str
    slices: Sequence[RecordRange]
    shape: tuple[int | None, ...]
    is_box: bool
    _next: int = -1
    _records: Iterator[bytes] | None = None

    @classmethod
    def of(cls, source: str, slices: Sequence[RecordRange], features: Mapping[str, NumberFeature], name: str) -> TfdsColumn:
        """Raises: UnknownName."""
        if name not in features:
            raise UnknownName.among(name, features, where=f"a feature of numbers of {source}")
        return cls(name, slices, *features[name])

    def value(self, record: int) -> np.ndarray | None:
        import tensorflow as tf

        if self._records is None or record != self._next:
            self._records = self._from(record)
        try:
            stored = next(self._records)
        except (tf.errors.OpError, StopIteration) as error:
            raise UnusableData(f"its feature {self.name!r} cannot be read: {one_line(error)}") from None
        self._next = record + 1
        kinds = tf.train.Example.FromString(stored).features.feature[self.name]
        held = numbers(self.name, list(getattr(kinds, kinds.WhichOneof("kind") or "float_list").value))
        sides = [-1 if side is None else side for side in self.shape]
        return held.reshape(sides) if (held.size or -1 in sides) and sides.count(-1) < 2 else held if held.size else None

    def _from(self, record: int) -> Iterator[bytes]:
        """The stored records from one on, through all files after its own."""
        import tensorflow as tf

        for span in self.slices:
            skipped = max(0, record - span.first)
            if skipped < span.take:
                check_records(span.path, span.skip + span.take)
                stored = tf.data.TFRecordDataset(span.path).skip(span.skip + skipped).take(span.take - skipped)
                yield from stored.as_numpy_iterator()
