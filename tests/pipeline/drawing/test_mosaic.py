"""Mosaics: where tiles lie, what stands beside them, and how large the picture grows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.drawing.mosaic import MosaicLayout, centre_tile, draw_mosaic, fit_tile
from pipeline.drawing.palettes import GROUND
from pipeline.drawing.pixels import resize

SIZES = st.tuples(st.integers(8, 40), st.integers(8, 40))


@st.composite
def layouts(draw: Any, most: Any = 15) -> Any:
    groups = draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    tiles = draw(st.lists(SIZES, min_size=len(groups), max_size=len(groups)))
    count = draw(st.integers(1, most))
    return MosaicLayout.of(count, groups, tiles, draw(st.sampled_from([0, 9, 2999, 123456])))


def drawn(layout: Any, tile: Any = lambda row, group, place: None, numbers: Any = None) -> Any:
    return draw_mosaic(layout, range(layout.count) if numbers is None else numbers, tile)


def colour(row: Any, group: Any, place: Any) -> Any:
    """One for each tile, none of them the ground's or the text's."""
    return np.array([100 + row % 50, 100 + row // 50, 10 * group + place + 1], np.uint8)


@settings(deadline=None, max_examples=50)
@given(layouts())
def test_tiles_never_overlap_and_lie_in_the_row_that_corner_names(layout: Any) -> None:
    picture = drawn(layout, lambda *at: np.broadcast_to(colour(*at), (*layout.tile[at[1]], 3)))
    assert picture.shape == (*layout.size, 3) and picture.dtype == np.uint8
    for row in range(layout.count):
        top, left = layout.corner(row)
        right = left + layout.label
        strip = picture[top : top + layout.row_height]
        for group, (count, (height, width)) in enumerate(zip(layout.groups, layout.tile, strict=True)):
            for place in range(count):
                rows, cols = np.nonzero((strip == colour(row, group, place)).all(axis=2))
                # Whole, in one piece, at the top of its row and beyond what stands before it.
                assert (rows.min(), rows.max() + 1, len(rows)) == (0, height, height * width)
                assert right <= cols.min() and cols.max() + 1 == cols.min() + width
                right = cols.max() + 1
        assert right <= left + layout.row_width and right <= layout.size[1]


@settings(deadline=None)
@given(layouts(most=3000))
def test_rows_never_overlap_nor_leave_the_picture(layout: Any) -> None:
    corners = [layout.corner(row) for row in range(layout.count)]
    assert len(set(corners)) == layout.count
    for y, x in corners:
        assert y + layout.row_height <= layout.size[0] and x + layout.row_width <= layout.size[1]
        assert (y - corners[0][0]) % layout.row_height == 0 and (x - corners[0][1]) % layout.row_width == 0


def test_the_channels_numbers_stand_beside_their_rows() -> None:
    layout = MosaicLayout.of(4, [2], [(32, 32)], 2999)
    numbers = [1, 2, 1, 2999]
    picture = drawn(layout, numbers=numbers)
    written = []
    for row in range(4):
        y, x = layout.corner(row)
        beside = picture[y : y + layout.row_height, x : x + layout.label]
        assert (beside != GROUND).any()
        written.append(beside.tobytes())
        # No digit is cut off at the left or runs into the tiles.
        assert (beside[:, 0] == GROUND).all() and (beside[:, -1] == GROUND).all()
    assert written[0] == written[2] != written[1] != written[3]
    assert (drawn(layout, numbers=[7] * 4) != picture).any()


@pytest.mark.parametrize("largest", [0, 99, 4095, 99999])
def test_the_longest_number_fits_beside_its_row(largest: Any) -> None:
    layout = MosaicLayout.of(1, [1], [(32, 32)], largest)
    y, x = layout.corner(0)
    beside = drawn(layout, numbers=[largest])[y : y + layout.row_height, : x + layout.label]
    _, cols = np.nonzero((beside != GROUND).any(axis=2))
    assert cols.min() >= x and cols.max() < x + layout.label


def test_numbers_are_drawn_on_a_dark_background() -> None:
    picture = drawn(MosaicLayout.of(1, [1], [(32, 32)], 5), numbers=[5])
    assert max(GROUND) < 64 and picture.max() > 200
    assert (picture[0] == GROUND).all() and (picture[:, 0] == GROUND).all()


def test_one_row_is_one_row() -> None:
    layout = MosaicLayout.of(1, [9], [(96, 96)], 0)
    assert layout.columns == 1 and layout.tile == ((96, 96),)
    assert layout.size[0] < 2 * 96 and layout.size[1] > 9 * 96


def test_few_rows_keep_their_tiles_size_and_stand_about_as_high_as_wide() -> None:
    layout = MosaicLayout.of(64, [5, 5], [(95, 95), (96, 96)], 63)
    assert layout.tile == ((95, 95), (96, 96)) or layout.tile[0][0] >= 40
    height, width = layout.size
    assert 0.4 < height / width < 2.5


def test_tiles_of_3000_rows_shrink_and_stay_readable_in_a_picture_that_viewers_open() -> None:
    layout = MosaicLayout.of(3000, [9, 9], [(96, 48), (96, 96)], 2999)
    (high, wide), square = layout.tile
    assert square[0] == square[1] < 96 and high == square[0] and abs(high - 2 * wide) <= 1
    assert square[0] >= 16
    height, width = layout.size
    assert 0.4 < height / width < 2.5 and max(height, width) < 65_500  # what JPEG and most viewers take
    assert len({layout.corner(row) for row in range(3000)}) == 3000


def test_the_picture_stays_small_while_tiles_can_shrink() -> None:
    whole, small = (MosaicLayout.of(count, [9], [(96, 96)], 500) for count in (20, 400))
    assert whole.tile == ((96, 96),) and small.tile[0][0] < 96
    assert np.prod(small.size) <= 24_000_000


def test_an_empty_tile_differs_from_the_background() -> None:
    layout = MosaicLayout.of(1, [2], [(32, 32)], 0)
    y, x = layout.corner(0)
    empty = drawn(layout)[y : y + 32, x + layout.label : x + layout.label + 32]
    assert (empty == empty[0, 0]).all() and tuple(empty[0, 0]) != GROUND


def test_a_patch_smaller_than_its_tile_is_placed_at_its_offset_and_the_rest_is_empty() -> None:
    patch = np.full((4, 2, 3), 200, np.uint8)
    tile = fit_tile(patch, (0.5, 0.0, 1.0, 0.25), (80, 40))
    filled = (tile == 200).all(axis=2)
    assert filled[40:, :10].all() and filled.sum() == 40 * 10


def test_the_smallest_patch_still_takes_a_pixel() -> None:
    tile = fit_tile(np.full((1, 1, 3), 200, np.uint8), (1.0, 0.999, 1.0, 1.0), (8, 8))
    assert (tile == 200).all(axis=2).sum() == 1


def test_pixels_stay_squares_where_a_patch_grows_much() -> None:
    patch = np.random.default_rng(0).integers(0, 256, (3, 3, 3), np.uint8)
    np.testing.assert_array_equal(resize(patch, 12, 12), patch.repeat(4, axis=0).repeat(4, axis=1))


def test_shrinking_averages() -> None:
    board = np.tile(np.array([[0, 255], [255, 0]], np.uint8), (8, 8))[..., None].repeat(3, axis=2)
    assert np.abs(resize(board, 4, 4).astype(int) - 128).max() <= 1


# What stands below tiles.


def captioned(text: Any, width: Any = 96) -> Any:
    """The strip below a tile of some width with a line of text."""
    layout = MosaicLayout.of(1, [1], [(width, width)], 0, captioned=True)
    picture = draw_mosaic(layout, [0], lambda *at: None, lambda *at: text)
    y, x = layout.corner(0)
    strip = picture[y + width : y + width + layout.caption, x + layout.label : x + layout.label + width]
    assert (np.delete(picture, np.s_[y : y + layout.row_height], axis=0) == GROUND).all()
    return strip


def test_a_caption_stands_below_its_tile_in_the_middle() -> None:
    columns = np.nonzero(captioned("cat").max(axis=(0, 2)) > 150)[0]
    assert abs((columns.min() + columns.max()) / 2 - 48) <= 2 and 8 <= len(columns) <= 40
    assert not (captioned("") > max(GROUND)).any()


def test_a_caption_that_is_too_long_ends_in_an_ellipsis_and_never_leaves_its_tile() -> None:
    long, longer = captioned("a" * 100), captioned("a" * 200)
    assert np.array_equal(long, longer) and not np.array_equal(long, captioned("a" * 12))
    assert np.array_equal(captioned("German  shorthaired\npointer", 200), captioned("German shorthaired pointer", 200))
    assert captioned("a" * 100).shape[1] == 96


def test_captions_have_the_accents_of_their_language() -> None:
    assert len({captioned(text).tobytes() for text in ("Müller", "Muller", "M?ller", "M\ufffdller")}) == 4


def test_tiles_that_are_too_narrow_for_words_have_no_captions() -> None:
    assert MosaicLayout.of(1, [1], [(40, 40)], 0, captioned=True).caption == 0
    assert MosaicLayout.of(1, [1], [(96, 96)], 0, captioned=True).caption > 0
    assert MosaicLayout.of(1, [1], [(96, 96)], 0).caption == 0
    many = MosaicLayout.of(3000, [9], [(96, 96)], 2999, captioned=True)
    assert many.caption == 0 and many.size == MosaicLayout.of(3000, [9], [(96, 96)], 2999).size


@pytest.mark.parametrize(("shape", "top", "left"), [((20, 40), 24, 0), ((40, 20), 0, 24), ((96, 96), 0, 0)])
def test_a_patch_stands_in_the_middle_of_its_tile_as_large_as_it_can_be(shape: Any, top: Any, left: Any) -> None:
    tile = centre_tile(np.full((*shape, 3), 200, np.uint8), (96, 96))
    filled = (tile == 200).all(axis=2)
    assert filled[top : 96 - top, left : 96 - left].all() and filled.sum() == (96 - 2 * top) * (96 - 2 * left)
