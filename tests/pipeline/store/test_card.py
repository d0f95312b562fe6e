"""The card beside the crops: `datasets` finds every layer by it."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.drawing.pixels import encode_png
from pipeline.store.card import write_card
from pipeline.store.files import file_name
from pipeline.store.tables import CROPS, write_crops

LAYERS = ["conv1", 'block/a\'b: "c" #1']


@pytest.mark.parametrize("layer", LAYERS)
def test_hugging_face_datasets_opens_every_layer_with_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layer: Any
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for number, name in enumerate(LAYERS):
        pixels = np.full((5, 7, 3), (number, 20, 30), np.uint8)
        row = {"image": {"bytes": encode_png(pixels), "path": "x.png"}, "layer": name, "channel": 3, "rank": 0, "score": 1.5}
        row |= {"example": 4, "key": "k", "label": None}
        rows = {field.name: [row.get(field.name)] for field in CROPS}
        write_crops(tmp_path / "crops" / f"{file_name(name)}.parquet", [rows])
    write_card(tmp_path, "job", LAYERS)
    actual = datasets.load_dataset(str(tmp_path / "crops"), file_name(layer), split="train", cache_dir=str(tmp_path / "cache"))
    assert actual["layer"] == [layer]
    assert actual[0]["image"].size == (7, 5) and actual[0]["image"].getpixel((0, 0)) == (LAYERS.index(layer), 20, 30)
    assert datasets.get_dataset_config_names(str(tmp_path / "crops")) == [file_name(name) for name in LAYERS]


def test_a_job_without_layers_has_a_card_too(tmp_path: Path) -> None:
    write_card(tmp_path, "job", [])
    assert "configs: []" in (tmp_path / "crops" / "README.md").read_text()


@pytest.mark.parametrize(
    "layer",
    [
        "a | b",
        "a` <script>alert(1)</script>",
        "a\n\n# Title\n",
        "[x](http://host)",
        "=cmd()",
        "![](http://host/x.png)",
        "a\u2028b",
    ],
)
def test_no_name_of_a_layer_writes_markdown_of_its_own(tmp_path: Path, layer: str) -> None:
    write_card(tmp_path, "job", ["conv1", layer])
    text = (tmp_path / "crops" / "README.md").read_text()
    row = text.splitlines()[-1]
    assert row.count("|") == 3 and row.count("`") == 2 and "| `conv1` |" in text
    shown = row.split("|")[2].strip()
    assert shown.startswith("<code>") and html.unescape(shown[6:-7]) == layer
    assert not set("<>[]()`!\n") & set(shown[6:-7])
