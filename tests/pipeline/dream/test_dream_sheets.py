"""The contact sheets of dreams: below each stands its name, beside it what it started from; large pictures shrink."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.ascent.objectives import layer, logit
from pipeline.drawing.pixels import decode_png
from pipeline.dream.contact_sheet import draw_sheets, shrink_to_tile
from pipeline.dream.plan import Subject
from pipeline.dream.results import DreamResult, WrittenDream

GREY = np.full((100, 100, 3), 128, np.uint8)


PICTURE, CLASS = Subject("one", "one.png", layer("x")), Subject("class-0002", "2", logit(2), 2)


def written(subject: Any, small: Any, small_original: Any, frame: Any = 0) -> Any:
    result = DreamResult(subject, frame, small, small_original, 1, np.float32([1, 2]), "done", 0.0, 1.0, None)
    return WrittenDream(result, "a.png", small.shape[:2], small, small_original)


def sheet(folder: Any, key: Any, number: Any = None, picture: Any = GREY) -> Any:
    """The sheet of one dream, as pixels."""
    subject = Subject("one", key, layer("edges") if number is None else logit(number), number)
    draw_sheets(folder, [written(subject, picture, picture)])
    return decode_png((folder / f"{'+pictures' if number is None else '+classes'}.png").read_bytes())


def test_the_name_of_a_class_stands_below_it(tmp_path: Path) -> None:
    differ = (sheet(tmp_path, "goldfinch", 11) != sheet(tmp_path, "hook/claw", 11)).any(axis=2)
    assert differ.any() and not differ[: 2 + 100].any()
    assert (sheet(tmp_path, "hook/claw", 11) != sheet(tmp_path, "claw", 11)).any()


def test_a_class_without_a_name_has_its_number_at_the_side_alone(tmp_path: Path) -> None:
    picture = sheet(tmp_path, "11", 11)
    assert (picture[2 + 100 :] == picture[-1, -1]).all()


def test_the_file_of_a_picture_stands_below_it_without_its_folder(tmp_path: Path) -> None:
    first, second = sheet(tmp_path, "one/cat.png"), sheet(tmp_path, "one/dog.png")
    differ = (first != second).any(axis=2)
    assert differ.any() and not differ[: 2 + 100].any() and not differ[:, 150:].any()  # below the first of its two tiles
    assert (sheet(tmp_path, "two/cat.png") == first).all()


def test_a_low_wide_picture_takes_no_more_room_than_it_needs(tmp_path: Path) -> None:
    tall, low = sheet(tmp_path, "cat.png"), sheet(tmp_path, "cat.png", picture=GREY[:40])
    assert (low.shape[0], low.shape[1]) == (tall.shape[0] - 60, tall.shape[1])


def flat(shade: Any) -> Any:
    return np.full((20, 30, 3), shade, np.uint8)


def columns_of(path: Any, shade: Any) -> Any:
    return np.flatnonzero((decode_png(path.read_bytes()) == shade).all(axis=-1).any(axis=0))


def test_a_dream_stands_beside_what_it_started_from_and_a_class_alone(tmp_path: Path) -> None:
    dreams = [
        written(PICTURE, flat(201), flat(77)),
        written(PICTURE, flat(123), flat(124), 1),
        written(CLASS, flat(202), flat(78)),
    ]
    draw_sheets(tmp_path, dreams)
    pictures, classes = tmp_path / "+pictures.png", tmp_path / "+classes.png"
    assert 0 < columns_of(pictures, 77).max() < columns_of(pictures, 201).min()
    assert len(columns_of(classes, 202)) and not len(columns_of(classes, 78))
    assert not len(columns_of(pictures, 123))  # of a zoom, the first frame
    before = classes.read_bytes()
    draw_sheets(tmp_path, [written(Subject("class-0007", "7", logit(7), 7), flat(202), flat(78))])
    assert classes.read_bytes() != before  # it has another number
    assert {path.name for path in tmp_path.iterdir()} == {"+classes.png", "+classes-loss.png"}


def test_large_pictures_shrink_and_keep_their_proportions() -> None:
    assert shrink_to_tile(np.zeros((100, 640, 3), np.uint8)).shape == (50, 320, 3)
    assert shrink_to_tile(np.zeros((1, 6400, 3), np.uint8)).shape == (1, 320, 3)
    assert shrink_to_tile(np.zeros((10, 20, 3), np.uint8)).shape == (10, 20, 3)
