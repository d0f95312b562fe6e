"""Masks: every layout is read to the same numbers, and laid onto the network's input as its images are."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.concepts.colours import COLOURS, name_colours
from pipeline.concepts.masks import on_grid, open_masks
from pipeline.errors import MissingInput, UnusableData, WrongSpec
from pipeline.geometry import Box
from pipeline.sources.fit import Fit
from pipeline.sources.source import Image

NUMBERS = np.array([[0, 3, 3, 0], [7, 7, 3, 0]], np.uint8)
NAMES = "3 sky\n7\tgreen grass\n"
EXPECTED = [[0, 1, 1, 0], [2, 2, 1, 0]]


def image(key: str = "beach/a.jpg", height: int = 2, width: int = 4, region: Any = None) -> Image:
    return Image(key, None, np.zeros((height, width, 3), np.uint8), region or Box.whole(height, width))


def png(numbers: Any = NUMBERS, palette: bool = False) -> bytes:
    picture, data = PIL.Image.fromarray(np.asarray(numbers, np.uint8)), io.BytesIO()
    if palette:
        picture.putpalette([value for number in range(256) for value in (255 - number, number, 9)])
    picture.save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def names(tmp_path: Path) -> str:
    (tmp_path / "names.txt").write_text(NAMES)
    return str(tmp_path / "names.txt")


@pytest.mark.parametrize("palette", [False, True])
def test_a_folder_has_a_mask_where_the_image_lies_or_of_its_name(tmp_path: Path, names: str, palette: bool) -> None:
    (tmp_path / "masks" / "beach").mkdir(parents=True)
    (tmp_path / "masks" / "beach" / "a.png").write_bytes(png(palette=palette))
    masks = open_masks(str(tmp_path / "masks"), names)
    assert masks.names == ("sky", "green grass")
    assert [mask.tolist() for mask in masks.read(image()) or []] == [EXPECTED]
    assert [mask.tolist() for mask in masks.read(image("elsewhere/a.jpg")) or []] == [EXPECTED]
    assert masks.read(image("b.jpg")) is None


@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: {"bytes": data, "path": None}])
def test_a_parquet_file_has_a_mask_for_every_key(tmp_path: Path, names: str, wrap: Any) -> None:
    pd.DataFrame({"key": ["beach/a.jpg"], "mask": [wrap(png())]}).to_parquet(tmp_path / "masks.parquet")
    masks = open_masks(str(tmp_path / "masks.parquet"), names)
    assert [mask.tolist() for mask in masks.read(image()) or []] == [EXPECTED] and masks.read(image("b")) is None


def test_ade20k_has_its_names_and_its_annotations_beside_its_images(tmp_path: Path) -> None:
    (tmp_path / "annotations" / "training").mkdir(parents=True)
    (tmp_path / "annotations" / "training" / "ADE_1.png").write_bytes(png())
    (tmp_path / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n3\t0.1\t9\t9\tsky\n7\t0.1\t9\t9\tgrass, lawn\n")
    masks = open_masks(str(tmp_path), None)
    assert masks.names == ("sky", "grass, lawn")
    assert [mask.tolist() for mask in masks.read(image("training/ADE_1.jpg")) or []] == [EXPECTED]


def test_broden_has_masks_and_labels_of_whole_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    numbers = np.array([[0, 3, 3, 0], [300, 300, 3, 0]])
    coded = np.stack([numbers % 256, numbers // 256, numbers * 0], axis=-1).astype(np.uint8)
    (tmp_path / "images" / "a_object.png").write_bytes(png(coded))
    with open(tmp_path / "label.csv", "w", newline="") as file:
        csv.writer(file).writerows([["number", "name"], [3, "sky"], [300, "grass"], [8, "street-s"]])
    with open(tmp_path / "index.csv", "w", newline="") as file:
        csv.writer(file).writerows([["image", "object", "scene", "texture"], ["beach/a.jpg", "a_object.png", "8", ""]])
    masks = open_masks(str(tmp_path), None)
    assert masks.names == ("sky", "grass", "street-s")
    assert [mask.tolist() for mask in masks.read(image()) or []] == [EXPECTED, [[3]]]


def test_colours_are_those_of_the_pixels() -> None:
    shades = [(0, 0, 0), (255, 255, 255), (120, 120, 120), (210, 20, 20), (30, 150, 40), (250, 220, 20), (20, 60, 220)]
    shades += [(110, 70, 40), (255, 140, 20), (255, 160, 190), (120, 40, 150)]
    named = name_colours(np.array([shades], np.uint8))[0] - 1
    assert [COLOURS[number] for number in named] == list(COLOURS)
    assert open_masks("colours", None).names == COLOURS


def test_a_mask_lies_on_the_input_as_its_image_does() -> None:
    mask = np.arange(1, 33).reshape(4, 8)
    crop = on_grid(mask, image(height=4, width=8), Fit(4, 4), 1).reshape(4, 4)
    assert crop.tolist() == mask[:, 2:6].tolist()
    pad = on_grid(mask, image(height=4, width=8), Fit(8, 8, "pad"), 1).reshape(8, 8)
    assert not pad[:2].any() and not pad[6:].any() and pad[2:6].tolist() == mask.tolist()
    half = on_grid(mask[::2, ::2], image(height=4, width=8), Fit(4, 4), 2).reshape(2, 2)
    assert half.tolist() == mask[::2, ::2][:, 1:3].tolist()
    window = on_grid(mask, image(height=4, width=8, region=Box(0, 4, 4, 8)), Fit(4, 4), 1).reshape(4, 4)
    assert window.tolist() == mask[:, 4:].tolist()
    assert (on_grid(np.array([[5]]), image(height=4, width=8), Fit(4, 4), 1) == 5).all()


def test_a_mask_of_another_size_is_refused_and_one_of_the_same_proportions_is_not() -> None:
    with pytest.raises(WrongSpec, match="mask of 'beach/a.jpg' is of 4 x 4 pixels, and the image of 20 x 40"):
        on_grid(np.zeros((4, 4)), image(height=20, width=40), Fit(8, 8), 1)
    on_grid(np.zeros((10, 21)), image(height=20, width=41), Fit(8, 8), 1)


def test_what_cannot_be_read_is_refused(tmp_path: Path, names: str) -> None:
    with pytest.raises(MissingInput, match="are not there"):
        open_masks(str(tmp_path / "none"), names)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingInput, match="no PNG"):
        open_masks(str(tmp_path / "empty"), names)
    (tmp_path / "empty" / "a.png").write_bytes(b"x")
    with pytest.raises(WrongSpec, match=r"Name concepts\.masks\.names"):
        open_masks(str(tmp_path / "empty"), None)
    with pytest.raises(UnusableData, match="no PNG that can be read"):
        open_masks(str(tmp_path / "empty"), names).read(image("a.jpg"))
    Path(names).write_text("sky 3\n")
    with pytest.raises(WrongSpec, match="has the line 'sky 3'"):
        open_masks(str(tmp_path / "empty"), names)
    with pytest.raises(MissingInput, match=r"concepts\.masks\.names cannot be read"):
        open_masks(str(tmp_path / "empty"), str(tmp_path / "other.txt"))
    (tmp_path / "text.parquet").write_text("key,mask\n")
    Path(names).write_text(NAMES)
    with pytest.raises(UnusableData, match="no Parquet file of key and mask"):
        open_masks(str(tmp_path / "text.parquet"), names)


@pytest.mark.parametrize("cell", ["../outside.png", "/etc/hostname", "a/../../outside.png"])
def test_a_mask_in_a_table_does_not_lead_out_of_its_folder(tmp_path: Path, cell: str) -> None:
    (tmp_path / "outside.png").write_bytes(png())
    folder = tmp_path / "broden"
    (folder / "images" / "a").mkdir(parents=True)
    (folder / "label.csv").write_text("number,name\n3,sky\n")
    (folder / "index.csv").write_text(f"image,color\na.jpg,{cell}\n")
    with pytest.raises(UnusableData, match="is refused"):
        open_masks(str(folder), None).read(image("a.jpg"))


@pytest.mark.parametrize(
    "files",
    [
        {"index.csv": "x\n1\n", "label.csv": "number,name\n3,sky\n"},
        {"index.csv": "image\n", "label.csv": "number,name\nthree,sky\n"},
        {"index.csv": "image\n", "label.csv": f"number,name\n{10**30},sky\n"},
        {"objectInfo150.txt": "Idx\tName\nx\tsky\n"},
        {"objectInfo150.txt": "\xff"},
    ],
)
def test_tables_that_name_masks_and_are_broken_are_refused_in_one_line(tmp_path: Path, files: dict[str, str]) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.png").write_bytes(png())
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises((UnusableData, WrongSpec)) as caught:
        open_masks(str(tmp_path), None)
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 500


def test_a_mask_of_too_many_pixels_is_not_decoded(tmp_path: Path, names: str) -> None:
    (tmp_path / "masks").mkdir()
    PIL.Image.new("1", (20_000, 20_000)).save(tmp_path / "masks" / "a.png")
    with pytest.raises(UnusableData, match="has 20,000 x 20,000 pixels"):
        open_masks(str(tmp_path / "masks"), names).read(image("a.jpg"))


@pytest.mark.parametrize("value", [{"path": "/etc/passwd"}, {"bytes": "text"}])
def test_a_mask_in_a_table_is_bytes_and_no_path(tmp_path: Path, names: str, value: dict[str, str]) -> None:
    pq.write_table(pa.Table.from_pylist([{"key": "a.jpg", "mask": value}]), tmp_path / "masks.parquet")
    masks = open_masks(str(tmp_path / "masks.parquet"), names)
    if "bytes" in value:
        with pytest.raises(UnusableData, match="not the bytes of a PNG"):
            masks.read(image("a.jpg"))
    else:
        assert masks.read(image("a.jpg")) is None
