"""Tiles to one picture: every row of tiles with its number, on a dark ground that stands out on any page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.geometry import Box

GROUND = (24, 26, 30)  # RGB; opaque, so that numbers are read as well on a white page as on a dark one
_EMPTY = (44, 47, 53)  # tiles that nothing fills
_TEXT = (235, 235, 235)
_BOX = ((0, 0, 0), (255, 220, 0))  # outline and line: one of the two stands out on any image
_SMALLEST_BOX = 6  # pixels of a drawn box
_GAP = 2
_MOST_PIXELS = 5_000_000  # of one picture, as long as its tiles stay readable
_READABLE = 40  # pixels of a tile's longer side
_CAPTION = 14  # pixels that a line of text under a tile takes
_CAPTIONED = 56  # pixels of width: under narrower tiles no word would fit


@dataclass(frozen=True)
class Layout:
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
    ) -> Layout:
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


def draw(
    layout: Layout,
    numbers: Sequence[int],
    tile: Callable[[int, int, int], np.ndarray | None],
    caption: Callable[[int, int, int], str] = lambda row, group, place: "",
) -> np.ndarray:
    """The picture: uint8 RGB.

    Args:
        numbers: what stands beside each row.
        tile: (row, group, place) -> uint8 (h, w, 3) no larger than the group's tiles, or None where there is none.
        caption: (row, group, place) -> what stands below the tile, where the layout has room for it.
    """
    height, width = layout.size
    picture = np.full((height, width, 3), GROUND, np.uint8)
    for row, number in enumerate(numbers):
        y, x = layout.corner(row)
        _write(picture, str(number), y + (layout.row_height - layout.caption) // 2, x + layout.label - 6)
        x += layout.label
        for group, (count, (high, wide)) in enumerate(zip(layout.groups, layout.tile, strict=True)):
            for place in range(count):
                cell = picture[y : y + high, x : x + wide]
                cell[:] = _EMPTY
                pixels = tile(row, group, place)
                if pixels is not None:
                    cell[: pixels.shape[0], : pixels.shape[1]] = pixels
                if layout.caption and (text := caption(row, group, place)):
                    _write_below(picture[y + high : y + high + layout.caption, x : x + wide], text)
                x += wide + _GAP
            x += 4 * _GAP
    return picture


def fit_patch(patch: np.ndarray, inside: tuple[float, float, float, float], tile: tuple[int, int]) -> np.ndarray:
    """A patch drawn to scale in its tile: what lies outside the image stays empty, nothing is stretched.

    Args:
        patch: uint8 (h, w, 3).
        inside: y1, x1, y2, x2: the part of the tile that the patch fills, each from 0 to 1.
        tile: (height, width).
    """
    canvas = np.full((*tile, 3), _EMPTY, np.uint8)
    y1, y2 = _span(inside[0], inside[2], tile[0])
    x1, x2 = _span(inside[1], inside[3], tile[1])
    canvas[y1:y2, x1:x2] = resize(patch, y2 - y1, x2 - x1)
    return canvas


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """By area where it shrinks; pixels stay squares where it grows much, and are smoothed where it grows little."""
    growth = max(height / pixels.shape[0], width / pixels.shape[1])
    how = cv2.INTER_AREA if growth <= 1 else cv2.INTER_NEAREST if growth >= 3 else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=how).reshape(height, width, -1)


def thumbnail(pixels: np.ndarray, box: Box, tile: tuple[int, int]) -> np.ndarray:
    """A whole image in a tile, with a box, in its pixels, drawn on it. uint8 (h, w, 3)."""
    scale = min(tile[0] / pixels.shape[0], tile[1] / pixels.shape[1])
    high, wide = max(1, round(pixels.shape[0] * scale)), max(1, round(pixels.shape[1] * scale))
    small = resize(pixels, high, wide)
    canvas = np.full((*tile, 3), _EMPTY, np.uint8)
    top, left = (tile[0] - high) // 2, (tile[1] - wide) // 2
    canvas[top : top + high, left : left + wide] = small
    y1, y2 = _line(top + box.y1 * scale, top + box.y2 * scale)
    x1, x2 = _line(left + box.x1 * scale, left + box.x2 * scale)
    cv2.rectangle(canvas, (x1 - 1, y1 - 1), (x2 + 1, y2 + 1), _BOX[0], 1)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), _BOX[1], 1)
    return canvas


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 RGB -> PNG."""
    ok, data = cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR))
    if not ok:
        raise ValueError(f"a picture of shape {pixels.shape} cannot be a PNG.")
    return data.tobytes()


def encode_webp(pixels: np.ndarray, quality: int = 88) -> bytes:
    """uint8 RGB -> WebP; nothing is lost where `quality` is above 100."""
    ok, data = cv2.imencode(
        ".webp", cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, quality]
    )
    if not ok:
        raise ValueError(f"a picture of shape {pixels.shape} cannot be a WebP.")
    return data.tobytes()


def shrink(pixels: np.ndarray, side: int) -> np.ndarray:
    """uint8 (h, w, 3) with its longer side at most `side` pixels; a smaller picture stays as it is."""
    scale = side / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    return resize(pixels, max(1, round(pixels.shape[0] * scale)), max(1, round(pixels.shape[1] * scale)))


def decode_png(data: bytes) -> np.ndarray:
    """PNG -> uint8 RGB."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))[..., ::-1]


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    first = min(round(low * size), size - 1)
    return first, max(first + 1, round(high * size))


def _line(low: float, high: float) -> tuple[int, int]:
    """First and last pixel of a box's line, far enough apart for an eye to find it."""
    wider = max(0.0, _SMALLEST_BOX - (high - low)) / 2
    return round(low - wider), round(high + wider) - 1


def _write(picture: np.ndarray, text: str, y: int, right: int) -> None:
    scale = 0.5
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    cv2.putText(picture, text, (right - width, y + height // 2), cv2.FONT_HERSHEY_SIMPLEX, scale, _TEXT, 1, cv2.LINE_AA)


def _write_below(strip: np.ndarray, text: str) -> None:
    """A line of text in the middle of a strip; what does not fit gives way to an ellipsis."""
    height, width = strip.shape[:2]
    shown = text = " ".join(text.split())
    while shown and _font().getlength(shown) > width:
        text = text[:-1]
        shown = f"{text.rstrip()}…" if text else ""
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).text(((width - _font().getlength(shown)) // 2, 0), shown, fill=255, font=_font())
    share = np.asarray(mask)[..., None] / 255
    strip[:] = np.round(strip * (1 - share) + np.array(_TEXT) * share)


@cache
def _font() -> Any:
    import matplotlib

    # Unlike OpenCV's letters and Pillow's own, it has accents, and Greek and Cyrillic too.
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 10)
