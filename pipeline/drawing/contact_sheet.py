"""Contact sheets: numbered tiles below a heading with a description and a colour scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.drawing.palettes import LETTERS, QUIET, ground
from pipeline.drawing.pixels import resize
from pipeline.drawing.text import Note, inscribe, text_length

_MARGIN = 12
_LINE = 20  # pixels from line to line of the head
_FIRST, _OTHER = 16, 13  # letters of the head's first line, and of the others
_BAR = (14, 256)  # height and width of a scale
_CORNER = 112  # pixels of the corner's height, at the least


@dataclass(frozen=True, eq=False)
class Scale:
    """A colour scale: the palette, and the labels at its ends."""

    palette: np.ndarray
    low: str
    high: str


def contact_sheet(
    lines: Sequence[str], body: np.ndarray, notes: Sequence[Note], scale: Scale | None = None, corner: np.ndarray | None = None
) -> np.ndarray:
    """A whole picture: uint8 RGB.

    Args:
        lines: of the head; the first stands out. Lines too long for the picture make it wider.
        body: uint8 (h, w, 3).
        notes: on the body, in its pixels.
        scale: drawn below the lines.
        corner: uint8 (h, w, 3), drawn small beside the lines.
    """
    sizes = [_FIRST, *[_OTHER] * (len(lines) - 1)]
    words = _LINE * len(lines) + (0 if scale is None else _LINE)
    small = np.zeros((0, 0, 3), np.uint8) if corner is None else _of_height(corner, max(words, _CORNER))
    left = _MARGIN + (small.shape[1] + _MARGIN if small.size else 0)
    lengths = [text_length(line, size) for line, size in zip(lines, sizes, strict=True)]
    if scale is not None:
        lengths.append(text_length(scale.low, _OTHER) + text_length(scale.high, _OTHER) + _BAR[1] + 16)
    height = max(words, small.shape[0]) + 2 * _MARGIN
    width = max(body.shape[1] + 2 * _MARGIN, left + max(lengths) + _MARGIN)
    picture = ground(height + body.shape[0] + _MARGIN, width)
    picture[_MARGIN : _MARGIN + small.shape[0], _MARGIN : _MARGIN + small.shape[1]] = small
    picture[height : height + body.shape[0], _MARGIN : _MARGIN + body.shape[1]] = body
    head = [
        Note(_MARGIN + _LINE * number + _LINE // 2, left, line, "lm", size, QUIET if number else LETTERS)
        for number, (line, size) in enumerate(zip(lines, sizes, strict=True))
    ]
    if scale is not None:
        head += _draw_scale(picture, scale, _MARGIN + _LINE * len(lines) + 3, left)
    return inscribe(picture, [*head, *(note.shifted(height, _MARGIN) for note in notes)])


def body_corner(body: np.ndarray, picture: np.ndarray) -> tuple[int, int]:
    """Where on a contact sheet its body begins: y, x."""
    return picture.shape[0] - _MARGIN - body.shape[0], _MARGIN


def _of_height(pixels: np.ndarray, height: int) -> np.ndarray:
    return resize(pixels, height, max(1, round(pixels.shape[1] * height / pixels.shape[0])))


def _draw_scale(picture: np.ndarray, scale: Scale, y: int, x: int) -> list[Note]:
    high, wide = _BAR
    bar = x + text_length(scale.low, _OTHER) + 8
    picture[y : y + high, bar : bar + wide] = scale.palette[np.linspace(0, 255, wide).round().astype(int)]
    middle = y + high // 2
    return [Note(middle, x, scale.low, size=_OTHER), Note(middle, bar + wide + 8, scale.high, size=_OTHER)]
