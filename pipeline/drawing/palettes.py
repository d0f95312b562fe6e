"""Palettes: colours of values, and of letters, marks and backgrounds."""

from __future__ import annotations

from functools import cache
from typing import Literal

import cv2
import numpy as np

Palette = Literal["viridis", "cividis", "inferno", "grey"]

# RGB.
GROUND = (24, 26, 30)  # opaque, so that text is legible on white and on dark pages
EMPTY = (44, 47, 53)  # tiles that nothing fills
LETTERS = (235, 235, 235)
QUIET = (205, 207, 210)  # less important letters
WHITE = (245, 245, 245)
CYAN = (0, 225, 255)
MARK = (255, 176, 0)  # unusual values; visible to colour-blind people too
FRAME = (70, 74, 82)  # around maps: some palettes begin at black, which is nearly the background
OUTLINE = ((0, 0, 0), (255, 220, 0))  # of a box, outside and inside: one of the two stands out on any image

# Okabe and Ito, 2008: people of any colour vision can tell these apart.
CURVES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

_MAPS = {"viridis": cv2.COLORMAP_VIRIDIS, "cividis": cv2.COLORMAP_CIVIDIS, "inferno": cv2.COLORMAP_INFERNO}


def ground(height: int, width: int) -> np.ndarray:
    """An empty picture: uint8 (height, width, 3), filled by rows, which is far quicker than by pixels."""
    return np.repeat(np.full((1, width, 3), GROUND, np.uint8), height, axis=0)


@cache
def palette(name: Palette) -> np.ndarray:
    """The colours from the least value to the greatest: uint8 RGB (256, 3); all but grey are safe for colour-blind eyes too."""
    ramp = np.arange(256, dtype=np.uint8)[:, np.newaxis]
    colours = ramp.repeat(3, axis=1) if name == "grey" else cv2.applyColorMap(ramp, _MAPS[name])[:, 0, ::-1].copy()
    colours.flags.writeable = False
    return colours


def coloured(shares: np.ndarray, name: Palette = "viridis") -> np.ndarray:
    """Shares, float (…), clipped to 0 to 1, as colours of a palette: uint8 RGB (…, 3)."""
    return palette(name).take(np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8), axis=0)
