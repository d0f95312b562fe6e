"""What an atlas leaves: points and cells as tables, icons as one picture a grid, and files for other viewers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.atlas.layout import Cell
from pipeline.drawing.palettes import ground
from pipeline.drawing.pixels import encode_png, shrink
from pipeline.store.direction_tables import ATLAS
from pipeline.store.files import aside, file_name, write_bytes
from pipeline.store.places import Place

ICON = 72  # pixels of an icon's longer side
FOLDER = "atlas"


def write_points(folder: Place, layer: str, columns: Mapping[str, Any]) -> str:
    """Write atlas/LAYER.parquet, which Embedding Atlas opens as it is. Returns: its path in the folder. Raises: StoreFailed."""
    path = f"{FOLDER}/{file_name(layer)}.parquet"
    table = pa.table({field.name: pa.array(columns[field.name], field.type) for field in ATLAS}, schema=ATLAS)
    with aside(folder / path) as temporary:
        pq.write_table(table, temporary)
    return path


def write_projector(folder: Place, layer: str, vectors: np.ndarray, columns: Mapping[str, Any]) -> None:
    """Write the vectors and their images as TensorBoard's projector loads them: two tables with tabs. Raises: StoreFailed."""
    stem = f"{FOLDER}/{file_name(layer)}"
    lines = ("\t".join(f"{value:.6g}" for value in vector) for vector in vectors)
    write_bytes(folder / f"{stem}-vectors.tsv", _lines(lines))
    names = ("example", "key", "label", "row", "col")
    rows = zip(*(columns[name] for name in names), strict=True)
    written = ("\t".join(_without_tabs(value) for value in row) for row in rows)
    write_bytes(folder / f"{stem}-metadata.tsv", _lines(["\t".join(names), *written]))


def write_icons(folder: Place, layer: str, cells: Sequence[Cell], icons: Mapping[tuple[int, int], np.ndarray]) -> str:
    """Draw the icons of one grid, each where its cell lies on the map. Returns: the picture's path. Raises: StoreFailed.

    Args:
        icons: uint8 RGB, by row and column.
    """
    grid = cells[0].grid
    small = {cell: shrink(icon, ICON) for cell, icon in icons.items()}
    height, width = (max((icon.shape[axis] for icon in small.values()), default=ICON) for axis in (0, 1))
    sheet = ground(grid * height, grid * width)
    for (row, col), icon in small.items():
        sheet[row * height : row * height + icon.shape[0], col * width : col * width + icon.shape[1]] = icon
    path = f"mosaics/atlas/{file_name(layer)}-{grid}.png"
    write_bytes(folder / path, encode_png(sheet))
    return path


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")


def _without_tabs(value: Any) -> str:
    return "" if value is None else " ".join(str(value).split())
