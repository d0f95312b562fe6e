"""Records: encoded images in a fixed order, all that a kind of source provides; `Images` and `Windows` do the rest."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from pipeline.sources.decode import Unreadable, size

if TYPE_CHECKING:
    import tensorflow as tf


class Record(NamedTuple):
    """One encoded image.

    key: its name in the data set, the same however the data set is sliced.
    error: "" or, where its bytes cannot be read, why.
    """

    example: int
    key: str
    label: str
    data: bytes
    error: str


class Records(Protocol):
    """An ordered set of encoded images; examples are counted from 0."""

    @property
    def name(self) -> str:
        """The source's name in the spec, for messages."""

    @property
    def labels(self) -> list[str] | None:
        """Class names in the order of their indices, where the data set has them."""

    @property
    def chunk(self) -> int:
        """The number of images to decode in one call: more where they are small, one where they are large."""

    def __len__(self) -> int:
        """The number of records: at least one."""

    def digest(self, count: int) -> str:
        """Changes when the first `count` records, their order or their sizes change; the same on every machine.

        What follows them does not count: so data that only grew can be told from data that changed.
        """

    def read(self, first: int, last: int) -> tf.data.Dataset:
        """Records first to last (half-open) as dicts of scalars: example int64; key, label, data, error string.

        None where first >= last.
        """

    def pick(self, examples: Sequence[int]) -> Iterator[Record]:
        """A few records, for examples in ascending order."""

    def find(self, key: str) -> int | None:
        """The example of that key, the first where several share it; None where none has it. Reads no images."""

    def sizes(self, first: int, last: int) -> np.ndarray:
        """int64 (last - first, 2): the images' height and width; 0, 0 where unreadable."""


def chunk_for(mean_bytes: float) -> int:
    """How many images of so many encoded bytes to decode in one call: enough to be worth its overhead, few enough for memory."""
    return int(min(128, max(1, 2**18 // max(1, mean_bytes))))


def size_or_zero(data: bytes) -> tuple[int, int]:
    """(height, width) of an encoded image; (0, 0) where it is unreadable."""
    try:
        return size(io.BytesIO(data))
    except Unreadable:
        return 0, 0


def digest_of(*parts: object) -> str:
    """16 hexadecimal digits of any values, by their repr."""
    return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).hexdigest()[:16]


def numbered_key(key: str) -> tuple[str, int]:
    """File and ordinal of a key `FILE__ORDINAL`; ("", -1) for any other key."""
    file, _, ordinal = key.rpartition("__")
    return (file, int(ordinal)) if re.fullmatch("0|[1-9][0-9]*", ordinal) else ("", -1)


def ascending(examples: Iterable[int], total: int) -> list[int]:
    """The examples, each once, in order. Raises: IndexError for one that the source does not have."""
    chosen = sorted({int(example) for example in examples})
    if chosen and not (chosen[0] >= 0 and chosen[-1] < total):
        raise IndexError(f"examples run from 0 to {total - 1}; asked for {chosen[0]} to {chosen[-1]}.")
    return chosen
