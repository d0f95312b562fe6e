"""Names in mosaics: below the numbers, again and again the same, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.drawing.pixels import decode_png
from pipeline.drawing.text import wrapped
from pipeline.patches import PatchOptions, Winners, write_patches
from pipeline.patches.mosaics import FOLDER, name_mosaics
from pipeline.sources.fit import Fit
from pipeline.store.tables import read_index

FIT = Fit(16, 16, "stretch")
CHANNELS = 70  # several pages
NAMES = {channel: ("", "", channel % 7 == 0) for channel in range(CHANNELS)} | {
    0: ("musical instrument", "iou 0.2", True),
    5: ("a name that is far too long for a row, whatever is done about it", "iou 0.3", False),
}


def mosaics(folder: Any) -> dict[str, Any]:
    return {path.name: decode_png(path.read_bytes()).astype(int) for path in sorted((folder / FOLDER).iterdir())}


@pytest.fixture
def folder(in_memory: Any, tmp_path: Any) -> Any:
    """The folder with the mosaics of 70 channels with two winners each, whose rows have room for names."""
    images = np.broadcast_to(np.arange(5, dtype=np.uint8)[:, None, None, None] * 50, (5, 40, 40, 3)).copy()
    numbers = np.arange(CHANNELS * 2).reshape(CHANNELS, 2)
    zeros = np.zeros((CHANNELS, 2), np.int32)
    boxes = np.tile(np.array([2, 2, 10, 10], np.int32), (CHANNELS, 2, 1))
    scores, extents = np.ones((CHANNELS, 2), np.float32), np.full((CHANNELS, 2), 8, np.int32)
    winners = Winners("conv", np.arange(CHANNELS), scores, numbers % 5, zeros, zeros, boxes, extents)
    write_patches([winners], in_memory(images, fit=FIT), tmp_path, PatchOptions(FIT, named=True))
    return tmp_path


def test_names_stand_left_of_the_tiles_and_give_way_to_others_and_nothing_else_changes(folder: Any) -> None:
    rows = read_index(folder, "mosaics")
    before = mosaics(folder)
    name_mosaics(folder, "conv", 2, rows, NAMES)
    after = mosaics(folder)
    assert sorted(before) == sorted(after) == ["conv-crop.png", "conv-full.png", "conv.jpg"]
    changed = np.abs(after["conv-crop.png"] - before["conv-crop.png"]).max(axis=2) > 60
    for place in rows.to_pylist():
        y, x = place["y"], place["x"]
        assert changed[y : y + 100, x - 130 : x - 4].any() == bool(NAMES[place["channel"]][0]), place["channel"]
        assert not changed[y : y + 100, x : x + 2 * place["step_x"]].any()
    for name in ("conv-full.png", "conv.jpg"):
        assert (np.abs(after[name] - before[name]).max(axis=2) > 60).any()
    name_mosaics(folder, "conv", 2, rows, {channel: ("", "", marked) for channel, (_, _, marked) in NAMES.items()})
    again = mosaics(folder)
    assert all(np.array_equal(again[name], before[name]) for name in ("conv-crop.png", "conv-full.png"))
    assert np.abs(again["conv.jpg"] - before["conv.jpg"]).mean() < 0.5


def test_words_are_broken_between_lines_and_cut_where_there_are_no_more() -> None:
    assert wrapped("musical instrument", 90, 15, 2, "label") == ["musical", "instrument"]
    assert wrapped("dog", 90, 15, 2, "label") == ["dog"]
    lines = wrapped("a very long name of many words", 70, 15, 2, "label")
    assert len(lines) == 2 and lines[1].endswith("…")
