"""Palettes: from the least value to the greatest, and the same wherever they are used."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.drawing.palettes import coloured, palette

MAPS = {"viridis": cv2.COLORMAP_VIRIDIS, "cividis": cv2.COLORMAP_CIVIDIS, "inferno": cv2.COLORMAP_INFERNO}


@pytest.mark.parametrize("name", [*MAPS, "grey"])
def test_a_palette_grows_lighter_all_the_way(name: Any) -> None:
    luminance = palette(name).astype(float) @ (0.299, 0.587, 0.114)
    assert luminance[-1] - luminance[0] > 150 and np.diff(luminance).min() > -2


@pytest.mark.parametrize("name", MAPS)
def test_a_palette_has_the_colours_that_others_give_its_name(name: Any) -> None:
    ramp = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, np.newaxis], MAPS[name])[:, 0, ::-1]
    np.testing.assert_array_equal(palette(name), ramp)


def test_shares_are_rounded_to_the_nearest_colour_and_clipped_at_both_ends() -> None:
    shares = np.array([[-1.0, 0.0, 0.4999 / 255], [0.5001 / 255, 1.0, 7.0]])
    places = np.array([[0, 0, 0], [1, 255, 255]])
    np.testing.assert_array_equal(coloured(shares, "inferno"), palette("inferno")[places])


def test_nobody_can_change_a_palette_for_the_others() -> None:
    with pytest.raises(ValueError, match="read-only"):
        palette("grey")[0] = 9
