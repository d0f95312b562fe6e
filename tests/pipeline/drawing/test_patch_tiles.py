"""Tiles: filled where that distorts nothing, boxes where they lie, light where a map is high."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.drawing.tiles import fill_tile, fit_whole, light, outline_on
from pipeline.geometry import Box

EMPTY = (44, 47, 53)


@pytest.mark.parametrize("shape", [(200, 50), (50, 200), (1, 300), (7, 7)])
def test_a_whole_image_keeps_its_shape_and_the_box_lies_inside_its_tile(shape: tuple[int, int]) -> None:
    small = fit_whole(np.full((*shape, 3), 90, np.uint8), (96, 96))
    outline_on(small, Box.whole(*shape), *shape)
    assert small.shape == (96, 96, 3)
    outlined = (small == (255, 220, 0)).all(axis=2)
    for places, length in zip(np.nonzero(outlined), shape, strict=True):
        around = (places.min() + places.max() + 1) / 2
        # About the middle, along the whole image, and wide enough to be seen where the image is not.
        assert abs(around - 48) <= 1
        assert abs(np.ptp(places) + 1 - max(5, length * 96 / max(shape))) <= 2


@pytest.mark.parametrize(("shape", "filled"), [((50, 50), True), ((50, 54), True), ((50, 80), False), ((80, 50), False)])
def test_a_patch_of_nearly_its_tiles_shape_fills_it_and_any_other_keeps_its_own(shape: tuple[int, int], filled: bool) -> None:
    tile = fill_tile(np.full((*shape, 3), 200, np.uint8), (40, 40))
    assert bool((tile == 200).all()) == filled
    assert filled or (tile[0, 0] == EMPTY).all()
    assert bool((fill_tile(np.full((*shape, 3), 200, np.uint8), (40, 40), fills=False) == 200).all()) == (shape == (50, 50))


def test_light_falls_where_the_map_is_high_and_not_on_what_the_network_was_not_shown() -> None:
    tile = np.full((40, 80, 3), 200, np.uint8)
    light(tile, np.array([[0, 255], [0, 255]], np.uint8), (0, 20, 40, 60))  # the network saw the middle
    assert (tile[:, 55:59] == 200).all() and (tile[:, 21:28] < 120).all()
    assert (tile[:, 61:] < 120).all() and (tile[:, :19] < 120).all()
    assert (np.diff(tile[20, 25:55, 0].astype(int)) >= 0).all()
