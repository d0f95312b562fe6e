"""The mosaics of a layer's winners: patches, whole images with boxes, and both side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.drawing.mosaic import MosaicLayout, centre_tile, draw_mosaic, fit_tile
from pipeline.drawing.pixels import decode_png, encode_png
from pipeline.geometry import Box
from pipeline.patches.winner_pictures import WinnerPictures
from pipeline.patches.winners import Winners
from pipeline.sources.fit import Fit
from pipeline.store.files import file_name, write_bytes
from pipeline.store.places import Place

_SIDE = 96  # pixels of a tile's longer side


def write_mosaics(layer: Winners, fit: Fit, whole: bool, pictures: WinnerPictures, folder: Place) -> None:
    """LAYER-crop.png, LAYER-full.png with the boxes drawn on whole images, and LAYER.png with both side by side.

    Below whole images stand their labels.
    """
    k, tiles = layer.examples.shape[1], pictures.tiles[layer.layer]
    labels = {(c, rank): pictures.of(layer, c, rank).label for c, rank in layer.places()}
    numbers = [int(channel) for channel in layer.channels]
    for suffix, kinds in (("-crop", ("crop",)), ("-full", ("full",)), ("", ("crop", "full"))):
        captioned = "full" in kinds and any(labels.values())
        layout = MosaicLayout.of(len(numbers), [k] * len(kinds), [tiles[kind] for kind in kinds], max(numbers), captioned)

        def tile(
            row: int, group: int, column: int, kinds: Sequence[str] = kinds, layout: MosaicLayout = layout
        ) -> np.ndarray | None:
            if column >= len(layer.ranks(row)):
                return None
            pixels = decode_png(pictures.picture(kinds[group], layer, row, column))
            # The crop of a unit that sees nothing is the whole image.
            if kinds[group] == "full" or _fills_tiles(layer, whole) or not layer.boxes[row, column].any():
                return centre_tile(pixels, layout.tile[group])
            return fit_tile(pixels, _inside(layer, row, column, fit), layout.tile[group])

        def caption(row: int, group: int, column: int, kinds: Sequence[str] = kinds) -> str:
            return (labels.get((row, column)) or "") if kinds[group] == "full" else ""

        picture = draw_mosaic(layout, numbers, tile, caption)
        write_bytes(folder / f"{file_name(layer.layer)}{suffix}.png", encode_png(picture))


def tile_sizes(layer: Winners, fit: Fit, whole: bool) -> dict[str, tuple[int, int]]:
    """The sizes of the tiles of a layer, so that both kinds fit into one picture."""
    own_scale = _fills_tiles(layer, whole)
    extent = (fit.height, fit.width) if own_scale else (int(layer.extents[:, 0].max()), int(layer.extents[:, 1].max()))
    k = layer.examples.shape[1]
    sizes = [_tile(*extent), (_SIDE, _SIDE)]
    both = MosaicLayout.of(len(layer.channels), [k, k], sizes, int(layer.channels.max()), captioned=True)
    return dict(zip(("crop", "full"), both.tile, strict=True))


def _fills_tiles(layer: Winners, whole: bool) -> bool:
    """Whether patches fill their tiles: whole images, which stand for fields of no size too, and effective fields."""
    return whole or layer.effective is not None or not layer.extents.all()


def _tile(height: int, width: int) -> tuple[int, int]:
    """The size of a tile for patches of this many input pixels; small ones are enlarged by a whole number."""
    longest = max(height, width)
    scale = _SIDE // longest if longest <= _SIDE // 3 else _SIDE / longest
    return max(8, round(height * scale)), max(8, round(width * scale))


def _inside(layer: Winners, c: int, rank: int, fit: Fit) -> tuple[float, float, float, float]:
    """Where in its tile a patch lies: against the far side where the near one was clipped by the image's border."""
    box = Box.of(layer.boxes[c, rank])
    largest = layer.extents.max(axis=0)
    top, bottom = _placed(box.y1, box.y2, fit.height, int(layer.extents[c, 0]), int(largest[0]))
    left, right = _placed(box.x1, box.x2, fit.width, int(layer.extents[c, 1]), int(largest[1]))
    return top, left, bottom, right


def _placed(first: int, last: int, size: int, extent: int, largest: int) -> tuple[float, float]:
    length = last - first
    missing = max(extent - length, 0)
    if missing and first == 0 and last < size:
        before = missing
    elif missing and last == size and first > 0:
        before = 0
    else:
        before = missing // 2
    before += (largest - extent) // 2
    return before / largest, min((before + length) / largest, 1.0)
