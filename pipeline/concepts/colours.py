"""The eleven basic colour names (Berlin & Kay 1969) of pixels: of each the nearest focal colour in CIELAB."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

_FOCAL = {
    "black": (10, 10, 10),
    "white": (250, 250, 250),
    "grey": (128, 128, 128),
    "red": (200, 20, 30),
    "green": (40, 140, 50),
    "yellow": (240, 215, 30),
    "blue": (40, 90, 200),
    "brown": (115, 70, 35),
    "orange": (245, 130, 30),
    "pink": (245, 150, 180),
    "purple": (125, 50, 150),
}
COLOURS = tuple(_FOCAL)
_BITS = 5  # of each of red, green and blue that are told apart
_LEVELS = 2**_BITS


def name_colours(pixels: np.ndarray) -> np.ndarray:
    """The number, from 1, in `COLOURS` of each pixel's colour: uint8 (h, w, 3), RGB, to uint8 (h, w)."""
    red, green, blue = (pixels[..., band].astype(np.uint16) >> (8 - _BITS) for band in range(3))
    names: np.ndarray = _table().take((red << 2 * _BITS) + (green << _BITS) + blue)
    return names


@lru_cache(1)
def _table() -> np.ndarray:
    middles = ((np.arange(_LEVELS) + 0.5) / _LEVELS).astype(np.float32)
    colours = np.stack(np.meshgrid(middles, middles, middles, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    focal = (np.array([list(_FOCAL.values())]) / 255).astype(np.float32)
    distances = np.linalg.norm(cv2.cvtColor(colours, cv2.COLOR_RGB2LAB) - cv2.cvtColor(focal, cv2.COLOR_RGB2LAB), axis=2)
    names: np.ndarray = (1 + distances.argmin(axis=1)).astype(np.uint8)
    return names
