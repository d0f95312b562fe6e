"""The sheets of patterns: how strongly each picture and each patch fires stands below it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.drawing.pixels import decode_png, encode_png
from pipeline.dream import channel
from pipeline.patterns.contact_sheet import Found, Made, draw_sheet
from pipeline.patterns.plan import Pattern, Sheet

GREY = np.full((32, 32, 3), 128, np.uint8)
FOUND = Found({0: [7.0, 5.0], 1: [9.0]}, {0: [encode_png(GREY)] * 2, 1: [encode_png(GREY)]})


def made(number, reached, state="done"):
    pattern = Pattern(channel("edges", number), 1, 0, "edges", number)
    return Made(pattern, GREY, np.ones(3, np.float32), 1, state, reached)


def drawn(folder, pictures, found=FOUND):
    """The mosaic of patterns alone, and that with what was found."""
    draw_sheet(folder, Sheet("edges", tuple(one.pattern for one in pictures)), pictures, found)
    return [decode_png((folder / f"edges{suffix}.png").read_bytes()) for suffix in ("", "-found")]


def changed(before, after):
    """The smallest box around all that differs: y1, x1, y2, x2; none where nothing does."""
    rows, cols = np.nonzero((before != after).any(axis=2))
    return (rows.min(), cols.min(), rows.max() + 1, cols.max() + 1) if len(rows) else None


def test_what_a_pattern_reached_stands_below_it_alone_and_beside_the_patches(tmp_path):
    before = drawn(tmp_path, [made(0, 12.5), made(1, 3.0)])
    after = drawn(tmp_path, [made(0, 18.5), made(1, 3.0)])
    for one, other in zip(before, after, strict=True):
        y1, x1, y2, x2 = changed(one, other)
        assert y1 > 128 and y2 <= 2 + 128 + 14 + 2 and x2 - x1 < 128


def test_the_score_of_a_patch_stands_below_it_in_the_order_of_strength(tmp_path):
    pictures = [made(0, 12.5), made(1, 3.0)]
    _, before = drawn(tmp_path, pictures)
    boxes = []
    for scores in ([8.0, 5.0], [7.0, 6.0]):
        _, after = drawn(tmp_path, pictures, replace(FOUND, scores=FOUND.scores | {0: scores}))
        boxes.append(changed(before, after))
    (_, first, _, end), (_, second, _, _) = boxes
    assert first < end < second


def test_a_dead_pattern_says_so_where_others_say_what_they_reached(tmp_path):
    silent, dead = drawn(tmp_path, [made(0, 0.0)])[0], drawn(tmp_path, [made(0, 0.0, "dead")])[0]
    assert changed(silent, dead) and made(0, 0.0, "dead").caption == "dead"


@pytest.mark.parametrize(("reached", "told"), [(12345.6, "12,346"), (99.94, "99.9"), (0.01234, "0.0123"), (-250.4, "-250")])
def test_numbers_have_three_digits_or_all_before_the_point(reached, told):
    assert made(0, reached).caption == told
