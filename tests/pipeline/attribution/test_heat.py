"""Maps as numbers and pixels: back on the source image, their peak and box, their colours."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.attribution import heat
from pipeline.attribution.pictures import overlay
from pipeline.drawing import attribution_maps as pictures
from pipeline.drawing.palettes import coloured
from pipeline.sources.fit import Fit


def test_a_map_grows_as_opencv_grows_it_but_exactly() -> None:
    values = np.random.default_rng(0).random((7, 5), np.float32)
    theirs = cv2.resize(values, (40, 84), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(heat.enlarge(values, 84, 40), theirs, atol=2e-3)
    assert heat.enlarge(values, 7, 5) == pytest.approx(values)
    assert heat.enlarge(np.full((3, 3), 2.5, np.float32), 50, 31) == pytest.approx(2.5)


@pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("seen_as", [(64, 64), (48, 80)], ids=["square", "oblong"])
@pytest.mark.parametrize("size", [(90, 60), (40, 200), (64, 64), (20, 30)])
def test_heat_lies_on_the_source_pixels_that_the_network_saw(mode: Any, size: Any, seen_as: Any) -> None:
    fit = Fit(*seen_as, mode)  # type: ignore[call-arg]
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    y, x = int(height * 0.6), int(width * 0.55)
    near = min(size) // 20 + 1
    image[y - near : y + near, x - near : x + near] = 255
    shown = fit.apply(image).astype(np.float32).mean(axis=-1)  # a map that is bright where the image is
    spread, seen = heat.on_source(shown, fit, height, width)
    assert spread.shape == size and seen.shape == size
    rows, cols = np.mgrid[:height, :width]
    for axis in (rows, cols):
        middle = (axis * spread).sum() / spread.sum()
        assert abs(middle - (axis * image[..., 0].astype(float)).sum() / image[..., 0].sum()) < 1.0
    if mode == "crop":
        scale = min(height / seen_as[0], width / seen_as[1])
        tall, wide = seen_as[0] * scale, seen_as[1] * scale  # the largest rectangle of that form, in the middle
        assert abs(seen.any(axis=1).sum() - tall) <= 2 and abs(seen.any(axis=0).sum() - wide) <= 2
        assert np.abs(seen.astype(int) - seen[::-1, ::-1]).sum() <= 2 * max(size) and seen[height // 2, width // 2]
    else:
        assert seen.all()


def test_the_box_is_the_smallest_that_holds_half_of_the_energy() -> None:
    random = np.random.default_rng(3)
    for _ in range(20):
        values = random.random((5, 6), np.float32) ** 4
        box = heat.focus(values, 50, 120).box
        spans = [itertools.combinations(range(n + 1), 2) for n in values.shape]
        areas = [
            (y2 - y1) * (x2 - x1)
            for (y1, y2), (x1, x2) in itertools.product(*spans)
            if values[y1:y2, x1:x2].sum(dtype=float) >= values.sum(dtype=float) / 2 * (1 - 1e-9)
        ]
        assert box.height * box.width == min(areas) * 200
        inside = values[box.y1 // 10 : box.y2 // 10, box.x1 // 20 : box.x2 // 20]
        assert inside.sum() >= values.sum() * 0.4999


def test_the_peak_is_the_first_position_of_the_largest_magnitude() -> None:
    values = np.zeros((9, 9, 3), np.float32)
    values[2, 3], values[7, 7] = (-1, 2, -3), (6, 0, 0)
    focus = heat.focus(values, 9, 9)
    assert (focus.peak, focus.row, focus.col) == (6.0, 2, 3)
    assert (focus.box.y1, focus.box.x1, focus.box.y2, focus.box.x2) == (2, 3, 3, 4)
    np.testing.assert_array_equal(heat.energy(np.float32([[-2, 0.5]])), [[2, 0.5]])
    nothing = heat.focus(np.zeros((4, 4), np.float32), 8, 8)
    assert nothing.peak == 0 and (nothing.box.height, nothing.box.width) == (8, 8)


def test_boxes_of_large_maps_are_close_to_the_smallest() -> None:
    values = np.zeros((331, 224, 3), np.float32)
    values[100:140, 50:90] = 1
    box = heat.focus(values, 331, 224).box
    assert box.y1 >= 90 and box.y2 <= 150 and box.x1 >= 42 and box.x2 <= 98
    assert values[box.y1 : box.y2, box.x1 : box.x2].sum() >= values.sum() / 2


def signed(values: Any) -> Any:
    return pictures.signed(values, np.ones(values.shape[:2], bool))


def test_evidence_for_and_against_a_target_differ_in_colour_and_what_the_network_did_not_see_is_dark() -> None:
    values = np.array([[2.0, 0.0, -2.0, 1.0]])
    drawn = pictures.signed(values, np.array([[True, True, True, False]])).astype(int)
    red, blue = drawn[0, :, 0], drawn[0, :, 2]
    assert drawn[0, 1].tolist() == [128] * 3 and drawn[0, 3].tolist() == [64] * 3
    assert red[0] > 200 > 50 > blue[0] and blue[2] > 200 > 50 > red[2]


def test_grey_is_zero_and_opposite_gradients_have_opposite_colours() -> None:
    values = np.random.default_rng(0).normal(size=(40, 40, 3)).astype(np.float32)
    values[0, 0] = 0
    drawn = signed(values).astype(int)
    assert drawn[0, 0].tolist() == [128] * 3
    assert np.abs(drawn + signed(-values) - 255).max() <= 1
    assert (signed(np.zeros((4, 4, 3))) == 128).all()
    assert ((drawn == 0) | (drawn == 255)).mean() == pytest.approx(0.01, abs=0.005)


def test_colours_grow_lighter_with_the_heat_so_that_any_eye_can_order_them() -> None:
    colours = coloured(np.linspace(0, 1, 64))
    light = cv2.cvtColor(colours[np.newaxis], cv2.COLOR_RGB2GRAY)[0].astype(int)
    assert (np.diff(light) >= 0).all() and light[-1] - light[0] > 100


def test_a_box_reaches_to_the_far_edge_of_pixels_that_it_touches() -> None:
    values = np.zeros((3, 3), np.float32)
    values[1, 1] = 1
    box = heat.focus(values, 10, 20).box
    assert (box.y1, box.x1, box.y2, box.x2) == (3, 6, 7, 14)  # thirds of 10 and of 20, outwards


@pytest.mark.parametrize(("count", "size"), [(25, 224), (7, 29), (23, 21), (3, 10)])
def test_boxes_end_where_the_input_ends_and_places_meet_where_they_divide_evenly(count: Any, size: Any) -> None:
    for cell in range(count):
        values = np.zeros((count, 1), np.float32)
        values[cell] = 1
        box = heat.focus(values, size, 5).box
        assert (box.x1, box.x2) == (0, 5)
        assert (box.y1, box.y2) == (
            math.floor(Fraction(cell * size, count)),
            math.ceil(Fraction((cell + 1) * size, count)),
        )


def test_heat_is_viridis_over_the_brightness_of_the_image() -> None:
    ends = coloured(np.array([0.0, 1.0]))
    assert np.abs(ends.astype(int) - [[68, 1, 84], [253, 231, 37]]).max() <= 2
    image = np.full((4, 4, 3), (200, 30, 90), np.uint8)
    brightness = image[0, 0] @ [0.299, 0.587, 0.114]
    seen = np.arange(4) < 2
    drawn = pictures.heat_over(image, np.zeros((4, 4)), np.tile(seen, (4, 1)))
    np.testing.assert_allclose(drawn[:, :2], np.full((4, 2, 3), 0.45 * brightness + 0.55 * ends[0]), atol=1)
    np.testing.assert_allclose(drawn[:, 2:], 0.35 * brightness, atol=1)


def test_colours_are_shares_of_the_whole_map_also_where_its_peak_is_not_on_the_image() -> None:
    image, values = np.full((224, 448, 3), 100, np.uint8), np.full((8, 8), 2.0, np.float32)
    values[0] = 4.0  # in the padding
    drawn = overlay(values, "heat", image, Fit(224, 224, "pad"))
    expected = 0.45 * 100 + 0.55 * coloured(np.array([0.5]))[0]
    np.testing.assert_allclose(drawn[100:200], np.broadcast_to(expected, (100, 448, 3)), atol=1.5)


def test_an_overlay_has_the_resolution_of_its_image_and_is_hot_where_the_map_is() -> None:
    image = np.full((300, 400, 3), 120, np.uint8)
    values = np.zeros((7, 7), np.float32)
    values[5, 1] = 3.0
    drawn = overlay(values, "heat", image, Fit(224, 224, "stretch"))
    assert drawn.shape == image.shape
    light = cv2.cvtColor(drawn, cv2.COLOR_RGB2GRAY)
    y, x = np.unravel_index(light.argmax(), light.shape)
    assert abs(y - 5.5 / 7 * 300) < 6 and abs(x - 1.5 / 7 * 400) < 6
    small = overlay(values, "heat", image[:32, :32], Fit(224, 224, "stretch"))
    assert small.shape == (224, 224, 3)  # seven times
    cropped = overlay(values, "heat", image, Fit(224, 224, "crop"))
    assert cropped[:, :40].max() < cropped[:, 60:340].min()  # dark where the network saw nothing


def test_pictures_with_words_keep_the_pixels_they_are_about() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    drawn = pictures.captioned(image, "a very long name of a class that cannot fit on such a small picture", 0.5)
    assert (drawn[-60:, :80] == image).all() and drawn.shape[1] > 80
    panels = [pictures.Panel("one", image), pictures.Panel("two", image)]
    row = pictures.side_by_side(panels, "cat 99%")
    assert (row[-60:, :80] == image).all() and (row[-60:, 86:166] == image).all()
    page = pictures.together([pictures.tile(panels, str(n)) for n in range(5)], ["one", "two"])
    assert 0.3 < page.shape[0] / page.shape[1] < 3
    scale = drawn[-60:, 80:].astype(int).sum(axis=-1)[:, 10]
    assert scale[0] > scale[30] > scale[-1]  # the peak is above


def test_a_row_has_the_scales_of_the_maps_that_are_in_it_and_of_no_others() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    rows = {
        kinds: pictures.side_by_side([pictures.Panel("map", image, draws) for draws in kinds], "")[-60:, 86 * len(kinds) :]
        for kinds in (("",), ("colours", ""), ("heat", "heat"), ("signed",), ("heat", "signed"))
    }
    assert rows[("",)].size == rows[("colours", "")].size == 0
    heat, opposed = rows[("heat", "heat")].astype(int), rows[("signed",)].astype(int)
    assert heat[1, 10].sum() > heat[58, 10].sum()
    assert opposed[1, 10, 0] > opposed[1, 10, 2] and opposed[58, 10, 0] < opposed[58, 10, 2]  # orange for, blue against
    assert np.ptp(opposed[30, 10]) < 10  # grey at zero
    assert rows["heat", "signed"].shape[1] > heat.shape[1] + opposed.shape[1]


def test_no_tile_is_lost_in_a_mosaic_which_is_about_as_high_as_wide() -> None:
    for panels in (1, 6):
        shades = [pictures.Panel(str(n), np.full((160, 160, 3), 60 + 10 * n, np.uint8)) for n in range(13)]
        page = pictures.together([pictures.tile([shade] * panels, "") for shade in shades], ["one"] * panels)
        assert 0.4 < page.shape[0] / page.shape[1] < 2.5
        for n in range(13):
            assert (page == 60 + 10 * n).all(axis=-1).sum() >= panels * 160 * 160
