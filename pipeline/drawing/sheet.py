"""Sheets: a body of numbered tiles under a head that says in words and on a scale what is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from pipeline.drawing.mosaic import GROUND, resize

LETTERS = (235, 235, 235)
MARK = (255, 176, 0)  # tells of what is out of the ordinary; seen by colour-blind eyes too
_MARGIN = 12
_LINE = 20  # pixels from line to line of the head
_BAR = (14, 256)  # height and width of a scale
_PALETTES = {"viridis": cv2.COLORMAP_VIRIDIS, "cividis": cv2.COLORMAP_CIVIDIS, "inferno": cv2.COLORMAP_INFERNO}


@dataclass(frozen=True)
class Note:
    """A few words on a picture; `x, y` is where `anchor` says: l, m or r, then t, m or b."""

    y: int
    x: int
    text: str
    anchor: str = "lm"
    size: int = 11
    colour: tuple[int, int, int] = LETTERS
    upright: bool = True  # or turned, to be read from below


@dataclass(frozen=True, eq=False)
class Scale:
    """Which colour stands for which value: the palette, and what is written before and behind it."""

    palette: np.ndarray
    low: str
    high: str


def palette(name: str) -> np.ndarray:
    """The colours from the least value to the greatest: uint8 (256, 3). All but grey are safe for colour-blind eyes too."""
    ramp = np.arange(256, dtype=np.uint8)[:, np.newaxis]
    if name == "grey":
        return np.repeat(ramp, 3, axis=1)
    return np.ascontiguousarray(cv2.applyColorMap(ramp, _PALETTES[name])[:, 0, ::-1])


def sheet(
    lines: Sequence[str], body: np.ndarray, notes: Sequence[Note], scale: Scale | None = None, corner: np.ndarray | None = None
) -> np.ndarray:
    """A whole picture: uint8 RGB.

    Args:
        lines: of the head; the first stands out. Lines too long for the picture make it wider.
        body: uint8 (h, w, 3).
        notes: on the body, in its pixels.
        scale: drawn below the lines.
        corner: uint8 (h, w, 3), shown small beside the lines.
    """
    sizes = [16, *[13] * (len(lines) - 1)]
    row = _LINE * len(lines) + (0 if scale is None else _LINE)
    small = np.zeros((0, 0, 3), np.uint8) if corner is None else _shrunk(corner, max(row, 112))
    left = _MARGIN + (small.shape[1] + _MARGIN if small.size else 0)
    needed = [_length(line, size) for line, size in zip(lines, sizes, strict=True)]
    if scale is not None:
        needed.append(_length(scale.low, 13) + _length(scale.high, 13) + _BAR[1] + 16)
    height = max(row, small.shape[0]) + 2 * _MARGIN
    width = max(body.shape[1] + 2 * _MARGIN, left + max(needed) + _MARGIN)
    picture = np.full((height + body.shape[0] + _MARGIN, width, 3), GROUND, np.uint8)
    picture[_MARGIN : _MARGIN + small.shape[0], _MARGIN : _MARGIN + small.shape[1]] = small
    picture[height : height + body.shape[0], _MARGIN : _MARGIN + body.shape[1]] = body
    head = [
        Note(_MARGIN + _LINE * place + _LINE // 2, left, line, "lm", size, LETTERS if place == 0 else (205, 207, 210))
        for place, (line, size) in enumerate(zip(lines, sizes, strict=True))
    ]
    if scale is not None:
        head += _draw_scale(picture, scale, _MARGIN + _LINE * len(lines) + 3, left)
    shifted = [
        Note(note.y + height, note.x + _MARGIN, note.text, note.anchor, note.size, note.colour, note.upright) for note in notes
    ]
    return inscribe(picture, [*head, *shifted])


def corner_of(body: np.ndarray, picture: np.ndarray) -> tuple[int, int]:
    """Where on a sheet its body begins: y, x."""
    return picture.shape[0] - _MARGIN - body.shape[0], _MARGIN


def inscribe(pixels: np.ndarray, notes: Sequence[Note]) -> np.ndarray:
    """A picture with notes on it: uint8 (h, w, 3)."""
    image = PIL.Image.fromarray(pixels)
    draw = PIL.ImageDraw.Draw(image)
    for note in notes:
        if note.upright:
            draw.text((note.x, note.y), note.text, note.colour, _font(note.size), anchor=note.anchor)
        else:
            _turned(image, note)
    return np.array(image)


def cross_out(tile: np.ndarray) -> None:
    """Draw a cross over a tile, in place."""
    height, width = tile.shape[:2]
    # cv2 draws on its own copy of anything that is not laid out as it likes.
    drawn = np.ascontiguousarray(tile)
    for start, end in (((0, 0), (width - 1, height - 1)), ((0, height - 1), (width - 1, 0))):
        cv2.line(drawn, start, end, MARK, 1)
    tile[:] = drawn


def _shrunk(pixels: np.ndarray, height: int) -> np.ndarray:
    """At most so high; small pictures grow, so that one can see what they show."""
    return resize(pixels, height, max(1, round(pixels.shape[1] * height / pixels.shape[0])))


def _draw_scale(picture: np.ndarray, scale: Scale, y: int, x: int) -> list[Note]:
    high, wide = _BAR
    bar = x + _length(scale.low, 13) + 8
    picture[y : y + high, bar : bar + wide] = scale.palette[np.linspace(0, 255, wide).round().astype(int)]
    middle = y + high // 2
    return [Note(middle, x, scale.low, size=13), Note(middle, bar + wide + 8, scale.high, size=13)]


def _turned(image: PIL.Image.Image, note: Note) -> None:
    """Text that runs upwards, its end at `y`, centred on `x`."""
    length = _length(note.text, note.size) + 2
    strip = PIL.Image.new("RGB", (length, note.size + 4), GROUND)
    PIL.ImageDraw.Draw(strip).text((0, note.size // 2 + 2), note.text, note.colour, _font(note.size), anchor="lm")
    turned = strip.rotate(90, expand=True)
    image.paste(turned, (note.x - turned.width // 2, note.y - turned.height))


@lru_cache
def _font(size: int) -> PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont:
    return PIL.ImageFont.load_default(size)


def _length(text: str, size: int) -> int:
    return int(np.ceil(_font(size).getlength(text)))
