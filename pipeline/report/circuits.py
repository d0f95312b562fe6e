"""Circuits, as the page shows them: each pair of channels with its kernel as a picture."""

from __future__ import annotations

import base64

import numpy as np

from pipeline.drawing.palettes import palette
from pipeline.drawing.pixels import encode_png
from pipeline.report.job_reader import JobReader, Row

_FACTS = (
    *("channel", "side", "other_layer", "other_channel", "rank", "weight", "share"),
    *("contribution", "contribution_rank", "agreement"),
)
_WIDEST = 60  # pixels of a kernel's picture, about


def circuit_rows(reader: JobReader, layer: str) -> list[Row]:
    """What the channels of a layer are made from and used by, with what lies between, and the kernels as pictures in addresses.

    A picture's grey is zero, white the largest weight of the kernel, black as much below zero.
    """
    stretches = {(row["layer"], row["other_layer"]): row for row in reader.table("stretches").to_pylist()}
    rows = []
    for row in reader.rows("circuits", layer).to_pylist():
        ends = (row["layer"], row["other_layer"])
        between = stretches.get(ends) or stretches.get(ends[::-1]) or {"passed": [], "ended": []}
        picture = _drawn(np.array(row["kernel"]).reshape(row["kernel_shape"]))
        facts = {"kernel_shape": row["kernel_shape"], "picture": picture, "passed": between["passed"], "ended": between["ended"]}
        rows.append({name: row[name] for name in _FACTS} | facts)
    return rows


def _drawn(kernel: np.ndarray) -> str:
    largest = float(np.abs(kernel).max()) or 1.0
    grey = np.rint(128 + 127 * kernel / largest).astype(np.uint8)
    factor = max(1, _WIDEST // max(kernel.shape))
    pixels = palette("grey")[grey.repeat(factor, axis=0).repeat(factor, axis=1)]
    return f"data:image/png;base64,{base64.b64encode(encode_png(pixels)).decode()}"
