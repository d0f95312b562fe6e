"""Strides of maps that were resized, from their boxes alone."""

from __future__ import annotations

import numpy as np
import pytest

from recfield import ReceptiveField


def _field(length: int, units: int, before: int, reach: int) -> ReceptiveField:
    """Units of a map of stride `before`, resized to `units`, that see `reach` pixels more on both sides; no probe is sent."""
    cells = length // before
    centre = (np.arange(units) + 0.5) * cells / units - 0.5
    low, high = (np.clip(cell, 0, cells - 1).astype(int) for cell in (np.floor(centre), np.floor(centre) + 1))
    first, last = np.maximum(low * before - reach, 0), np.minimum((high + 1) * before + reach, length)
    rows, cols = np.meshgrid(np.arange(units), np.arange(units), indexing="ij")
    boxes = np.stack([first[rows], first[cols], last[rows], last[cols]], -1).astype(np.int32)
    return ReceptiveField.of_boxes(boxes, (length, length), lambda: pytest.fail("no probe is needed"))


@pytest.mark.parametrize(
    ("length", "units", "before", "reach"),
    [(48, 31, 1, 1), (48, 31, 2, 1), (96, 64, 1, 1), (48, 96, 1, 1), (224, 100, 4, 3), (48, 24, 1, 1)],
)
def test_the_stride_of_a_resized_map_is_the_ratio_of_the_sizes(length: int, units: int, before: int, reach: int) -> None:
    assert _field(length, units, before, reach).stride == pytest.approx((length / units, length / units))


def test_the_stride_of_a_map_without_padding_is_the_step_between_boxes_and_not_the_ratio_of_the_sizes() -> None:
    first = np.arange(0, 62, 2)
    rows, cols = np.meshgrid(first, first, indexing="ij")
    boxes = np.stack([rows, cols, rows + 5, cols + 5], -1).astype(np.int32)
    assert ReceptiveField.of_boxes(boxes, (65, 65), lambda: pytest.fail("no probe is needed")).stride == (2, 2)
