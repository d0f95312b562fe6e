"""The schemas of the index, and how its tables are written and read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.geometry import EDGES
from pipeline.store.circuit_tables import CIRCUIT_TABLES
from pipeline.store.columns import box, list_of
from pipeline.store.concept_tables import CONCEPTS, EMBEDDINGS, QUALITY
from pipeline.store.direction_tables import DIRECTION_TABLES
from pipeline.store.explanation_tables import EXPLANATIONS
from pipeline.store.files import aside
from pipeline.store.places import Place

QUANTILES = (5, 25, 50, 75, 95)  # in percent, of the responses in index/channels.parquet


# Runs of one value take next to nothing in a file, and all that they say in memory. Ours have a key or a score a row.
_MOST_VALUES, _VALUES_A_BYTE = 2**26, 64

_CHANNEL = [("layer", pa.string()), ("channel", pa.int32())]

# The columns of a winner that index/activations.parquet and crops/LAYER.parquet share.
_WINNER = [
    *_CHANNEL,
    ("rank", pa.int32()),
    ("score", pa.float32()),
    ("example", pa.int64()),
    ("key", pa.string()),
    ("label", pa.string()),
]

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

_WINNERS = pa.schema(
    [
        *_WINNER,
        ("row", pa.int32()),
        ("col", pa.int32()),
        *box(),
        *box("src_"),
        *box("eff_"),
        *box("eff_src_"),
        *box("map_"),
        *box("map_src_"),
        ("unclipped", pa.float32()),
    ]
)

_ASCENT = [  # how a picture was optimised
    ("steps", pa.int32()),
    ("height", pa.int32()),
    ("width", pa.int32()),
    ("parameters", pa.string()),
    ("loss", pa.float32()),
    ("losses", list_of(pa.float32())),
]

# index/NAME.parquet; every column is described in docs/results.md.
INDEX: dict[str, pa.Schema] = {
    "activations": _WINNERS,
    "weakest": _WINNERS,
    "by_label": _WINNERS,
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
    "layers": pa.schema(
        [
            ("layer", pa.string()),
            ("kind", pa.string()),
            ("map_height", pa.int32()),
            ("map_width", pa.int32()),
            ("channels", pa.int32()),
            ("chosen", pa.bool_()),
            ("feeds", list_of(pa.string())),
            ("reason", pa.string()),
        ]
    ),
    "channels": pa.schema(
        [
            *_CHANNEL,
            ("seen", pa.int64()),
            ("mean", pa.float64()),
            ("std", pa.float64()),
            ("max", pa.float32()),
            ("share_positive", pa.float64()),
            ("dead", pa.bool_()),
            ("top_label", pa.string()),
            ("label_purity", pa.float64()),
            ("saturated", pa.bool_()),
            ("always_negative", pa.bool_()),
            ("share_at_max", pa.float64()),
            *((f"q{share:02}", pa.float64()) for share in QUANTILES),
            ("selective_label", pa.string()),
            ("selectivity", pa.float64()),
            ("twin", pa.int32()),
            ("twin_correlation", pa.float64()),
            ("histogram", list_of(pa.int64())),
            ("histogram_edges", list_of(pa.float64())),
            ("ties", pa.int64()),
        ]
    ),
    "neighbours": pa.schema(
        [
            *_CHANNEL,
            ("rank", pa.int32()),
            ("other_layer", pa.string()),
            ("other_channel", pa.int32()),
            ("correlation", pa.float64()),
        ]
    ),
    "concepts": CONCEPTS,
    "quality": QUALITY,
    "embeddings": EMBEDDINGS,
    "images": pa.schema(
        [
            ("image", _IMAGE),
            ("example", pa.int64()),
            ("key", pa.string()),
            ("label", pa.string()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            *((f"input_{edge}", pa.float64()) for edge in EDGES),
        ]
    ),
    "mosaics": pa.schema(
        [
            *_CHANNEL,
            ("picture", pa.string()),
            *((name, pa.int32()) for name in ("y", "x", "tile_height", "tile_width", "per_line", "step_y", "step_x")),
            *((name, pa.int32()) for name in ("height", "width")),
        ]
    ),
    "filters": pa.schema(
        [
            ("layer", pa.string()),
            ("part", pa.string()),
            ("channel", pa.int32()),
            ("kind", pa.string()),
            *((name, pa.int32()) for name in ("height", "width", "inputs", "first_input")),
            ("norm", pa.float64()),
            ("mean", pa.float64()),
            ("share_near_zero", pa.float64()),
            ("twin", pa.int32()),
            ("twin_cosine", pa.float64()),
            ("inputs_of", pa.string()),
            ("strongest_inputs", list_of(pa.int32())),
            ("input_weights", list_of(pa.float64())),
            ("drawn", pa.bool_()),
            ("picture", pa.string()),
            ("gives", list_of(pa.string())),
            *box(),
        ]
    ),
    "featuremaps": pa.schema(
        [
            *_CHANNEL,
            ("example", pa.int64()),
            ("key", pa.string()),
            ("min", pa.float32()),
            ("max", pa.float32()),
            ("mean", pa.float64()),
            ("share_positive", pa.float64()),
            ("dead", pa.bool_()),
            ("drawn", pa.bool_()),
            ("picture", pa.string()),
        ]
    ),
    **EXPLANATIONS,
    "patterns": pa.schema(
        [
            ("name", pa.string()),
            *_CHANNEL,
            ("sign", pa.string()),
            ("variant", pa.int32()),
            ("objective", pa.string()),
            ("state", pa.string()),
            ("seed", pa.int64()),
            ("starts", pa.int32()),
            *_ASCENT,
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
            *_ASCENT,
            ("before", pa.float32()),
            ("reached", pa.float32()),
            ("probability", pa.float32()),
            ("path", pa.string()),
        ]
    ),
    "skipped": pa.schema([("example", pa.int64()), ("key", pa.string()), ("reason", pa.string())]),
    **DIRECTION_TABLES,
    **CIRCUIT_TABLES,
}

# crops/LAYER.parquet
CROPS = pa.schema([("image", _IMAGE), *_WINNER, ("map", pa.binary())])

# maps/LAYER-METHOD.parquet: attribution maps as numbers, `map` times `scale`, row by row, of `shape`
MAPS = pa.schema(
    [
        ("example", pa.int64()),
        ("key", pa.string()),
        ("logits", pa.string()),
        ("class", pa.int32()),
        ("target", pa.string()),
        ("map", list_of(pa.float16())),
        ("shape", list_of(pa.int32())),
        ("scale", pa.float64()),
    ]
)

# patterns/LAYER.parquet
PATTERNS = pa.schema(
    [
        ("image", _IMAGE),
        ("name", pa.string()),
        *_CHANNEL,
        ("sign", pa.string()),
        ("variant", pa.int32()),
    ]
)


def _image_feature(schema: pa.Schema) -> dict[str, str]:
    """The metadata by which Hugging Face `datasets` decodes a table's column `image`."""
    features: dict[str, Any] = {
        field.name: {"_type": "Image"} if field.name == "image" else {"dtype": _dtype(field.type), "_type": "Value"}
        for field in schema
    }
    return {"huggingface": json.dumps({"info": {"features": features}})}


def _dtype(kind: pa.DataType) -> str:
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))


def write_index(folder: Place, name: str, columns: Mapping[str, Any]) -> None:
    """Write index/NAME.parquet from its columns: lists, NumPy or Arrow arrays. Raises: StoreFailed."""
    schema = INDEX[name]
    table = pa.table({field.name: _column(columns[field.name], field.type) for field in schema}, schema=schema)
    with aside(folder / "index" / f"{name}.parquet") as temporary:
        pq.write_table(table, temporary)


def _column(values: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    return values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values, kind)


def read_index(folder: Place, name: str) -> pa.Table:
    """Read index/NAME.parquet."""
    return read_table(folder / "index" / f"{name}.parquet")


def for_arrow(path: Place) -> BinaryIO | pa.NativeFile:
    """A file for Arrow to read, which the caller closes.

    On this machine Arrow opens the file itself: its threads may outlive Python for a moment, and one that then lets go of
    a file of Python's aborts the process ("terminate called"). Raises: FileNotFoundError.
    """
    return pa.OSFile(str(path)) if isinstance(path, Path) else path.open("rb")


def read_table(path: Place, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, or some of its columns.

    Raises: FileNotFoundError; pa.ArrowException, also for a table that claims far more than its file can tell apart.
    """
    with for_arrow(path) as file:
        stored = pq.ParquetFile(file, pre_buffer=False)
        described = stored.metadata
        groups = (described.row_group(number) for number in range(described.num_row_groups))
        values = sum(group.column(column).num_values for group in groups for column in range(group.num_columns))
        file.seek(0, 2)
        size = file.tell()
        if values > max(_MOST_VALUES, _VALUES_A_BYTE * size):
            raise pa.ArrowInvalid(f"it claims {values:,} values in {size:,} bytes: it is made to fill the memory")
        # Not pq.read_table, which reads in Arrow's threads even without use_threads; see `for_arrow`.
        return stored.read(None if columns is None else list(columns), use_threads=False)


def write_images(folder: Place, chunks: Iterable[Mapping[str, Sequence[Any]]]) -> None:
    """Write index/images.parquet, one row group for each chunk. Raises: StoreFailed."""
    write_crops(folder / "index" / "images.parquet", chunks, INDEX["images"])


def write_crops(path: Place, chunks: Iterable[Mapping[str, Any]], schema: pa.Schema = CROPS) -> None:
    """Write a table of pictures, a row group a chunk, so that only one chunk is in memory.

    Rows of a chunk that hold the same picture share its bytes in the file: as a dictionary, which may be as large as it
    takes. Arrow's own schema is left out: it would make readers return dictionaries too.

    Raises: StoreFailed.
    """
    with (
        aside(path) as temporary,
        contextlib.ExitStack() as stack,
    ):
        writer: pq.ParquetWriter | None = None
        for columns in chunks:
            table = pa.table({field.name: _column(columns[field.name], field.type) for field in schema})
            if writer is None:
                writer = stack.enter_context(
                    pq.ParquetWriter(
                        temporary, table.schema, compression="zstd", store_schema=False, dictionary_pagesize_limit=2**31 - 1
                    )
                )
                writer.add_key_value_metadata(_image_feature(schema))
            writer.write_table(table, row_group_size=max(len(table), 1))
