"""Texts and names as strangers write them: byte order marks, separators, zero bytes, braces and depth without end."""

from __future__ import annotations

import io
import json
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConvscopeError, UnusableData, WrongSpec
from pipeline.load import load_spec, parse_spec
from pipeline.models.labels import class_names
from pipeline.sources.bands import write_array
from pipeline.sources.file_patterns import braced, read_names
from pipeline.sources.fit import Fit
from pipeline.sources.registry import open_source
from pipeline.spec.data import DataSpec

FIT = Fit(8, 8)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_names_of_labels_and_classes_are_read_in_any_encoding_with_a_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "names.txt").write_bytes("tench\r\nkäse\u2028zwei\r\nhen\r\n".encode(encoding))
    assert read_names(f"{tmp_path}/names.txt") == ["tench", "käse\u2028zwei", "hen"]
    assert class_names(f"{tmp_path}/names.txt", "net", 3, None) == ("tench", "käse\u2028zwei", "hen")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_list_and_a_spec_are_read_in_any_encoding_with_a_mark(
    write: Any, scene: Any, listed: Any, tmp_path: Path, encoding: str
) -> None:
    folder = write("ä\u2028b.png", scene()).parent
    (folder / "list.txt").write_bytes("ä\u2028b.png\tx\x0cy\n".encode(encoding))
    elements = listed(open_source(DataSpec(source=f"list:{folder}/list.txt"), FIT))
    assert [element[1:3] + element[4:] for element in elements] == [("ä\u2028b.png", "x\x0cy", "")]
    spec = 'name = "x"\n[model]\nsource = "keras:VGG16"\nlayers = "*"\n[data]\nsource = "folder:ä"\n'
    (tmp_path / "job.toml").write_bytes(spec.encode(encoding))
    assert load_spec(tmp_path / "job.toml").data.source == f"folder:{tmp_path}/ä"


@pytest.mark.parametrize("data", [b"cat\0\ndog", "cat\ndog".encode("utf-16-le"), b"\xff\xd8\xff\xe0"])
def test_what_is_no_text_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "names.txt").write_bytes(data)
    with pytest.raises(UnusableData, match="is not text"):
        read_names(f"{tmp_path}/names.txt")
    with pytest.raises(WrongSpec, match="is not text"):
        class_names(f"{tmp_path}/names.txt", "net", 2, None)


def test_the_thousand_classes_of_imagenet_come_without_a_network() -> None:
    names = class_names("imagenet", "net", 1000, None)
    assert names is not None and len(names) == 1000
    known = {0: "tench", 1: "goldfish", 134: "crane", 243: "bull mastiff", 281: "tabby", 388: "giant panda", 417: "balloon"}
    known |= {517: "crane", 638: "maillot", 639: "maillot", 763: "revolver", 817: "sports car", 999: "toilet tissue"}
    assert {number: names[number] for number in known} == known
    with_background = class_names("imagenet", "net", 1001, None)
    assert with_background is not None and with_background[:2] == ("background", "tench")


@pytest.mark.parametrize(
    "pattern", ["{0..400000000}.parquet", f"{{0..{'9' * 5000}}}.tar", "{0..999}" * 3, "{a,b}" * 40, "{1..100001}"]
)
def test_braces_that_name_too_many_files_are_refused_at_once(pattern: str) -> None:
    start = time.thread_time()  # a busy machine takes longer by the clock
    with pytest.raises(WrongSpec, match="braces name more than 100,000 files"):
        braced(pattern)
    assert time.thread_time() - start < 1


def test_braces_within_the_bound_still_expand() -> None:
    assert len(braced("{00000..99999}.tar")) == 100_000 and braced("{2..1}{a,b}") == ["2a", "2b", "1a", "1b"]


@pytest.mark.parametrize(("key", "value"), [("source", "folder:a\0b"), ("labels", "a\0b"), ("image", "\0"), ("data_dir", "\0")])
def test_zero_bytes_in_a_spec_are_refused_by_the_name_of_their_key(key: str, value: str) -> None:
    data = {"source": "folder:x", key: value}
    with pytest.raises(WrongSpec, match=rf"data\.{key}.*zero byte"):
        parse_spec({"name": "x", "model": {"source": "keras:VGG16", "layers": "*"}, "data": data})


@pytest.mark.parametrize("toml", ["x = " + "9" * 5000, "x = " + "[" * 5000, "x = " + "{a=" * 5000])
def test_numbers_and_depth_without_end_in_a_spec_are_one_short_error(tmp_path: Path, toml: str) -> None:
    (tmp_path / "job.toml").write_text(toml)
    with pytest.raises(WrongSpec, match="is not TOML") as refusal:
        load_spec(tmp_path / "job.toml")
    assert len(str(refusal.value)) < 500


def test_deep_and_strange_labels_of_an_archive_are_no_labels(write: Any, scene: Any, tmp_path: Path, listed: Any) -> None:
    png = write("a.png", scene()).read_bytes()
    texts = [
        b"[" * 60_000,
        b'{"label": ' * 5000,
        b'{"label": ' + b"9" * 5000 + b"}",
        b'{"label": [1]}',
        b"\xff\xfe",
        b'{"label": 3}',
    ]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, text in enumerate(texts):
            for name, content in ((f"{number}.png", png), (f"{number}.json", text)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    elements = listed(open_source(DataSpec(source=f"tar:{tmp_path}/a.tar"), FIT))
    assert [element[2] for element in elements] == ["", "", "", "", "", "3"] and not any(element[4] for element in elements)


def test_an_archive_with_members_of_impossible_sizes_is_refused(tmp_path: Path) -> None:
    for size in (10**12, 8**11 - 1):
        member = tarfile.TarInfo("a.png")
        member.size = size
        (tmp_path / "a.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
        with pytest.raises(UnusableData, match="longer than the archive"):
            open_source(DataSpec(source=f"tar:{tmp_path}/a.tar"), FIT)


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_archive_or_table_is_one_short_error_or_is_read(
    write: Any, scene: Any, tmp_path: Path, listed: Any, seed: int
) -> None:
    png = write("a.png", scene()).read_bytes()
    with tarfile.open(tmp_path / "whole.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in (("ä" * 120 + ".png", png), ("b.png", png), ("b.json", b'{"label": 1}')):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    pq.write_table(pa.table({"image": [png] * 3, "label": ["a\0b", "b", None]}), tmp_path / "whole.parquet")
    rng = np.random.default_rng(seed)
    for kind in ("tar", "parquet"):
        whole = (tmp_path / f"whole.{kind}").read_bytes()
        for _ in range(40):
            changed = bytearray(whole)
            for at in rng.integers(0, len(whole), rng.choice([1, 3, 20])):
                changed[at] = rng.integers(256)
            (tmp_path / f"x.{kind}").write_bytes(changed)
            try:
                source = open_source(DataSpec(source=f"{kind}:{tmp_path}/x.{kind}"), FIT)
                list(source.fetch(range(len(source))))
            except ConvscopeError as error:
                assert len(str(error)) < 600


def test_features_that_are_no_table_and_labels_that_are_no_names_are_left_out(
    write: Any, scene: Any, tmp_path: Path, listed: Any
) -> None:
    png = write("a.png", scene()).read_bytes()
    deep = b'{"info":' + b"[" * 100_000
    notes = [
        b"[]",
        b'{"info": {"features": [1]}}',
        deep,
        b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": 3}}}}',
    ]
    for note in [*notes, json.dumps({"info": {"features": {"label": {"names": [1, None]}}}}).encode()]:
        table = pa.table({"image": [png], "label": [0]}).replace_schema_metadata({b"huggingface": note})
        pq.write_table(table, tmp_path / "a.parquet")
        elements = listed(open_source(DataSpec(source=f"parquet:{tmp_path}/a.parquet"), FIT))
        assert elements[0][2] == "0" and elements[0][4] == ""


@pytest.mark.parametrize("bands", [1, 3, 6])
def test_lists_of_samples_in_a_table_are_images(tmp_path: Path, listed: Any, bands: int) -> None:
    samples = np.random.default_rng(0).integers(0, 256, (8, 8, bands), np.uint8)
    kind = pa.list_(pa.list_(pa.list_(pa.uint8())))
    torn = [[[1] * bands] * 8] * 7 + [[[1] * bands]]
    pq.write_table(pa.table({"image": pa.array([samples.tolist(), None, torn], kind)}), tmp_path / "a.parquet")
    shown = (5, 0, 1) if bands == 6 else None
    elements = listed(open_source(DataSpec(source=f"parquet:{tmp_path}/a.parquet", bands=shown), FIT))
    expected = samples[..., shown] if shown else np.broadcast_to(samples, (8, 8, 3))
    assert elements[0][3] == expected.tobytes() and [bool(element[4]) for element in elements] == [False, True, True]
    assert write_array(samples).startswith(b"\x93NUMPY")
