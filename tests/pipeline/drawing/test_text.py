"""Text: it stays where it belongs, and says with an ellipsis what it leaves out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.drawing.palettes import GROUND
from pipeline.drawing.text import Note, caption, cut_text, font, inscribe, text_length, write, written_size


def ground(height: Any, width: Any) -> Any:
    return np.full((height, width, 3), GROUND, np.uint8)


def inked(pixels: Any) -> Any:
    """Rows and columns of the pixels that are not the ground's."""
    return np.nonzero((pixels != GROUND).any(axis=2))


@settings(deadline=None, max_examples=50)
@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "Zs")), max_size=40), st.integers(0, 200))
def test_a_cut_text_fits_and_is_the_whole_text_or_its_beginning_with_an_ellipsis(text: Any, width: Any) -> None:
    cut, whole = cut_text(text, width, 10, "label"), " ".join(text.split())
    assert font(10, "label").getlength(cut) <= width or not cut
    assert cut == whole or cut == "" or (cut.endswith("…") and whole.startswith(cut[:-1]))


@pytest.mark.parametrize("text", ["Übergröße", "Ελλάδα", "кошка"])
def test_captions_have_letters_that_are_not_ascii(text: Any) -> None:
    strip, boxes = ground(14, 90), ground(14, 90)
    caption(strip, text)
    caption(boxes, "\ufffe" * len(text))
    assert len(inked(strip)[0]) > 20 and (strip != boxes).any()


def test_a_caption_stands_in_the_middle() -> None:
    strip = ground(14, 101)
    caption(strip, "ox")
    _, cols = inked(strip)
    assert abs(cols.min() - (100 - cols.max())) <= 3


@pytest.mark.parametrize(("anchor", "left", "right"), [("lm", 50, 99), ("rm", 0, 50), ("mm", 25, 75)])
def test_a_note_stands_where_its_anchor_says(anchor: Any, left: Any, right: Any) -> None:
    _, cols = inked(inscribe(ground(20, 100), [Note(10, 50, "oxo", anchor)]))
    assert left <= cols.min() and cols.max() <= right


def test_a_turned_note_runs_upwards_from_its_end() -> None:
    rows, cols = inked(inscribe(ground(80, 40), [Note(60, 20, "1234", "mb", upright=False)]))
    assert rows.max() <= 60 and rows.max() - rows.min() > cols.max() - cols.min() and abs(cols.mean() - 20) < 4


def test_lengths_are_what_is_drawn() -> None:
    for text in ("i", "channel 4095"):
        _, cols = inked(inscribe(ground(30, 300), [Note(15, 0, text, "lm", 16)]))
        assert abs(cols.max() + 1 - text_length(text, 16)) <= 3
        picture = ground(40, 300)
        write(picture, text, (30, 0), 0.5)
        assert abs(inked(picture)[1].max() + 1 - written_size(text, 0.5)[1]) <= 3
