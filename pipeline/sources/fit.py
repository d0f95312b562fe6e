"""How a source image comes to the network's input size, and how boxes find their way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from pipeline.geometry import Box


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

        Exactly what `apply` does, which shows whole source pixels on whole input pixels.

        Returns: ((scale_y, scale_x), (offset_y, offset_x)); source = offset + scale * input, for pixel edges.
        """
        shown, lands = self._overlap(height, width)
        scale_y, scale_x = shown.height / lands.height, shown.width / lands.width
        return (scale_y, scale_x), (shown.y1 - scale_y * lands.y1, shown.x1 - scale_x * lands.x1)

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Resize uint8 (h, w, c) to uint8 (height, width, c): along each axis by area to shrink, bilinear to grow."""
        if pixels.shape[:2] == (self.height, self.width):
            return pixels
        shown, lands = self._overlap(*pixels.shape[:2])
        resized = _resized(shown.cut(pixels), lands.height, lands.width)
        if (lands.height, lands.width) == (self.height, self.width):
            return resized
        canvas = np.zeros((self.height, self.width, pixels.shape[2]), np.uint8)
        lands.cut(canvas)[:] = resized
        return canvas

    def to_source(self, box: Box, region: Box) -> Box:
        """The source pixels under a box of input pixels: rounded outwards, clipped to what was shown, never empty.

        Args:
            box: pixels of the network's input.
            region: the part of the source image that was resized.
        """
        shown, lands = self._overlap(region.height, region.width)
        y1, y2 = _outwards(box.y1 - lands.y1, box.y2 - lands.y1, lands.height, shown.height)
        x1, x2 = _outwards(box.x1 - lands.x1, box.x2 - lands.x1, lands.width, shown.width)
        return Box(y1, x1, y2, x2).shifted(region.y1 + shown.y1, region.x1 + shown.x1)

    def _overlap(self, height: int, width: int) -> tuple[Box, Box]:
        """The part of the image that is shown, in its own pixels, and where it lands, in input pixels."""
        scale_y, scale_x = height / self.height, width / self.width
        if self.mode == "crop":
            scale_y = scale_x = min(scale_y, scale_x)
        elif self.mode == "pad":
            scale_y = scale_x = max(scale_y, scale_x)
        shown_y, lands_y = _middle(height, scale_y * self.height), _middle(self.height, height / scale_y)
        shown_x, lands_x = _middle(width, scale_x * self.width), _middle(self.width, width / scale_x)
        return Box(shown_y[0], shown_x[0], shown_y[1], shown_x[1]), Box(lands_y[0], lands_x[0], lands_y[1], lands_x[1])


def _middle(available: int, wanted: float) -> tuple[int, int]:
    """The middle `wanted` of so many pixels, in whole pixels: all of them at most, one at least."""
    length = max(1, min(available, round(wanted)))
    first = (available - length) // 2
    return first, first + length


def _resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Shrinking comes first: OpenCV would interpolate, and alias, along both axes if either grows."""
    smaller = min(height, pixels.shape[0]), min(width, pixels.shape[1])
    for size, method in ((smaller, cv2.INTER_AREA), ((height, width), cv2.INTER_LINEAR)):
        if pixels.shape[:2] != size:
            pixels = cv2.resize(np.ascontiguousarray(pixels), (size[1], size[0]), interpolation=method)
            pixels = pixels.reshape(*size, -1)
    return pixels


def _outwards(first: int, last: int, target: int, source: int) -> tuple[int, int]:
    """Pixels first to last of `target`, as pixels of `source` that fill the same length."""
    low = min(max(first * source // target, 0), source - 1)
    return low, min(max(-(-last * source // target), low + 1), source)
