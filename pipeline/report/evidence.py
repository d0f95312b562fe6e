"""What carries each class, as the page shows it: its strongest channels, where its evidence lies, and clusters of its maps."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from pipeline.drawing.palettes import coloured
from pipeline.drawing.pixels import encode_png
from pipeline.report.job_reader import JobReader, Row

_STRONGEST = 12  # channels of a class and layer


def evidence(reader: JobReader) -> list[Row]:
    """A row for each class, or other target, that the job has aggregated."""
    targets: dict[tuple[Any, ...], Row] = {}

    def of(row: Row) -> Row:
        name = f"{row['logits']}: {row['target']}" if row["logits"] else row["target"]
        new: Row = {"target": name, "class": row["class"], "layers": {}, "places": [], "clusters": []}
        return targets.setdefault((row["logits"], row["class"], row["target"]), new)

    for row in reader.table("evidence").to_pylist():
        if row["rank"] < _STRONGEST and row["mean"] > 0:
            channel = {name: row[name] for name in ("channel", "mean", "share", "share_positive")}
            of(row)["layers"].setdefault(row["layer"], []).append(channel)
    for kind in ("places", "clusters"):
        facts = ("method", "layer", "images", "border", "border_if_even", "cluster", "share", "area", "suspicious", "keys")
        for row in reader.table(f"evidence_{kind}").to_pylist():
            of(row)[kind].append({name: row[name] for name in facts if name in row} | {"picture": _drawn(row)})
    return list(targets.values())


def _drawn(row: Row) -> str:
    """A mean map as a picture in an address: violet to yellow, which is its own peak."""
    cells = np.array(row["map"]).reshape(row["shape"])
    factor = max(1, 112 // max(cells.shape))
    pixels = coloured((cells / (cells.max() or 1.0)).repeat(factor, axis=0).repeat(factor, axis=1))
    return f"data:image/png;base64,{base64.b64encode(encode_png(pixels)).decode()}"
