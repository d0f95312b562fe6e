"""Mosaics: one picture of numbered rows of tiles, on a dark background that is legible on any page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.drawing import text
from pipeline.drawing.palettes import EMPTY, ground
from pipeline.drawing.pixels import resize

_GAP = 2
_MOST_PIXELS = 5_000_000  # of one picture, as long as its tiles stay readable
_READABLE = 40  # pixels of a tile's longer side
_CAPTION = 14  # pixels that a line of text under a tile takes
_CAPTIONED = 56  # pixels of width: under narrower tiles no word would fit
_NUMBER = 0.5  # the size of the rows' numbers


@dataclass(frozen=True)
class MosaicLayout:
    """How `count` rows of tiles are laid out: rows run down, then on in the next column of rows.

    groups: the numbers of tiles that stand together in a row, with a wider gap between groups.
    tile: (height, width) of each group's tiles, in pixels.
    caption: pixels below the tiles for a line of text.
    """

    count: int
    groups: tuple[int, ...]
    tile: tuple[tuple[int, int], ...]
    label: int
    columns: int
    caption: int = 0

    @classmethod
    def of(
        cls,
        count: int,
        groups: Sequence[int],
        tiles: Sequence[tuple[int, int]],
        largest_number: int,
        captioned: bool = False,
    ) -> MosaicLayout:
        """Lay out rows in a picture about as high as wide; tiles shrink where it would grow too large.

        Args:
            captioned: keep room for a line of text below the tiles, if they are wide enough for one.
        """
        label = 12 + 10 * max(2, len(str(largest_number)))
        shrink = 1.0
        while True:
            sizes = tuple((max(8, round(h * shrink)), max(8, round(w * shrink))) for h, w in tiles)
            caption = _CAPTION if captioned and max(width for _, width in sizes) >= _CAPTIONED else 0
            row = cls(count, tuple(groups), sizes, label, 1, caption)
            columns = max(1, min(count, round((count * row.row_height / row.row_width) ** 0.5)))
            layout = cls(count, tuple(groups), sizes, label, columns, caption)
            height, width = layout.size
            if height * width <= _MOST_PIXELS or max(max(size) for size in sizes) <= _READABLE:
                return layout
            shrink *= 0.9

    @property
    def row_height(self) -> int:
        return max(max(height for height, _ in self.tile), 16) + self.caption + _GAP

    @property
    def row_width(self) -> int:
        return self.label + sum(
            count * (width + _GAP) + 4 * _GAP for count, (_, width) in zip(self.groups, self.tile, strict=True)
        )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture."""
        rows = -(-self.count // self.columns)
        return rows * self.row_height + 2 * _GAP, self.columns * self.row_width + 2 * _GAP

    def corner(self, row: int) -> tuple[int, int]:
        """(y, x) of a row's upper left corner."""
        rows = -(-self.count // self.columns)
        return _GAP + row % rows * self.row_height, _GAP + row // rows * self.row_width


def draw_mosaic(
    layout: MosaicLayout,
    numbers: Sequence[int],
    tile: Callable[[int, int, int], np.ndarray | None],
    caption: Callable[[int, int, int], str] = lambda row, group, column: "",
) -> np.ndarray:
    """The picture: uint8 RGB.

    Args:
        numbers: what stands beside each row.
        tile: (row, group, column) -> uint8 (h, w, 3) no larger than the group's tiles, or None where there is none.
        caption: (row, group, column) -> what stands below the tile, where the layout has room for it.
    """
    picture = ground(*layout.size)
    for row, number in enumerate(numbers):
        y, x = layout.corner(row)
        _write_number(picture, str(number), y + (layout.row_height - layout.caption) // 2, x + layout.label - 6)
        x += layout.label
        for group, (count, (height, width)) in enumerate(zip(layout.groups, layout.tile, strict=True)):
            for column in range(count):
                cell = picture[y : y + height, x : x + width]
                cell[:] = EMPTY
                pixels = tile(row, group, column)
                if pixels is not None:
                    cell[: pixels.shape[0], : pixels.shape[1]] = pixels
                if layout.caption and (label := caption(row, group, column)):
                    text.caption(picture[y + height : y + height + layout.caption, x : x + width], label)
                x += width + _GAP
            x += 4 * _GAP
    return picture


def fit_tile(patch: np.ndarray, inside: tuple[float, float, float, float], tile: tuple[int, int]) -> np.ndarray:
    """A patch drawn to scale in its tile: the part outside the image stays empty, nothing is stretched.

    Args:
        patch: uint8 (h, w, 3).
        inside: y1, x1, y2, x2: the part of the tile that the patch fills, each from 0 to 1.
        tile: (height, width).
    """
    canvas = np.full((*tile, 3), EMPTY, np.uint8)
    y1, y2 = _span(inside[0], inside[2], tile[0])
    x1, x2 = _span(inside[1], inside[3], tile[1])
    canvas[y1:y2, x1:x2] = resize(patch, y2 - y1, x2 - x1)
    return canvas


def centre_tile(patch: np.ndarray, tile: tuple[int, int]) -> np.ndarray:
    """A patch, uint8 (h, w, 3), in the middle of its tile (height, width), as large as possible without distortion."""
    scale = min(tile[0] / patch.shape[0], tile[1] / patch.shape[1])
    height, width = patch.shape[0] * scale / tile[0], patch.shape[1] * scale / tile[1]
    return fit_tile(patch, ((1 - height) / 2, (1 - width) / 2, (1 + height) / 2, (1 + width) / 2), tile)


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    first = min(round(low * size), size - 1)
    return first, max(first + 1, round(high * size))


def _write_number(picture: np.ndarray, number: str, y: int, right: int) -> None:
    height, width = text.written_size(number, _NUMBER)
    text.write(picture, number, (y + height // 2, right - width), _NUMBER)
