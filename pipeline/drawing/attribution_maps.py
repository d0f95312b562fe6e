"""Pictures of maps: over the source image with a scale, side by side, and many in one mosaic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import cv2
import numpy as np

from pipeline.drawing.palettes import coloured, ground
from pipeline.drawing.pixels import grey, resize
from pipeline.drawing.text import Note, font, inscribe

_GAP = 6
_LEAST = 224  # pixels of the longer side of a picture; smaller images grow by a whole factor
_PANEL = 448  # pixels of the longer side of an image in a row of several
_TILE = 160  # and in a mosaic
_SCALE = 16  # width of the scale's bar
_WORDS = {"heat": ("0", "", "peak"), "signed": ("against", "0", "for")}  # at the bottom, the middle and the top of scales

# The colours of support for a target and of opposition, for maps of signed numbers.
_FOR, _AGAINST = (255, 159, 28), (45, 125, 255)
_NEUTRAL = 128  # grey
_UNSEEN = 64
_DARK = np.rint(0.35 * np.arange(256)).astype(np.uint8)  # of each grey
_ENOUGH = 100_000  # values, of which a quantile is taken


@dataclass(frozen=True)
class Panel:
    """One image of a row, and its title.

    pixels: uint8 RGB. draws: "heat" or "signed", for a map in the colours of a scale; "" for any other picture.
    """

    title: str
    pixels: np.ndarray
    draws: str = ""


def plain(image: np.ndarray) -> np.ndarray:
    """An image as it is, large enough to be looked at: uint8 RGB."""
    return _grown(image)


def is_enlarged(image: np.ndarray) -> bool:
    """Whether the pixels of an image are drawn as squares, which a photograph's format would blur."""
    return _factor(image) > 1


def heat_over(image: np.ndarray, shares: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """A heat map over its image, which turns grey below it and dark where the network saw nothing.

    Args:
        image: uint8 (height, width, 3).
        shares: (height, width), 0 to 1, of the map's peak.
        seen: bool (height, width).

    Returns: uint8 RGB.
    """
    below = grey(image)
    mixed = cv2.addWeighted(below, 0.45, coloured(shares), 0.55, 0)
    return _where(seen, mixed, cv2.LUT(below, _DARK))


def signed(values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Signed numbers, where grey is zero; the range covers all but the strongest 1%.

    Args:
        values: (height, width, 3), each colour a number of its own; or (height, width): orange is above zero, blue below.
        seen: bool (height, width); the rest is dark.

    Returns: uint8 RGB.
    """
    step = int(np.ceil((values.size / _ENOUGH) ** 0.5))
    bound = np.quantile(np.abs(values[::step, ::step]), 0.99) or np.abs(values).max() or 1.0
    shares = np.clip(values / bound, -1, 1)
    if values.ndim == 3:
        shares *= 127.5
        shares += 127.5
        drawn = np.rint(shares, out=shares).astype(np.uint8)
    else:
        drawn = _opposed().take(np.rint(255 * shares).astype(np.int16) + 255, axis=0)
    return _where(seen, drawn, np.full_like(drawn, _UNSEEN))


def _where(seen: np.ndarray, drawn: np.ndarray, other: np.ndarray) -> np.ndarray:
    """One picture where something was seen, and the other elsewhere; NumPy's masks take twenty times as long."""
    return np.asarray(cv2.copyTo(drawn, seen.view(np.uint8), other))


@cache
def _opposed() -> np.ndarray:
    """The colours of -255, -254 … 255: uint8 (511, 3)."""
    shares = np.arange(-255, 256)[:, np.newaxis] / 255
    return np.rint(_NEUTRAL + np.abs(shares) * (np.where(shares > 0, _FOR, _AGAINST) - _NEUTRAL)).astype(np.uint8)


def captioned(pixels: np.ndarray, caption: str, peak: float | None) -> np.ndarray:
    """A picture with a line above it and, where a peak is given, the scale of its colours beside it."""
    size = _font_size(pixels.shape[1])
    scale = [] if peak is None else [_scale(pixels.shape[0], ("0", f"{peak / 2:.2g}", f"{peak:.2g}"), size)]
    body = _beside([pixels, *scale])
    return _below(_line(caption, body.shape[1], size), body)


def side_by_side(panels: Sequence[Panel], caption: str) -> np.ndarray:
    """Panels of one image in a row, each with its title, the scales of their colours behind them, a line above them all."""
    drawn = [_shrunk(panel.pixels, _PANEL) for panel in panels]
    columns = [_below(_line(panel.title, pixels.shape[1], 15), pixels) for panel, pixels in zip(panels, drawn, strict=True)]
    kinds = {panel.draws for panel in panels}
    scales = [_scale(drawn[0].shape[0], words, 13, kind == "signed") for kind, words in _WORDS.items() if kind in kinds]
    body = _beside([*columns, *(_below(_line("", scale.shape[1], 15), scale) for scale in scales)])
    return _below(_line(caption, body.shape[1], 19), body)


def tile(panels: Sequence[Panel], caption: str) -> np.ndarray:
    """A small version for a mosaic; all tiles with the same number of panels have one size."""
    row = _beside([_padded(_shrunk(panel.pixels, _TILE), _TILE) for panel in panels])
    return _below(_line(caption, row.shape[1], 14), row)


def together(tiles: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
    """Tiles of one size in columns, about as high as wide, under the titles of their panels."""
    height, width = tiles[0].shape[:2]
    columns = max(1, min(len(tiles), round((len(tiles) * height / width) ** 0.5)))
    rows = -(-len(tiles) // columns)
    heads = _beside([_line(title, _TILE, 14) for title in titles])
    stacks = []
    for column in range(columns):
        stack = [heads, *tiles[column * rows : (column + 1) * rows]]
        stacks.append(_padded_below(np.concatenate(stack), heads.shape[0] + rows * height))
    return _beside([part for stack in stacks for part in (stack, ground(stack.shape[0], 3 * _GAP))][:-1])


def _grown(pixels: np.ndarray) -> np.ndarray:
    factor = _factor(pixels)
    return pixels if factor == 1 else pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _factor(pixels: np.ndarray) -> int:
    return max(1, _LEAST // max(pixels.shape[:2]))


def _shrunk(pixels: np.ndarray, longest: int) -> np.ndarray:
    scale = min(1.0, longest / max(pixels.shape[:2]))
    return resize(pixels, max(1, round(pixels.shape[0] * scale)), max(1, round(pixels.shape[1] * scale)))


def _padded(pixels: np.ndarray, side: int) -> np.ndarray:
    canvas = ground(side, side)
    top, left = (side - pixels.shape[0]) // 2, (side - pixels.shape[1]) // 2
    canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return canvas


def _padded_below(pixels: np.ndarray, height: int) -> np.ndarray:
    return np.concatenate([pixels, ground(height - pixels.shape[0], pixels.shape[1])])


def _beside(parts: Sequence[np.ndarray]) -> np.ndarray:
    height = max(part.shape[0] for part in parts)
    spaced = [piece for part in parts for piece in (_padded_below(part, height), ground(height, _GAP))]
    return np.concatenate(spaced[:-1], axis=1)


def _below(line: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([line, pixels])


@lru_cache(16)
def _scale(height: int, words: tuple[str, str, str], size: int, opposed: bool = False) -> np.ndarray:
    """A vertical colour scale, labelled at its bottom, middle and top; not to be written to.

    opposed: from what speaks against the target to what speaks for it; else from zero to the peak of a map.
    """
    strip = ground(height, _SCALE + 4 * size)
    shares = np.linspace(1, 0, height)
    colours = _opposed().take(np.rint(510 * shares).astype(np.intp), axis=0) if opposed else coloured(shares)
    strip[:, :_SCALE] = colours[:, np.newaxis]
    edge = size // 2
    middles = (height - edge - 2, height // 2, edge)
    return inscribe(strip, [Note(y, _SCALE + 4, text, size=size) for text, y in zip(words, middles, strict=True)])


@lru_cache(64)  # the titles of panels are the same for all images
def _line(text: str, width: int, size: int) -> np.ndarray:
    """A line of text on the ground, cut to the width with an ellipsis, not to be written to."""
    letters = font(size)
    while text and letters.getlength(text) > width - 8 and len(text) > 1:
        text = text.rstrip("…")[:-1] + "…"
    return inscribe(ground(size + 10, width), [Note((size + 10) // 2, 4, text, size=size)])


def _font_size(width: int) -> int:
    return int(np.clip(width // 28, 13, 48))
