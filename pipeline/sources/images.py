"""Images: a source whose examples are whole images."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import UnusableData
from pipeline.geometry import Box
from pipeline.hardware import cores
from pipeline.sources.columns import Column, column_of
from pipeline.sources.decode import DEFAULT_DECODER, Decoder, Unreadable
from pipeline.sources.fit import Fit
from pipeline.sources.record_batches import without_autotune
from pipeline.sources.records import Record, Records, ascending, digest_of
from pipeline.sources.source import Image, Shard

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Images:
    """The first `limit` images of some records, each fitted to the network's input: a `Source`."""

    records: Records
    fit: Fit
    limit: int | None = None
    decoder: Decoder = DEFAULT_DECODER

    @property
    def labels(self) -> list[str] | None:
        return self.records.labels

    def __len__(self) -> int:
        return len(self.records) if self.limit is None else min(self.limit, len(self.records))

    def digest(self, count: int | None = None) -> str:
        count = len(self) if count is None else count
        return digest_of("images", self.records.digest(count), count)

    def stream(self, shard: Shard, start: int = 0) -> tf.data.Dataset:
        import tensorflow as tf

        first, last = shard.bounds(len(self))
        records = self.records.read(first + start, last)

        def fitted(record: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            outputs = [tf.as_dtype(self.decoder.dtype), tf.string]
            images, errors = tf.numpy_function(self._fitted, [record["data"], record["error"]], outputs)
            images.set_shape((None, self.fit.height, self.fit.width, self.decoder.depth))
            errors.set_shape((None,))
            return {key: record[key] for key in ("example", "key", "label")} | {"image": images, "error": errors}

        chunks = records.batch(self.records.chunk)
        return without_autotune(chunks.map(fitted, num_parallel_calls=cores(), deterministic=True).unbatch())

    def record_of(self, example: int) -> int:
        """The record that an example is, or is cut from."""
        return example

    def column(self, name: str) -> Column:
        """A column of the data set. Raises: UnknownName; WrongSpec, for a kind of source without columns."""
        return column_of(self.records, name)

    def find(self, key: str) -> int | None:
        example = self.records.find(key)
        return example if example is not None and example < len(self) else None

    def fetch(self, examples: Iterable[int]) -> Iterator[tuple[int, Image]]:
        def decoded(record: Record) -> tuple[int, Image]:
            pixels, samples = decode_record(record, self.decoder, self.records.name)
            return record.example, Image(record.key, record.label or None, pixels, Box.whole(*pixels.shape[:2]), samples)

        # Every core decodes, and no more images wait than there are cores.
        waiting: deque[Future[tuple[int, Image]]] = deque()
        with ThreadPoolExecutor(cores()) as pool:
            for record in self.records.pick(ascending(examples, len(self))):
                waiting.append(pool.submit(decoded, record))
                if len(waiting) > cores():
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _fitted(self, data: np.ndarray, known_errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images = np.zeros((len(data), self.fit.height, self.fit.width, self.decoder.depth), self.decoder.dtype)
        errors = list(known_errors)
        for number, encoded in enumerate(data):
            if not errors[number]:
                try:
                    with self.decoder.opened(encoded, (self.fit.height, self.fit.width)) as pixels:
                        images[number] = self.fit.apply(pixels)
                except Unreadable as error:
                    errors[number] = str(error).encode()
        return images, np.array(errors, dtype=object)


def decode_record(record: Record, decoder: Decoder, source: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The pixels of one record, and the samples that a network is given, as `Decoder.read`. Raises: UnusableData."""
    reason = record.error
    if not reason:
        try:
            return decoder.read(record.data)
        except Unreadable as error:
            reason = str(error)
    raise UnusableData(f"image {record.key!r} of {source} cannot be read: {reason}. Replace the image, or remove it.")
