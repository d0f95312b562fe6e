"""Plots: their lines have room, however many methods a check compares."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.drawing.pixels import decode_png
from pipeline.drawing.plots import curves, similarities


def checks(methods: int) -> dict[str, list[Any]]:
    rows = [
        {
            "method": f"lrp_epsilon_plus_flat_{method}",
            "layer": "block_13_expand_relu",
            "step": step,
            "share": step / 2,
            "kind": kind,
        }
        | {"value": 0.3 + step / 10, "probability": 0.5, "rank_correlation": 0.5 - step / 10, "ssim": 0.4}
        for method in range(methods)
        for kind in ("deletion", "insertion")
        for step in range(3)
    ]
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.mark.parametrize("draw", [curves, similarities])
def test_the_names_of_many_methods_make_the_picture_higher_and_not_its_axes_smaller(draw: Any) -> None:
    few, many = (decode_png(draw(checks(methods))) for methods in (3, 28))  # axes without room are a warning, and so an error
    assert many.shape[0] > 1.4 * few.shape[0] and many.shape[1] == few.shape[1]
