"""Tiles: a patch or a whole image at the size at which it is shown, and a channel's map as light upon it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from pipeline.drawing.mosaic import centre_tile
from pipeline.drawing.palettes import OUTLINE
from pipeline.drawing.pixels import resize
from pipeline.geometry import Box, interpolation

_STRETCH = 1.15  # by which a patch may be stretched along an axis to fill its tile
_SHADE = 0.45  # of an image's light that is left where a map is zero
_SMALLEST = 6  # pixels of a box that is drawn


def fill_tile(patch: np.ndarray, tile: tuple[int, int], fills: bool = True) -> np.ndarray:
    """A patch, uint8 (h, w, 3), as a tile (height, width) that it fills or, where that would distort it, in its middle.

    Args:
        fills: whether it may be stretched a little.
    """
    stretch = (patch.shape[0] * tile[1]) / (patch.shape[1] * tile[0])
    if fills and 1 / _STRETCH <= stretch <= _STRETCH:
        return resize(patch, *tile)
    return centre_tile(patch, tile)


def fit_whole(pixels: np.ndarray, tile: tuple[int, int]) -> np.ndarray:
    """A whole image in the middle of its tile."""
    return centre_tile(pixels, tile)


def light(tile: np.ndarray, heat: np.ndarray, seen: Sequence[float]) -> None:
    """Darken a tile, uint8 (h, w, 3), in place, except where a map is high.

    Args:
        heat: uint8 (h, w): the map; 255 leaves the tile as it is.
        seen: y1, x1, y2, x2: what the map covers, in pixels of the tile; it may reach over the edges.
    """
    y1, x1, y2, x2 = seen
    down, across = _spread(y1, y2, heat.shape[0], tile.shape[0]), _spread(x1, x2, heat.shape[1], tile.shape[1])
    share = _SHADE + (1 - _SHADE) / 255 * (down @ heat.astype(np.float32) @ across.T)
    tile[:] = tile * share[..., np.newaxis]


@lru_cache(4096)
def _spread(first: float, last: float, cells: int, size: int) -> np.ndarray:
    """The matrix float32 (size, cells) that spreads a line of cells over pixels first to last; 0 for pixels outside."""
    pixels = np.arange(size)
    matrix = interpolation((pixels + 0.5 - first) * cells / (last - first) - 0.5, cells)
    matrix[(pixels < round(first)) | (pixels >= round(last))] = 0  # the network was not shown this
    return matrix


def outline_on(tile: np.ndarray, box: Box, height: int, width: int) -> None:
    """Draw a box on the tile of a whole image, in place: uint8 (h, w, 3).

    Args:
        box: in pixels of the image, which has this height and width.
    """
    scale, top, left = whole_in_tile(tile.shape[:2], height, width)
    y1, y2 = _ends(top + box.y1 * scale, top + box.y2 * scale)
    x1, x2 = _ends(left + box.x1 * scale, left + box.x2 * scale)
    cv2.rectangle(tile, (x1 - 1, y1 - 1), (x2 + 1, y2 + 1), OUTLINE[0], 1)
    cv2.rectangle(tile, (x1, y1), (x2, y2), OUTLINE[1], 1)


def whole_in_tile(tile: Sequence[int], height: int, width: int) -> tuple[float, float, float]:
    """How a whole image lies in its tile: pixels of the tile to one of the image, and the image's upper left corner (y, x)."""
    scale = min(tile[0] / height, tile[1] / width)
    return scale, (tile[0] - height * scale) / 2, (tile[1] - width * scale) / 2


def _ends(low: float, high: float) -> tuple[int, int]:
    """First and last pixel of a box's line, far enough apart for an eye to find it."""
    wider = max(0.0, _SMALLEST - (high - low)) / 2
    return round(low - wider), round(high + wider) - 1
