"""Sprites: the patches of many channels in one picture, so that a page needs few files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.drawing.palettes import GROUND
from pipeline.drawing.pixels import LOSSLESS, decode_png, encode_webp, resize

Boxes = Mapping[tuple[int, int], tuple[int, int]]  # by channel and rank: height and width in pixels of the input

ROWS = 32  # channels on a sprite
_QUALITY = 88
_SIDE = 96  # pixels of a tile's longer side
_CRISP = 40  # pixels; patches smaller than this keep every pixel


@dataclass(frozen=True)
class Sprite:
    """Patches of up to ROWS channels, a row each, strongest first.

    number: from 0; the i-th channel in the order of the page is on sprite i // ROWS, in row i % ROWS.
    """

    number: int
    rows: int
    data: bytes


@dataclass(frozen=True)
class SpriteLayout:
    """How a layer's patches are laid out: tiles of height x width pixels, k in a row.

    crisp: whether tiles hold the patches' own few pixels, to be enlarged without smoothing.
    """

    height: int
    width: int
    k: int
    crisp: bool


def sprite_layout(crops: pa.Table, boxes: Boxes) -> SpriteLayout:
    """The layout that fits the largest of a layer's patches.

    Args:
        crops: columns channel, rank and image, as crops/LAYER.parquet has them.
        boxes: what is known of the boxes that were cropped.
    """
    k = int(np.max(crops["rank"].to_numpy())) + 1
    sizes = [_size(record) for record in crops["image"].to_pylist()]
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    if max(height, width) <= _CRISP:
        return SpriteLayout(height, width, k, True)
    if boxes:
        height, width = (max(box[axis] for box in boxes.values()) for axis in (0, 1))
    scale = _SIDE / max(height, width)
    return SpriteLayout(max(1, round(height * scale)), max(1, round(width * scale)), k, False)


def draw_sprites(crops: pa.Table, channels: list[int], layout: SpriteLayout, boxes: Boxes) -> Iterator[Sprite]:
    """The sprites of one layer, one in memory at a time.

    Args:
        crops: columns channel, rank and image, as crops/LAYER.parquet has them.
        channels: the layer's channels in the order of the page.
        boxes: as for `sprite_layout`.
    """
    positions = {channel: position for position, channel in enumerate(channels)}
    largest = [max((box[axis] for box in boxes.values()), default=0) for axis in (0, 1)]
    by_sprite: dict[int, list[int]] = {}
    for row, channel in enumerate(crops["channel"].to_pylist()):
        by_sprite.setdefault(positions[channel] // ROWS, []).append(row)
    for number in range(-(-len(channels) // ROWS)):
        rows = min(ROWS, len(channels) - number * ROWS)
        picture = np.full((rows * layout.height, layout.k * layout.width, 3), GROUND, np.uint8)
        for record in crops.take(by_sprite.get(number, [])).to_pylist():
            row, rank = positions[record["channel"]] % ROWS, record["rank"]
            top, left = row * layout.height, rank * layout.width
            tile = picture[top : top + layout.height, left : left + layout.width]
            patch = decode_png(record["image"]["bytes"])
            box = boxes.get((record["channel"], rank))
            _place(tile, patch, layout, None if box is None else (box[0] / largest[0], box[1] / largest[1]))
        yield Sprite(number, rows, encode_webp(picture, LOSSLESS if layout.crisp else _QUALITY))


def _place(tile: np.ndarray, patch: np.ndarray, layout: SpriteLayout, share: tuple[float, float] | None) -> None:
    """Draw a patch into the middle of its tile, in place.

    share: of the tile's height and width, as the patch's box has it of the largest box; None fills the tile.
    """
    if layout.crisp:
        height, width = patch.shape[:2]
    elif share is None:
        scale = min(tile.shape[0] / patch.shape[0], tile.shape[1] / patch.shape[1])
        height, width = round(patch.shape[0] * scale), round(patch.shape[1] * scale)
    else:
        height, width = round(tile.shape[0] * share[0]), round(tile.shape[1] * share[1])
    height, width = (min(max(1, length), most) for length, most in zip((height, width), tile.shape[:2], strict=True))
    if patch.shape[:2] != (height, width):
        patch = resize(patch, height, width)
    top, left = (tile.shape[0] - height) // 2, (tile.shape[1] - width) // 2
    tile[top : top + height, left : left + width] = patch


def _size(record: dict[str, bytes]) -> tuple[int, int]:
    """Height and width of a PNG, from its header."""
    data = record["bytes"]
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
