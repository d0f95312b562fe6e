"""The atlases of a job, as the page shows them."""

from __future__ import annotations

import base64

import numpy as np
import pyarrow as pa

from pipeline.report.job_reader import JobReader, Row
from pipeline.store.files import file_name

_MOST = 100_000  # points on a page; of more, those of the first examples
_UNIT = 65535  # the map's side, in the numbers that the page is given


def atlases(reader: JobReader) -> list[Row]:
    """Every atlas: its points as Base64 of uint16 x, y and number of the label, its labels, and its grids with their cells.

    A cell is its row, its column, its number of vectors, their most frequent label, and the channel that stands out and its name.
    """
    layers: dict[str, Row] = {}
    names: dict[str, dict[int, Row]] = {}
    for row in reader.table("atlas").to_pylist():
        layer = layers.setdefault(row["layer"], {"layer": row["layer"], "grids": {}})
        grid = layer["grids"].setdefault(row["grid"], {"grid": row["grid"], "picture": None, "cells": []})
        grid["picture"] = grid["picture"] or row["picture"]
        if row["layer"] not in names:
            names[row["layer"]] = reader.names(row["layer"])
        words = names[row["layer"]].get(row["channel"], {}).get("concept")
        grid["cells"].append([row["row"], row["col"], row["vectors"], row["label"], row["channel"], words])
    for name, layer in layers.items():
        layer["grids"] = list(layer["grids"].values())
        table = reader.pictures("atlas", str(name), ("x", "y", "label", "example"))
        points = None if table is None else _points(table.slice(0, _MOST))
        if points is None:
            reader.gaps.append(f"atlas/{file_name(str(name))}.parquet is missing, or holds no points.")
        else:
            layer |= points
    return [layer for layer in layers.values() if "points" in layer]


def _points(table: pa.Table) -> Row | None:
    """The points of a table as the page takes them; None where they are none, between 0 and 1."""
    try:
        positions = np.array([table[axis].to_numpy() for axis in ("x", "y")], np.float64)
    except (ValueError, TypeError):
        return None
    if not ((positions >= 0) & (positions <= 1)).all():
        return None
    labels = sorted({str(label) for label in table["label"].to_pylist() if label is not None})
    numbers = {label: number for number, label in enumerate(labels)}
    numbers_of_points = [numbers.get(label, _UNIT) for label in table["label"].to_pylist()]
    packed = np.stack([*np.rint(positions * _UNIT), numbers_of_points], axis=1).astype("<u2")
    points = base64.b64encode(packed.tobytes()).decode()
    return {"labels": labels, "points": points, "examples": table["example"].to_pylist()}
