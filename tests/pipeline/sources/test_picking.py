"""Images picked by example, by key and from files, as the network sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest

from pipeline.errors import MissingInput, TooManyBad, UnusableData, WrongSpec
from pipeline.geometry import Box
from pipeline.sources.fit import Fit
from pipeline.sources.picking import Picked, check_picks, named, pick
from pipeline.sources.readable import PassedOver
from pipeline.sources.registry import open_source
from pipeline.sources.source import Image, Shard
from pipeline.spec.data import DataSpec
from pipeline.spec.picks import Picks


@pytest.fixture
def source(write: Any, folder: Any, scene: Any) -> Any:
    """Twelve images in two folders, the third of them torn."""
    for number in range(12):
        pixels = scene(20 + number, 24, seed=number)
        encoded = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
        write(f"{'ab'[number % 2]}/{number:02}.png", encoded[:200] if number == 4 else pixels)
    return folder(Fit(16, 16))


def test_picks_are_the_data_sets_own_images_each_once_and_in_its_order(source: Any) -> None:
    keys = [element["key"].decode() for element in source.stream(Shard()).as_numpy_iterator()]
    picked = list(pick(source, source.fit, Picks(examples=[9, 0], keys=[keys[5], keys[0]])))
    assert [one.example for one in picked] == [0, 5, 9]
    shown = [element["image"] for element in source.stream(Shard()).as_numpy_iterator()]
    for one in picked:
        assert one.image.key == keys[one.example] and one.image.label in ("a", "b")
        assert np.array_equal(one.fitted, shown[one.example]) and one.image.pixels.shape[0] >= 20


def test_without_a_name_the_first_that_can_be_read_are_picked(source: Any) -> None:
    assert [one.example for one in pick(source, source.fit, Picks(first=3))] == [0, 1, 3]
    assert [one.example for one in pick(source, source.fit, Picks())] == [0, 1, 3, 4]
    assert len(list(pick(source, source.fit, Picks(first=100)))) == 11


def test_images_that_are_passed_over_are_named_or_end_the_work_as_the_spec_has_it(source: Any) -> None:
    passed = PassedOver()
    assert len(list(pick(source, source.fit, Picks(first=5), passed_over=passed))) == 5
    (key,) = passed.images
    (sentence,) = passed.sentences()
    assert key.endswith("04.png") and sentence.startswith(f"1 image passed over, such as {key!r}, which cannot be read: ")
    assert PassedOver().sentences() == []
    with pytest.raises(TooManyBad, match="04.png' cannot be read: .* data.on_bad"):
        list(pick(source, source.fit, Picks(first=5), passed_over=PassedOver("fail")))


def test_a_file_is_decoded_upright_and_fitted_as_the_data_are(source: Any, scene: Any, tmp_path: Path) -> None:
    pixels = scene(30, 50, seed=77)
    path = tmp_path / "turned.png"
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # as a camera held upright writes it: the first row is the right-hand side
    PIL.Image.fromarray(np.rot90(pixels)).save(path, exif=exif)
    (one,) = pick(source, source.fit, Picks(files=[str(path)]))
    assert one.example is None and one.image.key == str(path) and one.image.label is None
    assert np.array_equal(one.image.pixels, pixels)
    assert np.array_equal(one.fitted, source.fit.apply(pixels))
    assert [one.example for one in pick(source, source.fit, Picks(files=[str(path)], examples=[7]))] == [7, None]


def test_every_kind_of_source_finds_every_key_that_it_gives(source: Any, write_tables: Any, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    opened = [
        source,
        open_source(DataSpec(source=f"folder:{folder}", limit=5), source.fit),
        open_source(DataSpec(source=f"folder:{folder}/a", window={"size": 12, "stride": 5}, limit=9), source.fit),
        *write_tables(folder, source.fit),
    ]
    for one in opened:
        keys = [element["key"].decode() for element in one.stream(Shard()).as_numpy_iterator()]
        assert len(set(keys)) == len(keys) and len(keys) == len(one)
        assert [one.find(key) for key in keys] == list(range(len(keys)))
        assert [one.find(wrong) for wrong in ("", "no", f"{keys[0]}0", keys[0][:-1], f"{keys[0]}@0,0")] == [None] * 5
    limited = opened[1]
    assert source.find("b/11.png") == 11 and limited.find("b/11.png") is None


def test_a_wrong_pick_is_reported_before_work_starts(source: Any, tmp_path: Path) -> None:
    for picks, kind, words in (
        (Picks(examples=[3, 12]), WrongSpec, "[featuremaps]: example 12 is not there; examples run from 0 to 11"),
        (Picks(keys="a/1.png"), WrongSpec, "no example has the key 'a/1.png'. The column `key` of the index lists them"),
        (Picks(files=str(tmp_path / "none.png")), MissingInput, f"the image file {str(tmp_path / 'none.png')!r} is missing"),
    ):
        with pytest.raises(kind) as caught:
            check_picks(source, picks, "[featuremaps]")
        assert words in str(caught.value) and "\n" not in str(caught.value)
        with pytest.raises(kind):
            next(pick(source, source.fit, picks))
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    for picks, words in ((Picks(files=str(tmp_path / "torn.png")), "torn.png"), (Picks(examples=[2]), "'a/04.png'")):
        check_picks(source, picks, "[featuremaps]")
        with pytest.raises(UnusableData, match=words):
            list(pick(source, source.fit, picks))


@pytest.fixture
def write_tables() -> Any:
    """A function: the images of a folder as Parquet, two row groups a file, and as a tar archive, each opened."""
    import tarfile

    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(folder: Any, fit: Any) -> Any:
        files = sorted(folder.rglob("*.png"))
        table = pa.table({"image": [{"bytes": path.read_bytes(), "path": path.name} for path in files]})
        for number, rows in enumerate((table[:7], table[7:])):
            pq.write_table(rows, folder / f"part__{number}.parquet", row_group_size=4)
        with tarfile.open(folder / "all.tar", "w") as archive:
            for path in files:
                archive.add(path, str(path.relative_to(folder)))
        names = (f"parquet:{folder}/*.parquet", f"tar:{folder}/*.tar")
        return [open_source(DataSpec(source=name), fit) for name in names]

    return write


def test_pictures_are_named_by_example_or_by_number_among_the_files_and_safe_stem() -> None:
    pixels = np.zeros((1, 1, 3), np.uint8)
    asked = [(7, "a.png"), (None, "one/cat.png"), (3, "b.png"), (None, "two/cat.png"), (None, "s3://x/größe 2.jpg")]
    actual = named(Picked(example, Image(key, None, pixels, Box(0, 0, 1, 1)), pixels) for example, key in asked)
    assert [name for _, name in actual] == ["example-7", "file-0-cat", "example-3", "file-1-cat", "file-2-gr__e_2"]
