"""Source: the protocol of all data sets, with the shards that divide it and the images that it returns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from pipeline.errors import damaged
from pipeline.geometry import Box
from pipeline.sources.decode import Decoder
from pipeline.sources.fit import Fit

if TYPE_CHECKING:
    import tensorflow as tf

T = TypeVar("T")


def drawn(elements: Iterable[T]) -> Iterator[T]:
    """The elements of a stream of a source, in batches or not.

    Raises: UnusableData, for records that TensorFlow cannot read; what the source itself raises, which TensorFlow wraps.
    """
    import tensorflow as tf

    rest = iter(elements)
    while True:
        try:
            element = next(rest)
        except StopIteration:
            return
        except tf.errors.ResourceExhaustedError:
            raise
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            raise damaged(error, "the data") from None
        yield element


@dataclass(frozen=True)
class Shard:
    """The `index`-th of `count` contiguous parts of a source, counted from 0.

    unit: shards begin and end at multiples of it. Where it is the batch size, no batch runs through the network twice.
    begin: the first example to be divided; an earlier scan has seen those before it.
    """

    index: int = 0
    count: int = 1
    unit: int = 1
    begin: int = 0

    def bounds(self, total: int) -> tuple[int, int]:
        """The first example and one past the last, of `total`. The sizes of shards differ by one unit at most."""
        begin = min(self.begin, total)
        first, last = begin // self.unit, -(-total // self.unit)
        edges = (first + (last - first) * number // self.count for number in (self.index, self.index + 1))
        low, high = (min(max(edge * self.unit, begin), total) for edge in edges)
        return low, high


@dataclass(frozen=True)
class Image:
    """A source image as it is stored, and the part of it that the network sees.

    pixels: uint8 (height, width, 3), RGB, upright.
    region: the part that was resized to the network's input: the whole image, or one window of it.
    samples: float32 (height, width, bands), where the network is given them rather than the pixels.
    packed: float32, of the input's height and width: further bands that hold the network's other inputs, where it has any.
    """

    key: str
    label: str | None
    pixels: np.ndarray
    region: Box
    samples: np.ndarray | None = None
    packed: np.ndarray | None = None

    @property
    def seen(self) -> np.ndarray:
        """The region's pixels: uint8 (height, width, 3)."""
        return self.region.cut(self.pixels)

    def given(self, fit: Fit) -> np.ndarray:
        """The resized image as the network takes it: uint8 or float32 (height, width, bands)."""
        fitted = fit.apply(self.seen if self.samples is None else self.region.cut(self.samples))
        return fitted if self.packed is None else np.concatenate([fitted.astype(np.float32), self.packed], axis=2)


class Source(Protocol):
    """An ordered set of images. Example ids are ordinals: the same data gives the same ids, always."""

    @property
    def labels(self) -> list[str] | None:
        """Class names in the order of their indices, where the data set has them."""

    @property
    def decoder(self) -> Decoder:
        """How images are decoded, also those that are picked from files beside the data set."""

    def __len__(self) -> int:
        """The number of examples, after `limit`."""

    def digest(self, count: int | None = None) -> str:
        """A short hexadecimal digest that changes when the examples, their order or their files' sizes change.

        Args:
            count: as if the source ended after so many examples; absent: all of it.
        """

    def stream(self, shard: Shard, start: int = 0) -> tf.data.Dataset:
        """The examples of one shard, in order, from the `start`-th of the shard on; starting late is cheap.

        A negative `start` begins so many examples before the shard.

        Each element is a dict of `example` int64, `key` string, `label` string ("" where there is none),
        `image` uint8 (height, width, 3) at the network's input size, or float32 with the bands that the network takes, and
        `error` string: "" or, for an
        image that cannot be read (its pixels are then zero), why. Where several examples are cut from one image, `group`
        int64 is the number of the image; absent: each example is an image of its own. Decoding and resizing run in parallel.
        """

    def find(self, key: str) -> int | None:
        """The example of that key, the first where several share it; None where none has it. Reads no images."""

    def fetch(self, examples: Iterable[int]) -> Iterator[tuple[int, Image]]:
        """The original pixels of a few examples, in ascending order, every file decoded once.

        Raises: UnusableData for one that cannot be read, IndexError for one that is not there.
        """
