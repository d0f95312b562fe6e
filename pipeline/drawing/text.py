"""Text on pictures: fonts, lengths, and drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from pipeline.drawing.palettes import GROUND, LETTERS

Face = Literal["head", "label"]


@dataclass(frozen=True)
class Note:
    """A few words on a picture; `x, y` is where `anchor` says: l, m or r, then t, m or b.

    upright: or turned, to be read from below.
    """

    y: int
    x: int
    text: str
    anchor: str = "lm"
    size: int = 11
    colour: tuple[int, int, int] = LETTERS
    upright: bool = True

    def shifted(self, down: int, right: int) -> Note:
        """The note, moved by so many pixels."""
        return Note(self.y + down, self.x + right, self.text, self.anchor, self.size, self.colour, self.upright)


@cache
def font(size: int, face: Face = "head") -> PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont:
    """The font loader: Pillow's own face for headings and numbers; for labels, which come from data, one with accents."""
    if face == "head":
        return PIL.ImageFont.load_default(size)
    import matplotlib

    # DejaVu has accents, and Greek and Cyrillic too.
    return PIL.ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def text_length(text: str, size: int) -> int:
    """The length of a heading's text, in pixels."""
    return int(np.ceil(font(size).getlength(text)))


def cut_text(text: str, width: int, size: int, face: Face = "head") -> str:
    """A text shortened to one line of at most so many pixels, with an ellipsis if it was cut."""
    letters = font(size, face)
    cut = text = " ".join(text.split())
    while cut and letters.getlength(cut) > width:
        text = text[:-1]
        cut = f"{text.rstrip()}…" if text else ""
    return cut


def wrapped(text: str, width: int, size: int, lines: int, face: Face = "head") -> list[str]:
    """A text on up to so many lines of so many pixels, broken between words; what does not fit ends in an ellipsis."""
    letters, rows = font(size, face), [""]
    for word in text.split():
        longer = f"{rows[-1]} {word}".strip()
        if not rows[-1] or len(rows) == lines or letters.getlength(longer) <= width:
            rows[-1] = longer
        else:
            rows.append(word)
    return [cut_text(row, width, size, face) for row in rows]


def inscribe(pixels: np.ndarray, notes: Sequence[Note]) -> np.ndarray:
    """A picture with notes on it: uint8 (h, w, 3)."""
    image = PIL.Image.fromarray(pixels)
    draw = PIL.ImageDraw.Draw(image)
    for note in notes:
        if note.upright:
            draw.text((note.x, note.y), note.text, note.colour, font(note.size), anchor=note.anchor)
        else:
            _turned(image, note)
    return np.array(image)


@lru_cache(10_000)
def strip(text: str, size: int, colour: tuple[int, int, int], face: Face = "label") -> np.ndarray:
    """A text on the ground of a page, drawn once: uint8 (h, w, 3), not to be written to."""
    letters = font(size, face)
    width = max(1, round(letters.getlength(text)))
    image = PIL.Image.new("RGB", (width, round(size * 1.25)), GROUND)
    PIL.ImageDraw.Draw(image).text((0, 0), text, colour, letters)
    return np.asarray(image)


def caption(below: np.ndarray, text: str) -> None:
    """Write a label of a data set into the middle of what is below a tile: uint8 (h, w, 3), in place."""
    height, width = below.shape[:2]
    line = cut_text(text, width, 10, "label")
    mask = PIL.Image.new("L", (width, height))
    letters = font(10, "label")
    PIL.ImageDraw.Draw(mask).text(((width - letters.getlength(line)) // 2, 0), line, fill=255, font=letters)
    share = np.asarray(mask)[..., np.newaxis] / 255
    below[:] = np.round(below * (1 - share) + np.array(LETTERS) * share)


def write(picture: np.ndarray, text: str, corner: tuple[int, int], scale: float, colour: tuple[int, int, int] = LETTERS) -> None:
    """Write plain ASCII in strokes, its lower left corner at y, x: uint8 (h, w, 3), in place."""
    cv2.putText(picture, text, corner[::-1], cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)


def written_size(text: str, scale: float) -> tuple[int, int]:
    """Height and width, in pixels, of the text that `write` draws."""
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    return height, width


def _turned(image: PIL.Image.Image, note: Note) -> None:
    """Text that runs upwards, its end at `y`, centred on `x`."""
    strip = PIL.Image.new("RGB", (text_length(note.text, note.size) + 2, note.size + 4), GROUND)
    PIL.ImageDraw.Draw(strip).text((0, note.size // 2 + 2), note.text, note.colour, font(note.size), anchor="lm")
    turned = strip.rotate(90, expand=True)
    image.paste(turned, (note.x - turned.width // 2, note.y - turned.height))
