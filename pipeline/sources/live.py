"""Images in memory as a source: arrays and tf.data.Datasets, for networks that are looked at from Python."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import WrongSpec
from pipeline.sources.records import Record, chunk_for, size_or_zero

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True, eq=False)
class LiveRecords:
    """Images of an array or a dataset, each held as `.npy` bytes in an unnamed temporary file.

    starts: where each begins in the file, and where the last ends.
    image_labels: "" for images without one.
    """

    file: IO[bytes]
    starts: tuple[int, ...]
    image_labels: tuple[str, ...]
    labels: list[str] | None
    name: str = "the images"

    def __len__(self) -> int:
        return len(self.image_labels)

    @cached_property
    def chunk(self) -> int:
        return chunk_for(self.starts[-1] / len(self))

    def digest(self, count: int) -> str:
        digest = hashlib.sha256()
        for record in self.pick(range(count)):
            digest.update(f"{record.label} {len(record.data)} ".encode() + record.data)
        return digest.hexdigest()[:16]

    def read(self, first: int, last: int) -> tf.data.Dataset:
        import tensorflow as tf

        kinds = (tf.int64, tf.string, tf.string, tf.string, tf.string)
        signature = tuple(tf.TensorSpec((), kind) for kind in kinds)
        rows = tf.data.Dataset.from_generator(lambda: self.pick(range(first, last)), output_signature=signature)
        return rows.map(lambda *row: dict(zip(Record._fields, row, strict=True)))

    def pick(self, examples: Sequence[int]) -> Iterator[Record]:
        for example in examples:
            start, end = self.starts[example : example + 2]
            data = os.pread(self.file.fileno(), end - start, start)  # several threads read
            yield Record(example, f"{example:06}", self.image_labels[example], data, "")

    def find(self, key: str) -> int | None:
        return int(key) if key.isdecimal() and int(key) < len(self) and key == f"{int(key):06}" else None

    def sizes(self, first: int, last: int) -> np.ndarray:
        sizes = [size_or_zero(record.data) for record in self.pick(range(first, last))]
        return np.array(sizes, np.int64).reshape(-1, 2)


def hold_images(images: Any, has_range: bool) -> LiveRecords:
    """Copy images into a temporary file, one at a time.

    Args:
        images: an array (images, height, width, bands) or (images, height, width); a `tf.data.Dataset`, batched or not, of
            images or of pairs of images and labels; or any iterable of arrays (height, width, bands).
        has_range: whether it is said which values are black and white; without it, images are uint8.

    Raises: WrongSpec, for other shapes and types, and where there are no images.
    """
    names = getattr(images, "class_names", None)
    file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 closed when the records are gone
    starts, labels = [0], []
    for image, label in _each(images):
        if image.ndim == 2:
            image = image[:, :, None]
        if image.ndim != 3 or 0 in image.shape:
            raise WrongSpec(f"an image has the shape {image.shape}. Give images of height, width and bands.")
        if image.dtype != np.uint8 and not has_range:
            raise WrongSpec(
                f"the images are {image.dtype}, of which it is not known what is black and what is white. "
                "Give uint8 from 0 to 255, or say it: range=[0, 1]."
            )
        encoded = io.BytesIO()
        np.save(encoded, image)
        file.write(encoded.getbuffer())
        starts.append(file.tell())
        labels.append("" if label is None else _named(label, names))
    file.flush()
    if not labels:
        raise WrongSpec("there are no images to look at. Give at least one.")
    return LiveRecords(file, tuple(starts), tuple(labels), list(names) if names else None)


def _each(images: Any) -> Iterator[tuple[np.ndarray, Any]]:
    """Each image, and its label or None."""
    if isinstance(images, np.ndarray) or not isinstance(images, Iterable):
        yield from ((image, None) for image in np.asarray(images))
        return
    batched = len(getattr(_image_spec(images), "shape", ())) == 4
    for element in images:
        image, label = element if isinstance(element, tuple) else (element, None)
        if batched or np.ndim(image) == 4:
            count = len(image)
            yield from zip(np.asarray(image), [None] * count if label is None else np.asarray(label), strict=True)
        else:
            yield np.asarray(image), label


def _image_spec(images: Any) -> Any:
    spec = getattr(images, "element_spec", None)
    return spec[0] if isinstance(spec, tuple) else spec


def _named(label: Any, names: Sequence[str] | None) -> str:
    """The name of a label: a number, one-hot numbers, or a text."""
    value = np.asarray(label)
    if value.ndim:
        value = np.asarray(value.argmax())
    if value.dtype.kind in "iuf" and names:
        return names[int(value)]
    item = value.item()
    return item.decode() if isinstance(item, bytes) else str(item)
