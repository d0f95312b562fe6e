"""Writing aside: whatever fails, the old file stays and no half-written file is left."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Fault, StoreFailed
from pipeline.store.files import aside, check_writable, file_name, share_files, sweep, write_bytes, write_json
from pipeline.store.spool import Spool
from pipeline.store.tables import write_index

SKIPPED = {"example": [1], "key": ["a.png"], "reason": ["torn"]}


def full_disk(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def only_file(folder: Any) -> Any:
    """The one file in a folder, hidden ones counted."""
    (path,) = [path for path in folder.rglob("*") if path.is_file()]
    return path


def test_a_block_that_ends_well_puts_the_new_file_in_place(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    with aside(path) as temporary:
        temporary.write_text("new")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "new" and only_file(tmp_path) == path


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
def test_a_block_that_fails_leaves_the_old_file_and_no_debris(tmp_path: Path, error: Any) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail() -> None:
        with aside(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises((type(error), StoreFailed)) as caught:
        fail()
    assert path.read_text() == "old" and only_file(tmp_path) == path
    assert isinstance(caught.value, StoreFailed) == isinstance(error, OSError)


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with aside(path) as temporary:
        temporary.write_text("new, but not all of it")
        assert path.read_text() == "old"
    assert path.read_text() == "new, but not all of it"


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with aside(path) as one, aside(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one" and only_file(tmp_path) == path


@pytest.mark.parametrize("call", ["os.replace", "os.fsync"])
def test_a_disk_that_is_full_at_the_last_step_is_one_line_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Any
) -> None:
    write_json(tmp_path / "run.json", {"old": 1})
    monkeypatch.setattr(os, call.removeprefix("os."), full_disk)
    with pytest.raises(StoreFailed, match=r"run\.json was not written: the disk is full\. Free some space") as caught:
        write_json(tmp_path / "run.json", {"new": 2})
    assert caught.value.exit_code == 1 and isinstance(caught.value, Fault) and "\n" not in str(caught.value)
    assert json.loads(only_file(tmp_path).read_text()) == {"old": 1}


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EDQUOT, "the disk is full"), (errno.EACCES, "Permission denied"), (errno.EROFS, "Read-only file system")],
)
def test_other_reasons_are_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: Any, words: Any
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StoreFailed, match=rf"{words}.*\. (Free|Check)"):
        write_bytes(tmp_path / "file", b"")
    assert list(tmp_path.iterdir()) == []


def test_a_table_on_a_full_disk_leaves_the_old_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_index(tmp_path, "skipped", SKIPPED)
    before = only_file(tmp_path).read_bytes()

    def half(table: Any, where: Any, **options: Any) -> None:
        where.write_bytes(b"PAR1")
        full_disk()

    monkeypatch.setattr(pq, "write_table", half)
    with pytest.raises(StoreFailed, match="skipped.parquet was not written: the disk is full"):
        write_index(tmp_path, "skipped", {"example": [2], "key": ["b.png"], "reason": ["torn"]})
    assert only_file(tmp_path).read_bytes() == before


def test_a_file_instead_of_the_folder_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "index").write_text("in the way")
    with pytest.raises(StoreFailed, match=r"index.skipped\.parquet was not written: .*\. Check the folder") as caught:
        write_index(tmp_path, "skipped", SKIPPED)
    assert "\n" not in str(caught.value)


def test_a_disk_that_is_really_full_is_one_line_and_leaves_the_old_file(small_disk: Any) -> None:
    disk = small_disk(64)
    write_bytes(disk / "file", b"old")
    with pytest.raises(StoreFailed, match="the disk is full"):
        write_bytes(disk / "file", bytes(200_000))
    assert only_file(disk).read_bytes() == b"old"


@pytest.mark.parametrize("size", [100, 1_000, 5_000, 20_000])
def test_a_spool_on_a_disk_that_is_really_full_says_so(small_disk: Any, size: Any) -> None:
    disk = small_disk(64)

    def fill() -> None:
        with Spool(disk / "parts", "spool") as spool:
            for _ in range(80_000 // size):
                spool.put(bytes(size))

    with pytest.raises(StoreFailed, match="the disk is full"):
        fill()


def test_what_killed_runs_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    with aside(tmp_path / "a" / "file.txt") as temporary:
        debris = temporary.name
        temporary.write_text("x")
    for folder in ("", "a", "a/b"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / debris).write_text("half")
    (tmp_path / debris.replace("file.txt", "scan.part")).write_text("half")
    sweep(tmp_path)
    assert only_file(tmp_path) == tmp_path / "a" / "file.txt"


def test_parts_of_shards_that_may_be_at_work_are_swept_by_name_alone(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    one, other = (tmp_path / "parts" / f".aside-0123abcd-{number}-of-12.part" for number in (1, 11))
    for path in (one, other):
        path.write_text("half")
    sweep(tmp_path)
    assert one.exists() and other.exists()
    sweep(tmp_path / "parts", "1-of-12.part")
    assert not one.exists() and other.exists()


def test_json_is_readable_text_with_every_letter(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"name": "Größe 猫"})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n "name": "Größe 猫"\n}\n'


LAYERS = st.one_of(
    st.text(min_size=1, max_size=30),
    st.text(alphabet="ab/:._- é", min_size=1, max_size=6),
    st.text(alphabet="x", min_size=80, max_size=300),
    st.sampled_from(
        [
            "conv/relu",
            "conv-relu",
            "conv_relu",
            ".",
            "..",
            ".hidden",
            "a" * 300,
            "CON",
            "con.v1",
            "NUL",
            "Lpt9.x",
            "aux",
            "conv.",
            "é" * 127,
            "block1/conv:0",
            "conv",
            "Conv",
            "conv-2",
            "conv-crop",
            "conv-" + hashlib.sha256(b"Conv").hexdigest()[:6],
        ]
    ),
)


@given(LAYERS, LAYERS)
def test_different_layers_never_share_a_file(one: Any, other: Any) -> None:
    # What is put behind a name: nothing, the number of a page, a kind of picture.
    endings = ("", "-2", "-crop-001", "-found")
    shared = {file_name(one).casefold() + end for end in endings} & {file_name(other).casefold() + end for end in endings}
    assert bool(shared) == (one == other)


@given(LAYERS)
def test_a_layers_file_name_is_taken_by_every_file_system(layer: Any) -> None:
    name = file_name(layer)
    assert name and name.isascii() and not name.startswith(".")
    assert not set(name) & set('/\\:*?"<>| \0')
    assert not name.endswith(".") and name.partition(".")[0].upper() not in {"CON", "NUL", "AUX", "PRN", "COM1", "LPT9"}
    assert len(name) <= 200  # the suffix, and what aside() puts before it, need room in 255


@given(st.text(alphabet="abcxyz019._", min_size=1, max_size=40).filter(lambda name: name[0] != "." and name[-1] != "."))
def test_a_plain_name_is_kept(layer: Any) -> None:
    assert file_name(layer) == layer


def test_two_layers_whose_digests_are_equal_are_found() -> None:
    seen: dict[str, str] = {}
    layer = next(name for name in (f"a{chr(0x4E00 + n)}" for n in range(20_000)) if _repeats(name, seen))
    other = seen[file_name(layer)]
    assert share_files(["conv", other, "Conv", layer, layer]) == (other, layer) and share_files(["conv", "Conv", layer]) is None


def _repeats(name: str, seen: dict[str, str]) -> bool:
    return seen.setdefault(file_name(name), name) != name


def test_a_name_that_is_not_safe_can_still_be_recognised() -> None:
    assert file_name("block1/conv:0").startswith("block1-conv_0-")


def test_a_spool_returns_its_pictures_in_any_order_and_goes_on_from_where_it_is_cut_off(tmp_path: Path) -> None:
    data = [bytes([number]) * (number * 1000) for number in range(20)]
    with Spool(tmp_path / "parts", "spool") as spool, ThreadPoolExecutor(4) as threads:
        starts = list(threads.map(spool.put, data))
        for number in (7, 0, 19, 7):
            assert spool.get(starts[number], len(data[number])) == data[number]
    with Spool(tmp_path / "parts", "spool") as spool:
        assert spool.end == sum(map(len, data))
        spool.cut_off(starts[7] + len(data[7]))
        assert spool.get(starts[7], len(data[7])) == data[7] and spool.put(b"more") == starts[7] + len(data[7])
        with pytest.raises(ValueError, match="bytes, not"):
            spool.cut_off(10**9)


def test_a_spool_on_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.open", full_disk)
    with pytest.raises(StoreFailed, match="parts was not written: the disk is full"):
        Spool(tmp_path / "parts", "spool")


def test_a_folder_is_tried_without_leaving_anything(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreFailed, match=r"gone/x was not written: .*\. Check the folder"):
        check_writable(tmp_path / "gone" / "x")


def test_a_file_system_that_cannot_be_written_is_named(small_disk: Any) -> None:
    folder = small_disk(64)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    with pytest.raises(StoreFailed, match=r"out was not written: Read-only file system\. Check the folder"):
        check_writable(folder / "out")
