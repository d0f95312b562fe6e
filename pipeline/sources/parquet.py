"""`parquet:GLOB`: tables with a column of encoded images, as Hugging Face `datasets` writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UnknownName, UnusableData, one_line, quoted
from pipeline.sources.file_patterns import StoredFile, check_highest, matching, of_each, read_names
from pipeline.sources.files import read_image
from pipeline.sources.parquet_columns import RowGroup, TableColumn, holds_numbers, image_values, leaf_of, opened
from pipeline.sources.record_batches import stream_batches
from pipeline.sources.records import Record, chunk_for, digest_of, numbered_key, size_or_zero
from pipeline.spec.data import DataSpec
from pipeline.store import remote

if TYPE_CHECKING:
    import tensorflow as tf

_PROBED = 8  # rows whose bytes show whether a column holds images
_BUFFER = 2**20  # bytes read of a column at a time: pages are decoded one by one, however large the row group


@dataclass(frozen=True)
class Tables:
    """The rows of Parquet files, file by file.

    image, label: names of columns. numbers: whether labels are numbers, which `labels`, if there, names.
    mean_bytes: of an encoded image.
    shape: the column of the shapes of images that are flat lists.
    """

    name: str
    labels: list[str] | None
    groups: tuple[RowGroup, ...]
    image: str
    label: str | None
    numbers: bool
    mean_bytes: float
    shape: str | None = None

    @property
    def chunk(self) -> int:
        return chunk_for(self.mean_bytes)

    def __len__(self) -> int:
        return self.groups[-1].first + self.groups[-1].rows

    def digest(self, count: int) -> str:
        files = {group.file.name: group.file.length for group in self.groups if group.first < count}
        return digest_of(files, count, self.image, self.label, self.labels)

    @cached_property
    def schema(self) -> pa.Schema:
        return _footer(self.groups[0].file).schema.to_arrow_schema()

    def column(self, name: str) -> TableColumn:
        """A column of numbers. Raises: UnknownName, WrongSpec."""
        return TableColumn(self.name, self.schema, self.groups, name)

    def read(self, first: int, last: int) -> tf.data.Dataset:
        return stream_batches(lambda: self._batches(first, last))

    def pick(self, examples: Sequence[int]) -> Iterator[Record]:
        bounds = np.searchsorted(examples, [*self._firsts, len(self)])
        for group, begin, end in zip(self.groups, bounds[:-1], bounds[1:], strict=True):
            if begin < end:  # the pages before the first example are read too: Parquet cannot skip them
                yield from (
                    record
                    for batch in self._of_group(group, examples[begin], examples[end - 1] + 1, set(examples[begin:end]))
                    for record in batch
                )

    def find(self, key: str) -> int | None:
        file, row = numbered_key(key)
        for group in self.groups:
            if group.file.name == file and group.row <= row < group.row + group.rows:
                return group.first + row - group.row
        return None

    def sizes(self, first: int, last: int) -> np.ndarray:
        sizes = [size_or_zero(record.data) for batch in self._batches(first, last) for record in batch]
        return np.array(sizes, np.int64).reshape(-1, 2)

    @cached_property
    def _firsts(self) -> list[int]:
        return [group.first for group in self.groups]

    def _batches(self, first: int, last: int) -> Iterator[list[Record]]:
        start = max(0, int(np.searchsorted(self._firsts, first, side="right")) - 1)
        for group in self.groups[start:]:
            if group.first >= last:
                return
            yield from self._of_group(group, max(first, group.first), min(last, group.first + group.rows), None)

    def _of_group(self, group: RowGroup, first: int, last: int, chosen: set[int] | None) -> Iterator[list[Record]]:
        """Records first to last of one row group, or only the chosen ones among them, in batches."""
        columns = [column for column in (self.image, self.label, self.shape) if column is not None]
        size = max(1, min(256, 8 * self.chunk))

        def batches(done: int) -> Iterator[tuple[int, pa.RecordBatch]]:
            with (
                closing(opened(group.file.path)) as file,
                pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False) as table,
            ):
                at = group.first
                stored = table.iter_batches(size, row_groups=[group.number], columns=columns, use_threads=False)
                for number, batch in enumerate(stored):
                    if at >= last:
                        return
                    if number >= done:
                        yield at, batch
                    at += len(batch)

        try:
            for at, batch in remote.resumed(batches, group.file.path):
                rows = [row for row in range(max(first, at), min(last, at + len(batch))) if chosen is None or row in chosen]
                if rows:
                    yield self._records(group, rows, batch.take(pa.array([row - at for row in rows])))
        except (pa.ArrowException, OSError) as error:
            raise _damaged(group.file.path, error) from None

    def _records(self, group: RowGroup, rows: list[int], batch: pa.RecordBatch) -> list[Record]:
        images = image_values(batch.column(self.image), None if self.shape is None else batch.column(self.shape))
        labels = [None] * len(rows) if self.label is None else batch.column(self.label).to_pylist()
        records = []
        for example, image, label in zip(rows, images, labels, strict=True):
            data, error = _encoded(image, group.file.path)
            records.append(
                Record(example, f"{group.file.name}__{group.row + example - group.first}", self._text(label), data, error)
            )
        return records

    def _text(self, label: Any) -> str:
        if label is None:
            return ""
        if self.numbers and self.labels is not None:
            # Test splits often give -1 for a label that is withheld.
            return self.labels[label] if 0 <= label < len(self.labels) else ""
        return str(label)


def open_parquet(pattern: str, spec: DataSpec, fetch: bool) -> Tables:
    """The rows of all files that a pattern matches, in the byte-wise order of their paths.

    The images are the column `data.image`, or the one that the schema says is an image, or the only one whose bytes
    are; the labels are `data.label`, or `label`, or the only class of the schema.

    Raises: MissingInput, UnusableData, UnknownName.
    """
    files = matching("parquet", pattern)
    footers = of_each(files, _footer)
    if not any(footer.num_rows for footer in footers):
        raise UnusableData(f"parquet:{pattern} holds no rows. Name other files.")
    schema = footers[0].schema.to_arrow_schema()
    features = _features(schema)
    first = partial(_first_images, files, footers)
    image = _image_column(schema, features, spec, pattern, first)
    label = _label_column(schema, features, image, spec.label, pattern)
    shape = _shape_column(schema, image)
    for file, footer in zip(files, footers, strict=True):
        arrow_schema = footer.schema.to_arrow_schema()
        for column in (image, label, shape):
            if column is not None and (column not in arrow_schema.names or _kind(arrow_schema, column) != _kind(schema, column)):
                raise UnusableData(f"{file.path} has no column {column!r} of the kind that {files[0].path} has. Take it out.")
    groups = _groups(files, footers)
    stored = sum(column.total_uncompressed_size for footer in footers for column in _columns(footer, image))
    samples = first(image)
    # A column of paths says nothing about the size of the images.
    mean_bytes = max(stored / sum(footer.num_rows for footer in footers), sum(map(len, samples)) / len(samples))
    numbers = label is not None and pa.types.is_integer(schema.field(label).type)
    labels = features.get(label, {}).get("names") if numbers and label is not None else None
    if not (isinstance(labels, list) and all(isinstance(name, str) for name in labels)):
        labels = None
    if spec.labels is not None:
        if not numbers:
            raise UnusableData(
                f"data.labels names numbered labels, but parquet:{pattern} has none. Leave it out, or set data.label."
            )
        labels = read_names(spec.labels)
        highest = max((_highest(footer, str(label)) for footer in footers), default=-1)
        check_highest(labels, spec.labels, highest, f"parquet:{pattern}")
    return Tables(f"parquet:{pattern}", labels, tuple(groups), image, label, numbers, mean_bytes, shape)


def _groups(files: list[StoredFile], footers: list[pq.FileMetaData]) -> list[RowGroup]:
    groups, first = [], 0
    for file, footer in zip(files, footers, strict=True):
        row = 0
        for number in range(footer.num_row_groups):
            rows = footer.row_group(number).num_rows
            if rows:
                groups.append(RowGroup(file, number, row, rows, first))
            row, first = row + rows, first + rows
    return groups


def _footer(file: StoredFile) -> pq.FileMetaData:
    try:
        # The first request to a remote file: the connection may break, so it is retried.
        return (
            remote.patiently(lambda: _read_footer(file.path), file.path)
            if remote.is_remote(file.path)
            else _read_footer(file.path)
        )
    except (pa.ArrowException, OSError, ValueError) as error:
        problem = "is cut short, or no Parquet" if isinstance(error, pa.ArrowInvalid) else "cannot be read"
        raise UnusableData(f"{file.path} {problem}: {one_line(error)}. Fetch it or write it again.") from None


def _read_footer(path: str) -> pq.FileMetaData:
    with closing(opened(path)) as file:
        return pq.read_metadata(file)


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What Hugging Face `datasets` wrote about each column: {"_type": "Image"}, {"_type": "ClassLabel", "names": …}."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict) and name in schema.names}


def _image_column(
    schema: pa.Schema, features: dict[str, Any], spec: DataSpec, pattern: str, first: Callable[[str], list[bytes]]
) -> str:
    """The column named, or the only one of images, by the schema or else by the `first` values of each."""
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    able, named = [field.name for field in schema if _may_hold_images(field.type, spec.range is not None)], spec.image
    if named is not None:
        if named not in schema.names:
            raise UnknownName.among(named, schema.names, where=f"a column of parquet:{pattern}")
        if named not in able and not pa.types.is_string(schema.field(named).type) and _shape_column(schema, named) is None:
            raise UnusableData(
                f"data.image {named!r} of parquet:{pattern} holds no encoded images; its columns: {columns}. Lists of numbers "
                f"hold images where they are lists of lists, with data.range, or where a column {named}_shape says their shape."
            )
        return named
    images = [name for name in able if features.get(name, {}).get("_type") == "Image"]
    if not images:
        images = [name for name in able if any(size_or_zero(data) != (0, 0) for data in first(name))]
    if not images:
        raise UnusableData(
            f"parquet:{pattern} has no column of images; its columns: {columns}. Name another, or set data.image; for images of "
            "numbers other than uint8 and uint16, set data.range too."
        )
    if len(images) > 1:
        raise UnusableData(f"parquet:{pattern} has several columns of images: {', '.join(images)}. Set data.image to one.")
    return images[0]


def _label_column(schema: pa.Schema, features: dict[str, Any], image: str, named: str | None, pattern: str) -> str | None:
    """The column named, or `label`, or the only class, if it is of numbers or text."""
    able = [
        field.name
        for field in schema
        if field.name != image
        and (pa.types.is_integer(field.type) or pa.types.is_string(field.type) or pa.types.is_large_string(field.type))
    ]
    if named is not None:
        if named not in able:
            raise UnknownName.among(named, able, where=f"a column of whole numbers or text in parquet:{pattern}")
        return named
    if "label" in able:
        return "label"
    classes = [name for name in able if features.get(name, {}).get("_type") == "ClassLabel"]
    return classes[0] if len(classes) == 1 else None


def _kind(schema: pa.Schema, column: str) -> str:
    """The kind of a column, which must be the same in all files; the width of its numbers need not be."""
    kind = schema.field(column).type
    if _may_hold_images(kind, True) or leaf_of(kind)[1]:
        return "images"
    return "numbers" if pa.types.is_integer(kind) else "text"


def _shape_column(schema: pa.Schema, image: str) -> str | None:
    """The column that says the shapes of images that are flat lists of numbers; None where there is none, or they are not."""
    leaf, depth = leaf_of(schema.field(image).type)
    if depth != 1 or not holds_numbers(leaf):
        return None
    return next((name for name in (f"{image}_shape", "shape") if name in schema.names), None)


def _may_hold_images(kind: pa.DataType, samples: bool) -> bool:
    """Whether a column may; `samples`: also as lists of numbers of any type."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    leaf, depth = leaf_of(kind)
    if depth:
        return depth in (2, 3) and (pa.types.is_uint8(leaf) or pa.types.is_uint16(leaf) or (samples and holds_numbers(leaf)))
    if pa.types.is_struct(kind):
        names = {field.name for field in kind}
        return bool(names) and names <= {"bytes", "path"}
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _first_images(files: list[StoredFile], footers: list[pq.FileMetaData], column: str) -> list[bytes]:
    """The first few values of a column, b"" for those that are missing."""
    file = next(file for file, footer in zip(files, footers, strict=True) if footer.num_rows)

    def read() -> list[Any]:
        with (
            closing(opened(file.path)) as stored,
            pq.ParquetFile(stored, buffer_size=_BUFFER, pre_buffer=False) as table,
        ):
            return image_values(next(table.iter_batches(_PROBED, columns=[column], use_threads=False)).column(column))

    try:
        return [_encoded(row, file.path)[0] for row in remote.patiently(read, file.path)]
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file.path, error) from None


def _encoded(image: Any, table: str) -> tuple[bytes, str]:
    """(bytes, error) of one value of an image column; a path without bytes names a file beside the table."""
    data, path = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, None)
    if isinstance(data, str):
        data, path = None, data
    if isinstance(data, bytes):
        return data, ""
    if not isinstance(path, str) or not path:
        return b"", "there is no image in this row"
    try:
        return read_image(remote.below(remote.parent(table), path)), ""
    except OSError as error:
        return b"", f"the file {quoted(path)} beside the table cannot be read ({error.strerror or type(error).__name__})"


def _columns(footer: pq.FileMetaData, name: str) -> Iterator[pq.ColumnChunkMetaData]:
    """A footer's entries for a column, one a row group."""
    for group in map(footer.row_group, range(footer.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema.split(".")[0] == name:
                yield column


def _highest(footer: pq.FileMetaData, label: str) -> int:
    """The highest label of a file by its statistics; -1 where it has none."""
    stored = (column.statistics for column in _columns(footer, label))
    return max((int(kept.max) for kept in stored if kept is not None and kept.has_min_max), default=-1)


def _damaged(path: str, error: Exception) -> UnusableData:
    return UnusableData(f"{path} is damaged: {one_line(error)}. Fetch it or write it again.")
