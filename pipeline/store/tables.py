"""The schemas of the index, and how its tables are written and read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store.files import aside
from pipeline.store.places import Place

_BOX = [(f"{corner}", pa.int32()) for corner in ("y1", "x1", "y2", "x2")]
_SOURCE_BOX = [(f"src_{name}", kind) for name, kind in _BOX]

# index/NAME.parquet; every column is told in docs/index.md.
INDEX: dict[str, pa.Schema] = {
    "activations": pa.schema(
        [
            ("layer", pa.string()),
            ("channel", pa.int32()),
            ("rank", pa.int32()),
            ("score", pa.float32()),
            ("example", pa.int64()),
            ("key", pa.string()),
            ("label", pa.string()),
            ("row", pa.int32()),
            ("col", pa.int32()),
            *_BOX,
            *_SOURCE_BOX,
        ]
    ),
    "fields": pa.schema(
        [
            ("layer", pa.string()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("stride_y", pa.float64()),
            ("stride_x", pa.float64()),
            ("map_height", pa.int32()),
            ("map_width", pa.int32()),
            ("global", pa.bool_()),
        ]
    ),
    "channels": pa.schema(
        [
            ("layer", pa.string()),
            ("channel", pa.int32()),
            ("seen", pa.int64()),
            ("mean", pa.float64()),
            ("std", pa.float64()),
            ("max", pa.float32()),
            ("share_positive", pa.float64()),
            ("dead", pa.bool_()),
            ("top_label", pa.string()),
            ("label_purity", pa.float64()),
        ]
    ),
    "patterns": pa.schema(
        [
            ("name", pa.string()),
            ("layer", pa.string()),
            ("channel", pa.int32()),
            ("sign", pa.string()),
            ("variant", pa.int32()),
            ("objective", pa.string()),
            ("state", pa.string()),
            ("seed", pa.int64()),
            ("starts", pa.int32()),
            ("steps", pa.int32()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("parameters", pa.string()),
            ("loss", pa.float32()),
            ("losses", pa.list_(pa.float32())),
            ("reached", pa.float32()),
            ("strongest", pa.float32()),
            ("exceeds", pa.bool_()),
        ]
    ),
    "dreams": pa.schema(
        [
            ("name", pa.string()),
            ("kind", pa.string()),
            ("key", pa.string()),
            ("number", pa.int32()),
            ("frame", pa.int32()),
            ("objective", pa.string()),
            ("state", pa.string()),
            ("seed", pa.int64()),
            ("octaves", pa.int32()),
            ("steps", pa.int32()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("parameters", pa.string()),
            ("loss", pa.float32()),
            ("losses", pa.list_(pa.float32())),
            ("before", pa.float32()),
            ("reached", pa.float32()),
            ("probability", pa.float32()),
            ("path", pa.string()),
        ]
    ),
    "skipped": pa.schema([("example", pa.int64()), ("key", pa.string()), ("reason", pa.string())]),
}

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

# crops/LAYER.parquet
CROPS = pa.schema(
    [
        ("image", _IMAGE),
        ("layer", pa.string()),
        ("channel", pa.int32()),
        ("rank", pa.int32()),
        ("score", pa.float32()),
        ("example", pa.int64()),
        ("key", pa.string()),
        ("label", pa.string()),
    ]
)

# patterns/LAYER.parquet
PATTERNS = pa.schema(
    [
        ("image", _IMAGE),
        ("name", pa.string()),
        ("layer", pa.string()),
        ("channel", pa.int32()),
        ("sign", pa.string()),
        ("variant", pa.int32()),
    ]
)


def _with_image_feature(schema: pa.Schema) -> pa.Schema:
    """The schema with the metadata by which Hugging Face `datasets` decodes its column `image`."""
    features: dict[str, Any] = {
        field.name: {"_type": "Image"} if field.name == "image" else {"dtype": _dtype(field.type), "_type": "Value"}
        for field in schema
    }
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _dtype(kind: pa.DataType) -> str:
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))


def write_index(folder: Place, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write index/NAME.parquet from its columns. Raises: StoreFailed."""
    schema = INDEX[name]
    table = pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema}, schema=schema)
    with aside(folder / "index" / f"{name}.parquet") as temporary:
        pq.write_table(table, temporary)


def read_index(folder: Place, name: str) -> pa.Table:
    """Read index/NAME.parquet."""
    with (folder / "index" / f"{name}.parquet").open("rb") as file:
        return pq.read_table(file)


def write_crops(path: Place, chunks: Iterable[Mapping[str, Sequence[Any]]], schema: pa.Schema = CROPS) -> None:
    """Write a table of pictures, a row group a chunk, so that only one chunk is in memory. Raises: StoreFailed."""
    schema = _with_image_feature(schema)
    with aside(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for columns in chunks:
            writer.write_table(
                pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema}, schema=schema)
            )
