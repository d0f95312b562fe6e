"""Columns of numbers in Parquet files, read a row group at a time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UnknownName, UnusableData, WrongSpec, one_line
from pipeline.sources.bands import write_array
from pipeline.sources.columns import numbers
from pipeline.sources.file_patterns import StoredFile
from pipeline.store import remote
from pipeline.store.tables import for_arrow

_GROUPS = 2  # row groups whose values are in memory


class RowGroup(NamedTuple):
    """A row group: the `number`-th of a file; its first row is the file's row `row` and the data set's example `first`."""

    file: StoredFile
    number: int
    row: int
    rows: int
    first: int


class TableColumn:
    """A column of numbers, truth values or lists of them; see `pipeline.sources.columns.Column`."""

    def __init__(self, source: str, schema: pa.Schema, groups: Sequence[RowGroup], name: str) -> None:
        """Look the column up in the tables of a source. Raises: UnknownName; WrongSpec, for a column of something else."""
        self.name, self._groups = name, groups
        self._firsts = [group.first for group in groups]
        self._read = lru_cache(_GROUPS)(self._values_of)
        if name not in schema.names:
            raise UnknownName.among(name, schema.names, where=f"a column of {source}")
        leaf, _ = leaf_of(schema.field(name).type)
        if not (holds_numbers(leaf) or pa.types.is_boolean(leaf)):
            raise WrongSpec(
                f"the column {name!r} of {source} holds {schema.field(name).type}, no numbers. Name a column of numbers."
            )

    def value(self, record: int) -> np.ndarray | None:
        number = int(np.searchsorted(self._firsts, record, side="right")) - 1
        value: Any = self._read(number)[record - self._firsts[number]].as_py()
        return None if value is None else numbers(self.name, value)

    def _values_of(self, number: int) -> pa.ChunkedArray:
        group = self._groups[number]

        def read() -> pa.ChunkedArray:
            with closing(opened(group.file.path)) as file, pq.ParquetFile(file, pre_buffer=False) as table:
                return table.read_row_group(group.number, columns=[self.name], use_threads=False).column(0)

        try:
            return remote.patiently(read, group.file.path) if remote.is_remote(group.file.path) else read()
        except (pa.ArrowException, OSError, KeyError) as error:
            raise UnusableData(
                f"the column {self.name!r} of {group.file.path} cannot be read: {one_line(error)}. Fetch it or write it again."
            ) from None


def opened(address: str) -> BinaryIO | pa.NativeFile:
    """A Parquet file to read and to seek in, which the caller closes; Arrow opens those of this machine, see `for_arrow`."""
    return remote.open_binary(address) if remote.is_remote(address) else for_arrow(Path(remote.local_path(address)))


def leaf_of(kind: pa.DataType) -> tuple[pa.DataType, int]:
    """The type of the values in lists of lists, and how deep they lie: 0 for what is no list."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    depth = 0
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    return kind, depth


def holds_numbers(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def image_values(column: pa.Array, shapes: pa.Array | None = None) -> list[Any]:
    """The values of an image column; lists of samples become `.npy` files.

    Args:
        shapes: of the images, where their lists are flat.
    """
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    leaf, depth = leaf_of(column.type)
    if not depth:
        return list(column.to_pylist())
    of_images = [None] * len(column) if shapes is None else shapes.to_pylist()
    dtype = leaf.to_pandas_dtype()
    return [
        None if value is None else _array(value, dtype, shape) for value, shape in zip(column.to_pylist(), of_images, strict=True)
    ]


def _array(samples: list[Any], dtype: Any, shape: list[int] | None) -> bytes:
    try:
        array = np.array(samples, dtype)
        return write_array(array if shape is None else array.reshape(shape))
    except (ValueError, TypeError):  # of unequal lengths, with nulls, or not of that shape
        return b"a list that is not rectangular"
