"""Folders of images: order, labels, odd names, bad files, shards."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import MissingInput, UnusableData
from pipeline.geometry import Box
from pipeline.sources.fit import Fit
from pipeline.sources.source import Shard

FIT = Fit(8, 8)


def test_the_order_is_bytewise_by_relative_path_and_labels_are_the_holding_folders(
    write: Any, folder: Any, scene: Any, listed: Any
) -> None:
    for seed, path in enumerate(["b/2.png", "b/10.png", "B/1.png", "a/z/deep.png", "top.png", "a.png", "é/x.png", "a/1.png"]):
        write(path, scene(seed=seed))
    source = folder(FIT)
    elements = listed(source)
    assert [e[1] for e in elements] == [
        "B/1.png",
        "a.png",
        "a/1.png",
        "a/z/deep.png",
        "b/10.png",
        "b/2.png",
        "top.png",
        "é/x.png",
    ]
    assert [e[2] for e in elements] == ["B", "", "a", "z", "b", "b", "", "é"]
    assert [e[0] for e in elements] == list(range(8)) and len(source) == 8
    assert source.labels == ["B", "a", "b", "z", "é"]


def test_a_folder_without_subfolders_has_no_labels(write: Any, folder: Any, scene: Any) -> None:
    write("1.png", scene())
    source = folder(FIT)
    assert source.labels is None
    assert next(source.fetch([0]))[1].label is None


def test_only_image_files_count_in_any_case_and_hidden_ones_do_not(write: Any, folder: Any, scene: Any, listed: Any) -> None:
    for name in ("1.PNG", "2.Jpg", "3.jpeg", "4.webp", "5.BMP", "6.gif", "7.tif", "8.TIFF"):
        write(name, scene())
    for name in ("notes.txt", "._1.png", ".hidden/9.png", "png", "10.png.bak", "11.npy"):
        write(name, scene())
    assert [e[1][0] for e in listed(folder(FIT))] == list("12345678")


@pytest.mark.parametrize(
    "name", ["a b.png", "line\nbreak.png", "日本語/写真.png", "quote'\".png", "percent%20.png", "[1].png", "-x.png"]
)
def test_odd_names_are_read_and_kept_as_keys(write: Any, folder: Any, scene: Any, listed: Any, name: Any) -> None:
    write(name, scene())
    source = folder(Fit(12, 16))
    assert [(e[1], e[3], e[4]) for e in listed(source)] == [(name, scene().tobytes(), "")]
    assert next(source.fetch([0]))[1].key == name


def test_a_name_that_is_not_utf8_is_read_and_its_key_is_text(write: Any, folder: Any, scene: Any, listed: Any) -> None:
    good = write("x/good.png", scene())
    try:
        os.rename(good, os.fsencode(good.parent) + b"/caf\xe9.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    source = folder(Fit(12, 16))
    assert [(e[1], e[3], e[4]) for e in listed(source)] == [("x/caf\\xe9.png", scene().tobytes(), "")]
    assert next(source.fetch([0]))[1].key == "x/caf\\xe9.png"
    assert len(source.digest()) == 16


def test_links_are_followed_and_loops_are_harmless(tmp_path: Path, write: Any, folder: Any, scene: Any, listed: Any) -> None:
    write("a/1.png", scene())
    (tmp_path / "elsewhere").mkdir()
    os.replace(write("2.png", scene()), tmp_path / "elsewhere" / "2.png")
    os.symlink("..", tmp_path / "images" / "a" / "up")
    os.symlink("a", tmp_path / "images" / "again")
    os.symlink(tmp_path / "elsewhere", tmp_path / "images" / "link")
    os.symlink("self.png", tmp_path / "images" / "self.png")
    elements = listed(folder(FIT))
    assert [e[1] for e in elements] == ["a/1.png", "again/1.png", "link/2.png", "self.png"]
    assert [bool(e[4]) for e in elements] == [False, False, False, True]


@pytest.mark.parametrize("make", ["nothing", "file", "empty", "no images"])
def test_a_folder_that_cannot_serve_is_named_with_what_to_do(tmp_path: Path, write: Any, folder: Any, make: Any) -> None:
    if make == "file":
        (tmp_path / "images").write_text("x")
    elif make != "nothing":
        (tmp_path / "images").mkdir()
    if make == "no images":
        write("readme.txt", b"x")
    said = {"nothing": "does not exist", "file": "is not a folder"}.get(make, "holds no images")
    with pytest.raises(MissingInput, match=rf"{tmp_path / 'images'}' .*{said}.*Name") as caught:
        folder(FIT)
    assert "\n" not in str(caught.value)


def test_bad_images_keep_their_example_number_and_reason_and_do_not_stop_the_stream(
    tmp_path: Path, write: Any, folder: Any, scene: Any, listed: Any
) -> None:
    whole = write("0.png", scene()).read_bytes()
    write("1.jpg", b"this is text")
    write("2.png", b"")
    write("3.png", whole[: len(whole) // 2])
    os.symlink("gone", tmp_path / "images" / "4.png")
    write("5.png", scene(seed=5))
    elements = listed(folder(FIT))
    assert [e[1] for e in elements] == ["0.png", "1.jpg", "2.png", "3.png", "4.png", "5.png"]
    reasons = [e[4] for e in elements]
    assert reasons[0] == reasons[5] == ""
    assert (
        "not a whole image" in reasons[1] and "empty" in reasons[2] and "truncated" in reasons[3] and "No such file" in reasons[4]
    )
    assert all((e[3] == bytes(8 * 8 * 3)) == bool(e[4]) for e in elements)


def test_fetching_a_bad_image_says_which_and_why(write: Any, folder: Any, scene: Any) -> None:
    write("0.png", scene())
    write("1.png", b"text")
    with pytest.raises(UnusableData, match=r"'1.png' of folder:.*not a whole image"):
        list(folder(FIT).fetch([0, 1]))


def test_fetch_gives_the_original_pixels_once_each_in_ascending_order(write: Any, folder: Any, scene: Any) -> None:
    for seed in range(6):
        write(f"c{seed % 2}/{seed}.png", scene(10 + seed, 20, seed))
    fetched = list(folder(FIT).fetch([5, 1, 1, 3]))
    assert [example for example, _ in fetched] == [1, 3, 5]
    assert [image.key for _, image in fetched] == ["c0/2.png", "c1/1.png", "c1/5.png"]
    for _, image in fetched:
        seed = int(image.key[3])
        assert np.array_equal(image.pixels, scene(10 + seed, 20, seed))
        assert image.region == Box(0, 0, 10 + seed, 20) and image.label == image.key[:2]


@pytest.mark.parametrize("example", [-1, 3])
def test_fetching_what_is_not_there_is_refused(write: Any, folder: Any, scene: Any, example: Any) -> None:
    for seed in range(4):
        write(f"{seed}.png", scene())
    with pytest.raises(IndexError, match="0 to 2"):
        list(folder(FIT, limit=3).fetch([example]))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_shards_and_late_starts_give_the_same_elements(write: Any, folder: Any, scene: Any, listed: Any, count: Any) -> None:
    for seed in range(13):
        write(f"{seed:02}.png", scene(seed=seed))
    write("05.png", b"bad")
    source = folder(FIT, limit=12)
    whole = listed(source)
    assert len(whole) == len(source) == 12
    shards = [listed(source, Shard(index, count)) for index in range(count)]
    assert [e for shard in shards for e in shard] == whole
    for index, elements in enumerate(shards):
        for start in (1, len(elements), len(elements) + 3):
            assert listed(source, Shard(index, count), start) == elements[start:]


def test_the_stream_shows_what_fit_makes_of_the_pixels(write: Any, folder: Any, scene: Any, listed: Any) -> None:
    write("1.png", scene(30, 50))
    for mode in ("crop", "pad", "stretch"):
        fit = Fit(16, 24, mode)
        assert listed(folder(fit))[0][3] == fit.apply(scene(30, 50)).tobytes()


def test_a_limit_beyond_the_end_is_no_limit(write: Any, folder: Any, scene: Any) -> None:
    write("1.png", scene())
    assert len(folder(FIT, limit=10)) == 1
    assert folder(FIT, limit=10).digest() == folder(FIT).digest()


def test_the_digest_survives_a_copy_and_changes_with_names_sizes_and_number(
    tmp_path: Path, write: Any, folder: Any, scene: Any
) -> None:
    write("a/1.png", scene())
    two = write("a/2.png", b"12345")
    seen = [folder(FIT).digest()]
    os.utime(two, (1, 1))
    os.rename(tmp_path / "images", tmp_path / "moved")
    os.rename(tmp_path / "moved", tmp_path / "images")
    assert folder(FIT).digest() == seen[0]
    two.write_bytes(b"123456")
    seen.append(folder(FIT).digest())
    os.rename(two, two.with_name("3.png"))
    seen.append(folder(FIT).digest())
    seen.append(folder(FIT, limit=1).digest())
    seen.append(folder(FIT, window={"size": 4, "stride": 4}).digest())
    seen.append(folder(FIT, window={"size": 4, "stride": 2}).digest())
    seen.append(folder(FIT, window={"size": 4, "stride": 2}, limit=3).digest())
    assert len(set(seen)) == len(seen)


def test_links_that_multiply_paths_without_end_are_refused_at_once(tmp_path: Path, write: Any, folder: Any, scene: Any) -> None:
    write("0/a.png", scene())
    for number in range(30):
        here = tmp_path / "images" / str(number)
        here.mkdir(exist_ok=True)
        for link in ("x", "y"):
            (here / link).symlink_to(tmp_path / "images" / str(number + 1))
    (tmp_path / "images" / "30").mkdir()
    start = time.process_time()  # a busy machine takes longer by the clock
    with pytest.raises(UnusableData, match="more than 100 times"):
        folder(FIT)
    assert time.process_time() - start < 5
