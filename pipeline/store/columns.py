"""Columns that schemas share, and rows in the columns of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.geometry import EDGES


def list_of(kind: pa.DataType) -> pa.DataType:
    """A list whose values are named as Parquet names them, so that a table read back has the schema it was written with."""
    return pa.list_(pa.field("element", kind))


def box(prefix: str = "") -> list[tuple[str, pa.DataType]]:
    """The edges of a box."""
    return [(f"{prefix}{edge}", pa.int32()) for edge in EDGES]


def append_row(columns: dict[str, list[Any]], row: Iterable[Any]) -> None:
    """Add a value to each column, in their order. Raises: ValueError, for a row of another length."""
    for column, value in zip(columns.values(), row, strict=True):
        column.append(value)


def columns_of(schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows by name as the columns of a schema. Raises: KeyError, for a row without one of them."""
    return {name: [row[name] for row in rows] for name in schema.names}
