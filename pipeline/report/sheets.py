"""Sheets: the patches of many channels in one picture, so that a page needs few files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline import mosaic

ROWS = 32  # channels on a sheet
_SIDE = 96  # pixels of a tile's longer side
_QUALITY, _LOSSLESS = 88, 101
_CRISP = 40  # pixels; patches smaller than this keep every pixel


@dataclass(frozen=True)
class Sheet:
    """Patches of up to ROWS channels, a row each, strongest first.

    number: from 0; the channel in the layer's i-th place is on sheet i // ROWS, in row i % ROWS.
    """

    number: int
    rows: int
    data: bytes


@dataclass(frozen=True)
class Tiling:
    """How a layer's patches are laid out: tiles of height x width pixels, k in a row.

    crisp: whether tiles hold the patches' own few pixels, to be enlarged without smoothing.
    """

    height: int
    width: int
    k: int
    crisp: bool


def tiling(crops: pa.Table) -> Tiling:
    """The layout that fits the largest of a layer's patches."""
    sizes = [_size(record) for record in crops["image"].to_pylist()]
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    scale = min(1.0, _SIDE / max(height, width))
    k = int(np.max(crops["rank"].to_numpy())) + 1
    return Tiling(max(1, round(height * scale)), max(1, round(width * scale)), k, max(height, width) <= _CRISP)


def sheets(crops: pa.Table, channels: list[int], layout: Tiling) -> Iterator[Sheet]:
    """The sheets of one layer, each in memory alone.

    Args:
        crops: columns channel, rank and image, as crops/LAYER.parquet has them.
        channels: the layer's channels in the order of the page.
    """
    places = {channel: place for place, channel in enumerate(channels)}
    by_sheet: dict[int, list[int]] = {}
    for row, channel in enumerate(crops["channel"].to_pylist()):
        by_sheet.setdefault(places[channel] // ROWS, []).append(row)
    for number in range(-(-len(channels) // ROWS)):
        rows = min(ROWS, len(channels) - number * ROWS)
        picture = np.full((rows * layout.height, layout.k * layout.width, 3), mosaic.GROUND, np.uint8)
        for record in crops.take(by_sheet.get(number, [])).to_pylist():
            row, rank = places[record["channel"]] % ROWS, record["rank"]
            top, left = row * layout.height, rank * layout.width
            tile = picture[top : top + layout.height, left : left + layout.width]
            _place(tile, mosaic.decode_png(record["image"]["bytes"]))
        yield Sheet(number, rows, mosaic.encode_webp(picture, _LOSSLESS if layout.crisp else _QUALITY))


def _place(tile: np.ndarray, patch: np.ndarray) -> None:
    """Draw a patch into the middle of its tile, in place."""
    scale = min(1.0, tile.shape[0] / patch.shape[0], tile.shape[1] / patch.shape[1])
    height, width = max(1, round(patch.shape[0] * scale)), max(1, round(patch.shape[1] * scale))
    if scale < 1:
        patch = mosaic.resize(patch, height, width)
    top, left = (tile.shape[0] - height) // 2, (tile.shape[1] - width) // 2
    tile[top : top + height, left : left + width] = patch


def _size(record: dict[str, bytes]) -> tuple[int, int]:
    """Height and width of a PNG, from its header."""
    data = record["bytes"]
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
