"""The exhibition: below each dream stands what it is of."""

from __future__ import annotations

import numpy as np

from pipeline.drawing.pixels import decode_png
from pipeline.dream import layer, logit
from pipeline.dream.contact_sheet import Shown, draw_exhibition
from pipeline.dream.plan import Subject
from pipeline.dream.runner import Made

GREY = np.full((100, 100, 3), 128, np.uint8)


def sheet(folder, key, number=None, picture=GREY):
    """The sheet of one dream, as pixels."""
    subject = Subject("one", key, layer("edges") if number is None else logit(number), number)
    made = Made(subject, 0, picture, picture, 1, np.ones(4, np.float32), "done", 0.0, 1.0, None)
    draw_exhibition(folder, [Shown(made, "one.png", picture.shape[:2], (picture, picture))])
    return decode_png((folder / f"{'+pictures' if number is None else '+classes'}.png").read_bytes())


def test_the_name_of_a_class_stands_below_it(tmp_path):
    differ = (sheet(tmp_path, "goldfinch", 11) != sheet(tmp_path, "hook/claw", 11)).any(axis=2)
    assert differ.any() and not differ[: 2 + 100].any()
    assert (sheet(tmp_path, "hook/claw", 11) != sheet(tmp_path, "claw", 11)).any()


def test_a_class_without_a_name_has_its_number_at_the_side_alone(tmp_path):
    picture = sheet(tmp_path, "11", 11)
    assert (picture[2 + 100 :] == picture[-1, -1]).all()


def test_the_file_of_a_picture_stands_below_it_without_its_folder(tmp_path):
    first, second = sheet(tmp_path, "one/cat.png"), sheet(tmp_path, "one/dog.png")
    differ = (first != second).any(axis=2)
    assert differ.any() and not differ[: 2 + 100].any() and not differ[:, 150:].any()  # below the first of its two tiles
    assert (sheet(tmp_path, "two/cat.png") == first).all()


def test_a_low_wide_picture_takes_no_more_room_than_it_needs(tmp_path):
    tall, low = sheet(tmp_path, "cat.png"), sheet(tmp_path, "cat.png", picture=GREY[:40])
    assert (low.shape[0], low.shape[1]) == (tall.shape[0] - 60, tall.shape[1])
