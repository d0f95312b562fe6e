"""Files: records that are one image file each."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import UnknownName
from pipeline.hardware import cores
from pipeline.sources.columns import TextColumn
from pipeline.sources.decode import Unreadable, size
from pipeline.sources.records import Record, chunk_for, digest_of, size_or_zero
from pipeline.store import remote

if TYPE_CHECKING:
    import tensorflow as tf

_READERS = 8
_REQUESTS = 16  # to a remote address at a time


@dataclass(frozen=True)
class Files:
    """Image files under one root, a folder or an address, in a fixed order.

    paths: relative to the root, with `/`; in lists also absolute, or addresses.
    file_labels: the label of each file, "" for none.
    lengths: the bytes of each file, where a listing has them; else each file is asked.
    columns: what a list says of each file beside its label, by column.
    locate: gives the path or address of a file from the root and its path. Raises: PermissionError, for one that may not be read.
    """

    name: str
    root: str
    paths: tuple[str, ...]
    file_labels: tuple[str, ...]
    labels: list[str] | None
    lengths: tuple[int, ...] | None = None
    locate: Callable[[str, str], str] = os.path.join
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def chunk(self) -> int:
        some = range(0, len(self), max(1, len(self) // 100))
        return chunk_for(float(np.mean([max(0, self._bytes(index)) for index in some])))

    def digest(self, count: int) -> str:
        # Without modification times: a copy of the folder is the same data.
        files = [(self.paths[index], self._bytes(index), self.file_labels[index]) for index in range(count)]
        return digest_of(files, *({name: values[:count] for name, values in self.columns.items()},) * bool(self.columns))

    def column(self, name: str) -> TextColumn | None:
        """A column of numbers; None where the files have no columns. Raises: UnknownName."""
        if not self.columns:
            return None
        if name not in self.columns:
            raise UnknownName.among(name, self.columns, where=f"a column of {self.name} (model.inputs)")
        return TextColumn(name, self.columns[name])

    @cached_property
    def _remote(self) -> bool:
        return remote.is_remote(self.root)

    def read(self, first: int, last: int) -> tf.data.Dataset:
        import tensorflow as tf

        def record(example: tf.Tensor) -> dict[str, tf.Tensor]:
            texts = tf.numpy_function(self._texts, [example], [tf.string] * 4)
            for text in texts:
                text.set_shape(())
            return {"example": example, **dict(zip(("key", "label", "data", "error"), texts, strict=True))}

        # Waiting for a network takes no core.
        parallel = _REQUESTS if self._remote else cores()
        return tf.data.Dataset.range(first, last).map(record, num_parallel_calls=parallel, deterministic=True)

    def pick(self, examples: Sequence[int]) -> Iterator[Record]:
        return map(self._record, examples)

    def find(self, key: str) -> int | None:
        return next((index for index, path in enumerate(self.paths) if as_text(path) == key), None)

    def sizes(self, first: int, last: int) -> np.ndarray:
        with ThreadPoolExecutor(_READERS) as pool:
            return np.array(list(pool.map(self._size, range(first, last))), np.int64).reshape(-1, 2)

    def _path(self, index: int) -> str:
        return self.locate(self.root, self.paths[index])

    def _bytes(self, index: int) -> int:
        if self.lengths is not None:
            return self.lengths[index]
        try:
            return length(self._path(index))
        except PermissionError:
            return -1

    def _size(self, index: int) -> tuple[int, int]:
        try:
            if remote.is_remote(self._path(index)):  # one request instead of one for every few bytes of a header
                return size_or_zero(remote.read(self._path(index)))
            with open(self._path(index), "rb") as file:
                return size(file)
        except (OSError, Unreadable):
            return 0, 0

    def _record(self, example: int) -> Record:
        data, error = b"", ""
        try:
            data = read_image(self._path(example))
        except OSError as problem:
            error = f"the file cannot be read ({problem.strerror or type(problem).__name__})"
        return Record(int(example), as_text(self.paths[example]), as_text(self.file_labels[example]), data, error)

    def _texts(self, example: np.int64) -> tuple[bytes, bytes, bytes, bytes]:
        record = self._record(int(example))
        return record.key.encode(), record.label.encode(), record.data, record.error.encode()


def read_image(path: str) -> bytes:
    """The bytes of an image file, by path or address. Raises: OSError, also for what is no regular file; Unreachable."""
    if not remote.is_remote(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", path)  # a pipe would be waited for, a device never ends
    return remote.read(path)


def length(path: str) -> int:
    """The length of a file in bytes, by path or address; -1 where it does not exist. Raises: Unreachable."""
    try:
        if not remote.is_remote(path):
            return os.stat(path).st_size
        system, name = remote.file_system(path)
        return int(remote.patiently(lambda: system.info(name), path)["size"] or 0)
    except OSError:
        return -1


def as_text(path: str) -> str:
    r"""A path as text that any file can hold: bytes that are not UTF-8 are written out, as in `caf\xe9.jpg`."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
