"""The smallest box with a share of the energy, held against every box there is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recfield.effective import smallest_box


def every_box(energy: Any, share: Any, around: Any) -> Any:
    """The answer by trying all boxes; energies are whole numbers, so sums are exact."""
    height, width = energy.shape
    row, col = around
    best = None
    for y1, x1 in np.ndindex(height, width):
        for y2, x2 in ((y1 + 1 + y, x1 + 1 + x) for y, x in np.ndindex(height - y1, width - x1)):
            inside = (row is None or y1 <= row < y2) and (col is None or x1 <= col < x2)
            held = energy[y1:y2, x1:x2].sum()
            if inside and held >= share * energy.sum():
                rank = ((y2 - y1) * (x2 - x1), -held, y2 - y1, y1, x1)
                if best is None or rank < best[0]:
                    best = rank, (y1, x1, y2, x2)
    return best[1]


def test_it_is_the_best_of_all_boxes() -> None:
    random = np.random.default_rng(0)
    for _ in range(150):
        height, width = (int(size) for size in random.integers(1, 8, 2))
        energy = random.integers(0, 6, (height, width)) * (random.random((height, width)) < random.random())
        energy[random.integers(height), random.integers(width)] += 1
        around = tuple(int(random.integers(size)) if random.random() < 0.6 else None for size in (height, width))
        share = float(random.choice([0.5, 0.75, 0.95, 1.0]))
        assert smallest_box(energy.astype(float), share, around) == every_box(energy, share, around), (energy, share, around)


def test_it_holds_the_share_and_no_border_row_or_column_can_go() -> None:
    random = np.random.default_rng(1)
    y, x = np.mgrid[:96, :128]
    for spread in (2, 8, 30):
        energy = np.exp(-((y - 40) ** 2 + (x - 70) ** 2) / (2 * spread**2)) * random.random((96, 128))
        y1, x1, y2, x2 = smallest_box(energy, 0.95)  # type: ignore[misc]
        least = 0.95 * energy.sum()
        assert energy[y1:y2, x1:x2].sum() >= least * (1 - 1e-12)
        for smaller in (
            energy[y1 + 1 : y2, x1:x2],
            energy[y1 : y2 - 1, x1:x2],
            energy[y1:y2, x1 + 1 : x2],
            energy[y1:y2, x1 : x2 - 1],
        ):
            assert smaller.sum() < least
        assert 2 * spread < y2 - y1 < 6 * spread and 2 * spread < x2 - x1 < 6 * spread


def test_a_box_around_a_pixel_reaches_from_it_to_the_energy() -> None:
    energy = np.zeros((9, 9))
    energy[2, 3] = 1
    assert smallest_box(energy) == (2, 3, 3, 4)
    assert smallest_box(energy, around=(5, 5)) == (2, 3, 6, 6)
    assert smallest_box(energy, around=(5, None)) == (2, 3, 6, 4)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_without_a_finite_energy_there_is_no_box(value: Any) -> None:
    energy = np.zeros((4, 5))
    energy[1, 1] = value
    assert smallest_box(energy) is None
