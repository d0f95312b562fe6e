"""The contact sheets of patterns: how strongly each picture and each patch fires stands below it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.ascent.objectives import channel
from pipeline.drawing.pixels import decode_png, encode_png
from pipeline.patterns.contact_sheet import caption, draw_sheet
from pipeline.patterns.plan import Pattern, PatternSheet
from pipeline.patterns.results import PatternResult, StrongestPatches

GREY = np.full((32, 32, 3), 128, np.uint8)
PATCHES = StrongestPatches({0: [7.0, 5.0], 1: [9.0]}, {0: [encode_png(GREY)] * 2, 1: [encode_png(GREY)]})


def result(number: Any, reached: Any, state: Any = "done") -> Any:
    pattern = Pattern(channel("edges", number), 1, 0, "edges", number)
    return PatternResult(pattern, GREY, np.ones(3, np.float32), 1, state, reached)


def drawn(folder: Any, pictures: Any, patches: Any = PATCHES) -> Any:
    """The mosaic of patterns alone, and that beside the patches."""
    draw_sheet(folder, PatternSheet("edges", tuple(picture.pattern for picture in pictures)), pictures, patches)
    return [decode_png((folder / f"edges{suffix}.png").read_bytes()) for suffix in ("", "-found")]


def changed(before: Any, after: Any) -> Any:
    """The smallest box around all that differs: y1, x1, y2, x2; none where nothing does."""
    rows, cols = np.nonzero((before != after).any(axis=2))
    return (rows.min(), cols.min(), rows.max() + 1, cols.max() + 1) if len(rows) else None


def test_what_a_pattern_reached_stands_below_it_alone_and_beside_the_patches(tmp_path: Path) -> None:
    before = drawn(tmp_path, [result(0, 12.5), result(1, 3.0)])
    after = drawn(tmp_path, [result(0, 18.5), result(1, 3.0)])
    for sheet, other in zip(before, after, strict=True):
        y1, x1, y2, x2 = changed(sheet, other)
        assert y1 > 128 and y2 <= 2 + 128 + 14 + 2 and x2 - x1 < 128


def test_the_score_of_a_patch_stands_below_it_in_the_order_of_strength(tmp_path: Path) -> None:
    pictures = [result(0, 12.5), result(1, 3.0)]
    _, before = drawn(tmp_path, pictures)
    boxes = []
    for scores in ([8.0, 5.0], [7.0, 6.0]):
        _, after = drawn(tmp_path, pictures, replace(PATCHES, scores=PATCHES.scores | {0: scores}))
        boxes.append(changed(before, after))
    (_, first, _, end), (_, second, _, _) = boxes
    assert first < end < second


def test_a_dead_pattern_says_so_where_others_say_what_they_reached(tmp_path: Path) -> None:
    silent, dead = drawn(tmp_path, [result(0, 0.0)])[0], drawn(tmp_path, [result(0, 0.0, "dead")])[0]
    assert changed(silent, dead) and caption(result(0, 0.0, "dead")) == "dead"


@pytest.mark.parametrize(("reached", "text"), [(12345.6, "12,346"), (99.94, "99.9"), (0.01234, "0.0123"), (-250.4, "-250")])
def test_numbers_have_three_digits_or_all_before_the_point(reached: Any, text: Any) -> None:
    assert caption(result(0, reached)) == text
