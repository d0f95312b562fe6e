"""Lines over pictures: outlines of boxes, and crosses over dead tiles."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.drawing.palettes import MARK
from pipeline.geometry import Box

DASH = 6  # pixels of a dash, and of the gap behind it


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
