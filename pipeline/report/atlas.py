"""The atlases of a job, as the page shows them."""

from __future__ import annotations

import base64

import numpy as np

from pipeline.report.job_reader import JobReader, Row
from pipeline.store.files import file_name
from pipeline.store.tables import read_table

_MOST = 100_000  # points on a page; of more, those of the first examples
_UNIT = 65535  # the map's side, in the numbers that the page is given


def atlases(reader: JobReader) -> list[Row]:
    """Every atlas: its points as Base64 of uint16 x, y and number of the label, its labels, and its grids with their cells."""
    layers: dict[str, Row] = {}
    for row in reader.table("atlas").to_pylist():
        layer = layers.setdefault(row["layer"], {"layer": row["layer"], "grids": {}})
        grid = layer["grids"].setdefault(row["grid"], {"grid": row["grid"], "picture": None, "cells": []})
        grid["picture"] = grid["picture"] or row["picture"]
        grid["cells"].append([row["row"], row["col"], row["vectors"], row["label"]])
    for name, layer in layers.items():
        layer["grids"] = list(layer["grids"].values())
        path = reader.folder / "atlas" / f"{file_name(name)}.parquet"
        if not path.exists():
            reader.gaps.append(f"atlas/{path.name} is missing.")
            continue
        table = read_table(path).slice(0, _MOST)
        labels = sorted({label for label in table["label"].to_pylist() if label is not None})
        numbers = {label: number for number, label in enumerate(labels)}
        own = [numbers.get(label, _UNIT) for label in table["label"].to_pylist()]
        positions = [np.rint(table[axis].to_numpy() * _UNIT) for axis in ("x", "y")]
        packed = np.stack([*positions, own], axis=1).astype("<u2")
        layer |= {"labels": labels, "points": base64.b64encode(packed.tobytes()).decode()}
        layer["examples"] = table["example"].to_pylist()
    return [layer for layer in layers.values() if "points" in layer]
