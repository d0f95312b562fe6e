"""How images are resized to the input, and boxes mapped back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.geometry import Box
from pipeline.sources.fit import Fit

MODES = ("crop", "pad", "stretch")
sides = st.integers(1, 90)
fits = st.builds(Fit, height=st.integers(1, 40), width=st.integers(1, 40), mode=st.sampled_from(MODES))


@given(fit=fits, height=sides, width=sides, y=st.integers(0, 50), x=st.integers(0, 50))
def test_the_boxes_of_all_input_pixels_together_are_what_is_shown_of_the_region(
    fit: Any, height: Any, width: Any, y: Any, x: Any
) -> None:
    region = Box(y, x, y + height, x + width)
    pixels = np.argwhere(np.ones((fit.height, fit.width)))
    boxes = [Box.of(box) for box in fit.boxes_to_source(np.concatenate([pixels, pixels + 1], axis=1), region)]
    union = Box(min(b.y1 for b in boxes), min(b.x1 for b in boxes), max(b.y2 for b in boxes), max(b.x2 for b in boxes))
    assert union == fit.to_source(Box(0, 0, fit.height, fit.width), region)
    assert all(y <= b.y1 < b.y2 <= y + height and x <= b.x1 < b.x2 <= x + width for b in boxes)
    if fit.mode != "crop":
        assert union == region
    elif height * fit.width >= width * fit.height:
        assert (union.x1, union.x2) == (x, x + width)
        assert abs((union.y1 - y) - (y + height - union.y2)) <= 1  # the middle
        assert abs(union.height - max(1, width * fit.height / fit.width)) <= 0.5
    else:
        assert (union.y1, union.y2) == (y, y + height)
        assert abs((union.x1 - x) - (x + width - union.x2)) <= 1
        assert abs(union.width - max(1, height * fit.width / fit.height)) <= 0.5


@given(fit=fits, height=sides, width=sides, data=st.data())
def test_a_box_of_the_source_holds_every_pixel_that_the_input_box_was_made_of(
    fit: Any, height: Any, width: Any, data: Any
) -> None:
    """Shrinking by area, an input pixel is the mean of the source pixels under it and of no others."""
    fit = Fit(min(fit.height, height), min(fit.width, width), "stretch")
    row, col = data.draw(st.integers(0, fit.height - 1)), data.draw(st.integers(0, fit.width - 1))
    box = fit.to_source(Box(row, col, row + 1, col + 1), Box(0, 0, height, width))
    pixels = np.full((height, width, 3), 200, np.uint8)
    pixels[box.y1 : box.y2, box.x1 : box.x2] = 0
    assert fit.apply(pixels)[row, col].max() <= 1


@given(fit=fits, height=sides, width=sides)
def test_scale_and_offset_say_what_to_source_does(fit: Any, height: Any, width: Any) -> None:
    (scale_y, scale_x), (offset_y, offset_x) = fit.scale_and_offset(height, width)
    box = fit.to_source(Box(0, 0, fit.height, fit.width), Box(0, 0, height, width))
    assert max(0, offset_y) == pytest.approx(box.y1, abs=1e-6)
    assert max(0, offset_x) == pytest.approx(box.x1, abs=1e-6)
    assert min(height, offset_y + scale_y * fit.height) == pytest.approx(box.y2, abs=1e-6)
    assert min(width, offset_x + scale_x * fit.width) == pytest.approx(box.x2, abs=1e-6)


@settings(deadline=None)
@given(fit=fits, height=sides, width=sides, channels=st.sampled_from([1, 3]))
def test_every_size_is_resized_to_the_input_size_in_every_mode(fit: Any, height: Any, width: Any, channels: Any) -> None:
    fitted = fit.apply(np.full((height, width, channels), 77, np.uint8))
    assert fitted.shape == (fit.height, fit.width, channels) and fitted.dtype == np.uint8
    assert set(np.unique(fitted)) <= ({0, 77} if fit.mode == "pad" else {77})
    assert (fitted == 77).any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 70000), (70000, 1), (1, 1), (3, 5)])
def test_ribbons_and_single_pixels_are_fitted_too(size: Any, mode: Any) -> None:
    assert Fit(32, 48, mode).apply(np.full((*size, 3), 9, np.uint8)).shape == (32, 48, 3)


def test_an_image_of_the_input_size_is_left_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    for mode in MODES:
        assert np.array_equal(Fit(5, 7, mode).apply(pixels), pixels)


def test_padding_is_black_and_the_image_in_the_middle() -> None:
    fitted = Fit(8, 8, "pad").apply(np.full((4, 8, 3), 255, np.uint8))
    assert np.array_equal(fitted[:, 0, 0], [0, 0, 255, 255, 255, 255, 0, 0])


def test_cropping_shows_the_middle() -> None:
    pixels = np.zeros((4, 12, 3), np.uint8)
    pixels[:, 4:8] = 255
    assert (Fit(4, 4, "crop").apply(pixels) == 255).all()


def test_an_axis_that_shrinks_is_averaged_even_where_the_other_grows() -> None:
    stripes = np.zeros((2, 64, 3), np.uint8)
    stripes[:, ::8] = 255  # one column in eight: picking columns would show none of them, or too much
    fitted = Fit(8, 8, "stretch").apply(stripes)
    assert fitted.min() >= 31 and fitted.max() <= 32
