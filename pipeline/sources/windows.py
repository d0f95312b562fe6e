"""Windows: a source whose examples are squares slid over the images of another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import UnusableData
from pipeline.geometry import Box
from pipeline.hardware import cores
from pipeline.sources.columns import Column, column_of
from pipeline.sources.decode import DEFAULT_DECODER, Decoder, Unreadable
from pipeline.sources.fit import Fit
from pipeline.sources.images import decode_record
from pipeline.sources.record_batches import without_autotune
from pipeline.sources.records import Records, ascending, digest_of
from pipeline.sources.source import Image, Shard
from pipeline.spec.data import WindowSpec

if TYPE_CHECKING:
    import tensorflow as tf

_CHUNK_BYTES = 2**25  # of fitted windows that one call cuts from an image: bounds memory, however large the image
_SIZES_AT_ONCE = 1024
_CHANGED = "is not of the size that its header says"


class Windows:
    """Squares of `size` source pixels, `stride` apart, row by row in each image, image by image: a `Source`.

    Only whole squares count. The first lies in the upper left corner or, with `middle`, the squares are centred. An image
    that is smaller than the square along either axis is one window, as it is; an unreadable image is one bad example. Keys are
    `KEY@y,x`, the window's upper left corner.
    """

    def __init__(
        self, records: Records, fit: Fit, window: WindowSpec, limit: int | None = None, decoder: Decoder = DEFAULT_DECODER
    ) -> None:
        self.records, self.fit, self.decoder, self.labels = records, fit, decoder, records.labels
        self.size, self.stride, self.middle = size, stride, _ = window.size, window.stride, window.align == "middle"
        self._sizes = _sizes_until(records, size, stride, limit)
        # What is too large to be decoded is one bad example, not as many as it would have windows.
        self._sizes[self._sizes.prod(axis=1) > decoder.max_pixels] = 0
        # The number of each image's first window, and the number of windows.
        self._edges = np.concatenate([[0], np.cumsum(_counts(self._sizes, size, stride))])
        total = int(self._edges[-1])
        self._total = total if limit is None else min(limit, total)

    def __len__(self) -> int:
        return self._total

    def digest(self, count: int | None = None) -> str:
        count = len(self) if count is None else count
        images = self._image_of(count - 1) + 1 if count else 0
        middle = ["middle"] if self.middle else []
        return digest_of("windows", self.records.digest(images), self.size, self.stride, count, *middle)

    def stream(self, shard: Shard, start: int = 0) -> tf.data.Dataset:
        import tensorflow as tf

        first, last = shard.bounds(len(self))
        first = min(first + start, last)
        images = (self._image_of(first), self._image_of(last - 1) + 1) if first < last else (0, 0)
        records = self.records.read(*images)
        edges = tf.constant(self._edges)
        bytes_each = self.fit.height * self.fit.width * self.decoder.depth * np.dtype(self.decoder.dtype).itemsize
        chunk = max(1, _CHUNK_BYTES // bytes_each)

        def chunks(record: dict[str, tf.Tensor]) -> tf.data.Dataset:
            begin = tf.maximum(tf.gather(edges, record["example"]), first)
            end = tf.minimum(tf.gather(edges, record["example"] + 1), last)
            begins = tf.range(begin, end, chunk)
            return tf.data.Dataset.from_tensor_slices((begins, tf.minimum(begins + chunk, end))).map(
                lambda begin, end: record | {"begin": begin, "end": end}
            )

        def fitted(record: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            windows = tf.stack([record["begin"], record["end"]])
            inputs = [*(record[key] for key in ("example", "key", "data", "error")), windows]
            outputs = [tf.string, tf.as_dtype(self.decoder.dtype), tf.string]
            keys, images, errors = tf.numpy_function(self._fitted, inputs, outputs)
            examples = tf.range(record["begin"], record["end"])
            images.set_shape((None, self.fit.height, self.fit.width, self.decoder.depth))
            keys.set_shape((None,))
            errors.set_shape((None,))
            labels, groups = (tf.fill(tf.shape(examples), record[key]) for key in ("label", "example"))
            return {"example": examples, "group": groups, "key": keys, "label": labels, "image": images, "error": errors}

        return without_autotune(records.flat_map(chunks).map(fitted, num_parallel_calls=cores(), deterministic=True).unbatch())

    def record_of(self, example: int) -> int:
        """The record that an example is, or is cut from."""
        return self._image_of(example)

    def column(self, name: str) -> Column:
        """A column of the data set. Raises: UnknownName; WrongSpec, for a kind of source without columns."""
        return column_of(self.records, name)

    def find(self, key: str) -> int | None:
        image = self.records.find(key.rpartition("@")[0])
        if image is None or image >= len(self._sizes):
            return None
        windows = range(int(self._edges[image]), min(int(self._edges[image + 1]), len(self)))
        return next((example for example in windows if key.endswith(_key("", self._box(image, example)))), None)

    def fetch(self, examples: Iterable[int]) -> Iterator[tuple[int, Image]]:
        by_image: dict[int, list[int]] = {}
        for example in ascending(examples, len(self)):
            by_image.setdefault(self._image_of(example), []).append(example)
        for record in self.records.pick(list(by_image)):
            pixels, samples = decode_record(record, self.decoder, self.records.name)
            if pixels.shape[:2] != tuple(self._sizes[record.example]):
                raise UnusableData(f"image {record.key!r} of {self.records.name} {_CHANGED}. Start the job again with --anew.")
            for example in by_image[record.example]:
                box = self._box(record.example, example)
                yield example, Image(_key(record.key, box), record.label or None, pixels, box, samples)

    def _image_of(self, example: int) -> int:
        return int(np.searchsorted(self._edges, example, side="right")) - 1

    def _box(self, image: int, example: int) -> Box:
        height, width = map(int, self._sizes[image])
        if height < self.size or width < self.size:
            return Box.whole(height, width)
        number = example - int(self._edges[image])
        row, col = divmod(number, (width - self.size) // self.stride + 1)
        # The pixels that no whole square covers, halved.
        top, left = (((side - self.size) % self.stride // 2) if self.middle else 0 for side in (height, width))
        y1, x1 = top + row * self.stride, left + col * self.stride
        return Box(y1, x1, y1 + self.size, x1 + self.size)

    def _fitted(
        self, image: np.int64, key: bytes, data: bytes, error: bytes, windows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        boxes = [self._box(int(image), example) for example in range(*windows)]
        fitted = np.zeros((len(boxes), self.fit.height, self.fit.width, self.decoder.depth), self.decoder.dtype)
        if not error:
            try:
                with self.decoder.opened(data) as pixels:
                    if pixels.shape[:2] != tuple(self._sizes[image]):
                        raise Unreadable(_CHANGED)
                    for number, box in enumerate(boxes):
                        fitted[number] = self.fit.apply(box.cut(pixels))
            except Unreadable as problem:
                error = str(problem).encode()
        keys = [_key(key.decode(), box).encode() for box in boxes]
        return np.array(keys, dtype=object), fitted, np.array([error] * len(boxes), dtype=object)


def _key(key: str, box: Box) -> str:
    return f"{key}@{box.y1},{box.x1}"


def without_window(key: str) -> str:
    """The key of the image that a window is cut from, by the window's key; any other key as it is."""
    return re.sub(r"@\d+,\d+$", "", key)


def _counts(sizes: np.ndarray, size: int, stride: int) -> np.ndarray:
    """The number of windows of each image: int64 (n,)."""
    steps = (sizes - size) // stride + 1
    return np.where((sizes >= size).all(axis=1), steps.prod(axis=1), 1)


def _sizes_until(records: Records, size: int, stride: int, limit: int | None) -> np.ndarray:
    """The sizes of all images, or of as many as hold `limit` windows: int64 (n, 2)."""
    sizes: list[np.ndarray] = []
    windows = 0
    for first in range(0, len(records), _SIZES_AT_ONCE):
        sizes.append(records.sizes(first, min(first + _SIZES_AT_ONCE, len(records))))
        windows += int(_counts(sizes[-1], size, stride).sum())
        if limit is not None and windows >= limit:
            break
    return np.concatenate(sizes)
