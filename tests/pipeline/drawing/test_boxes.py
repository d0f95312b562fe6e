"""Boxes drawn over pictures: just inside their pixels, and seen on any colour."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.drawing.boxes import cross_out, outline
from pipeline.geometry import Box

CYAN = (0, 225, 255)


@pytest.mark.parametrize("shade", [0, 90, 255])
def test_an_outline_lies_inside_its_box_with_dark_on_both_sides(shade: Any) -> None:
    pixels = np.full((40, 50, 3), shade, np.uint8)
    outline(pixels, Box(10, 12, 30, 40), CYAN)
    rows, cols = np.nonzero((pixels == CYAN).all(axis=2))
    assert 9 <= rows.min() <= 10 and 11 <= cols.min() <= 12 and 29 <= rows.max() <= 30 and 39 <= cols.max() <= 40
    assert not pixels[8, 20].any() or shade == 0
    assert (pixels[20, 25] == shade).all() and (pixels[0, 0] == shade).all()


def test_a_dashed_outline_has_gaps_and_an_empty_box_no_line() -> None:
    whole, dashed = (np.zeros((60, 60, 3), np.uint8) for _ in range(2))
    outline(whole, Box(5, 5, 55, 55), CYAN)
    outline(dashed, Box(5, 5, 55, 55), CYAN, dashed=True)
    share = (dashed == CYAN).all(axis=2).sum() / (whole == CYAN).all(axis=2).sum()
    assert 0.3 < share < 0.7
    outline(whole, Box(5, 5, 5, 50), (255, 0, 0))
    assert not (whole == (255, 0, 0)).all(axis=2).any()


def test_a_cross_reaches_from_corner_to_corner_of_a_part_of_a_picture() -> None:
    pixels = np.zeros((30, 30, 3), np.uint8)
    cross_out(pixels[5:15, 5:25])
    rows, cols = np.nonzero(pixels.any(axis=2))
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (5, 14, 5, 24)
    assert pixels[5, 5].any() and pixels[14, 24].any() and pixels[14, 5].any() and pixels[5, 24].any()
