"""Lines over pictures: outlines of boxes, and crosses over dead tiles."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.drawing.palettes import EMPTY, MARK, OUTLINE
from pipeline.drawing.pixels import resize
from pipeline.geometry import Box

DASH = 6  # pixels of a dash, and of the gap behind it
_SMALLEST = 6  # pixels of a box that is drawn on a thumbnail


def thumbnail(pixels: np.ndarray, box: Box, tile: tuple[int, int]) -> np.ndarray:
    """A whole image, uint8 (h, w, 3), in the middle of a tile (height, width), with a box, in the image's pixels, drawn on it."""
    scale = min(tile[0] / pixels.shape[0], tile[1] / pixels.shape[1])
    height, width = max(1, round(pixels.shape[0] * scale)), max(1, round(pixels.shape[1] * scale))
    canvas = np.full((*tile, 3), EMPTY, np.uint8)
    top, left = (tile[0] - height) // 2, (tile[1] - width) // 2
    canvas[top : top + height, left : left + width] = resize(pixels, height, width)
    y1, y2 = _ends(top + box.y1 * scale, top + box.y2 * scale)
    x1, x2 = _ends(left + box.x1 * scale, left + box.x2 * scale)
    cv2.rectangle(canvas, (x1 - 1, y1 - 1), (x2 + 1, y2 + 1), OUTLINE[0], 1)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), OUTLINE[1], 1)
    return canvas


def outline(pixels: np.ndarray, box: Box, colour: tuple[int, int, int], dashed: bool = False) -> None:
    """Draw a box's lines just inside it, dark on both sides, so that they stand out on any colour: uint8 (h, w, 3), in place."""
    if box.is_empty:
        return
    height, width = pixels.shape[:2]
    lines = np.zeros((height, width), np.uint8)
    cv2.rectangle(lines, (box.x1, box.y1), (box.x2 - 1, box.y2 - 1), 255, 2)
    if dashed:
        lines[(np.add.outer(np.arange(height), np.arange(width)) // DASH) % 2 == 1] = 0
    pixels[(cv2.dilate(lines, np.ones((3, 3), np.uint8)) > 0) & (lines == 0)] = 0
    pixels[lines > 0] = colour


def cross_out(tile: np.ndarray) -> None:
    """Draw a cross over a tile: uint8 (h, w, 3), in place."""
    height, width = tile.shape[:2]
    # OpenCV draws on a copy of an array that is not contiguous.
    drawn = np.ascontiguousarray(tile)
    for start, end in (((0, 0), (width - 1, height - 1)), ((0, height - 1), (width - 1, 0))):
        cv2.line(drawn, start, end, MARK, 1)
    tile[:] = drawn


def _ends(low: float, high: float) -> tuple[int, int]:
    """The first and the last pixel of a box's line, far enough apart to be visible."""
    wider = max(0.0, _SMALLEST - (high - low)) / 2
    return round(low - wider), round(high + wider) - 1
