"""Fit: how a source image is resized to the network's input, and how boxes are mapped back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np

from pipeline.geometry import Box

_MOST_BANDS = 4  # that OpenCV resizes at a time


@dataclass(frozen=True)
class Fit:
    """Resize to (height, width) pixels: the middle of the image, the padded whole, or the stretched whole.

    crop: scaled until it covers the target, the middle kept. pad: scaled until it fits, centred on black.
    stretch: both axes scaled on their own.
    """

    height: int
    width: int
    mode: Literal["crop", "pad", "stretch"] = "crop"

    def scale_and_offset(self, height: int, width: int) -> tuple[tuple[float, float], tuple[float, float]]:
        """For an image of this size: source pixels per input pixel, and the source position of the input's corner.

        Exactly what `apply` does, which maps whole source pixels to whole input pixels.

        Returns: ((scale_y, scale_x), (offset_y, offset_x)); source = offset + scale * input, for pixel edges.
        """
        seen, filled = self._overlap(height, width)
        scale_y, scale_x = seen.height / filled.height, seen.width / filled.width
        return (scale_y, scale_x), (seen.y1 - scale_y * filled.y1, seen.x1 - scale_x * filled.x1)

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Resize (h, w, c) of uint8 or float32 to (height, width, c): along each axis by area to shrink, bilinear to grow."""
        if pixels.shape[:2] == (self.height, self.width):
            return pixels
        seen, filled = self._overlap(*pixels.shape[:2])
        resized = _resized(seen.cut(pixels), filled.height, filled.width)
        if (filled.height, filled.width) == (self.height, self.width):
            return resized
        padded = np.zeros((self.height, self.width, pixels.shape[2]), pixels.dtype)
        filled.cut(padded)[:] = resized
        return padded

    def to_source(self, box: Box, region: Box) -> Box:
        """The source pixels under a box of input pixels: rounded outwards, clipped to what the network saw, never empty.

        Args:
            box: pixels of the network's input.
            region: the part of the source image that was resized.
        """
        return Box.of(self.boxes_to_source(np.array([box.edges]), region)[0])

    def boxes_to_source(self, boxes: np.ndarray, region: Box) -> np.ndarray:
        """`to_source` for many boxes of one image: int (n, 4) to int64 (n, 4)."""
        seen, filled = self._overlap(region.height, region.width)
        target, source = np.array([[filled.height, filled.width], [seen.height, seen.width]])
        edges = boxes.astype(np.int64) - np.array((filled.y1, filled.x1) * 2)
        first = np.clip(edges[:, :2] * source // target, 0, source - 1)
        last = np.clip(-(-edges[:, 2:] * source // target), first + 1, source)
        return np.concatenate([first, last], axis=1) + np.array((region.y1 + seen.y1, region.x1 + seen.x1) * 2)

    def _overlap(self, height: int, width: int) -> tuple[Box, Box]:
        """The part of the image that the network sees, in source pixels, and the part of the input it fills, in input pixels."""
        return _overlap(self, height, width)


@lru_cache(4096)  # asked for every winner of an image
def _overlap(fit: Fit, height: int, width: int) -> tuple[Box, Box]:
    scale_y, scale_x = height / fit.height, width / fit.width
    if fit.mode == "crop":
        scale_y = scale_x = min(scale_y, scale_x)
    elif fit.mode == "pad":
        scale_y = scale_x = max(scale_y, scale_x)
    seen_y, filled_y = _middle(height, scale_y * fit.height), _middle(fit.height, height / scale_y)
    seen_x, filled_x = _middle(width, scale_x * fit.width), _middle(fit.width, width / scale_x)
    return Box(seen_y[0], seen_x[0], seen_y[1], seen_x[1]), Box(filled_y[0], filled_x[0], filled_y[1], filled_x[1])


def _middle(available: int, length: float) -> tuple[int, int]:
    """The middle `length` of so many pixels, rounded: all of them at most, one at least."""
    length = max(1, min(available, round(length)))
    first = (available - length) // 2
    return first, first + length


def _resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Shrink first, then grow: if either axis grows, OpenCV interpolates, and aliases, along both."""
    smaller = min(height, pixels.shape[0]), min(width, pixels.shape[1])
    for size, method in ((smaller, cv2.INTER_AREA), ((height, width), cv2.INTER_LINEAR)):
        if pixels.shape[:2] != size:
            parts = np.split(pixels, range(_MOST_BANDS, pixels.shape[2], _MOST_BANDS), axis=2)
            resized = [cv2.resize(np.ascontiguousarray(part), (size[1], size[0]), interpolation=method) for part in parts]
            pixels = np.concatenate([part.reshape(*size, -1) for part in resized], axis=2) if parts[1:] else resized[0]
            pixels = pixels.reshape(*size, -1)
    return pixels
