"""Columns that schemas share."""

from __future__ import annotations

import pyarrow as pa

from pipeline.geometry import EDGES


def list_of(kind: pa.DataType) -> pa.DataType:
    """A list whose values are named as Parquet names them, so that a table read back has the schema it was written with."""
    return pa.list_(pa.field("element", kind))


def box(prefix: str = "") -> list[tuple[str, pa.DataType]]:
    """The edges of a box."""
    return [(f"{prefix}{edge}", pa.int32()) for edge in EDGES]
