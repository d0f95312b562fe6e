"""Boxes: half-open, converted in one place, and cut as they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.geometry import EDGES, Box, grown

edges = st.tuples(*[st.integers(0, 9)] * 4)


@given(edges)
def test_a_box_survives_the_way_through_an_array_and_through_columns(values: Any) -> None:
    box = Box(*values)
    assert Box.of(np.array(values, np.int32)) == Box.of(list(values)) == box and box.edges == values
    columns = box.columns("src_")
    assert list(columns) == [f"src_{name}" for name in EDGES] and Box.of(columns.values()) == box
    assert all(type(edge) is int for edge in Box.of(np.array(values, np.int32)).edges)


@given(edges)
def test_a_box_cuts_the_pixels_whose_rows_and_columns_lie_inside(values: Any) -> None:
    box = Box(*values)
    rows, cols = np.mgrid[:9, :9]
    inside = (rows >= box.y1) & (rows < box.y2) & (cols >= box.x1) & (cols < box.x2)
    image = np.arange(81).reshape(9, 9)
    assert sorted(box.cut(image).ravel()) == sorted(image[inside])
    assert box.is_empty == (not inside.any())


@given(edges, st.integers(-9, 9), st.integers(-9, 9))
def test_a_shifted_box_keeps_its_size(values: Any, down: Any, right: Any) -> None:
    box = Box(*values)
    moved = box.shifted(down, right)
    assert (moved.height, moved.width) == (box.height, box.width) and (moved.y1 - box.y1, moved.x1 - box.x1) == (down, right)


def test_the_whole_of_an_image_is_a_box_of_its_size() -> None:
    assert Box.whole(3, 5).edges == (0, 0, 3, 5) and (Box.whole(3, 5).height, Box.whole(3, 5).width) == (3, 5)


@pytest.mark.parametrize(
    ("box", "least", "expected"),
    [
        ((4, 4, 6, 8), (2, 4), (4, 4, 6, 8)),  # large enough
        ((4, 4, 6, 8), (4, 6), (3, 3, 7, 9)),  # grown around its middle
        ((4, 4, 6, 8), (5, 5), (2, 3, 7, 8)),  # an odd pixel goes up and left
        ((0, 9, 2, 10), (6, 6), (0, 4, 6, 10)),  # moved in where it would reach over an edge
        ((4, 4, 6, 8), (99, 3), (0, 4, 10, 8)),  # no larger than the image
    ],
)
def test_boxes_grow_around_their_middle_and_stay_in_the_image(box: Any, least: Any, expected: Any) -> None:
    both = grown(np.array([box, (0, 0, 10, 10)]), np.array(least), (10, 10))
    assert both.tolist() == [list(expected), [0, 0, 10, 10]]
