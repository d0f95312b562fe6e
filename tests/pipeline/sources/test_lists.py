"""Lists of paths: their form, their labels, what is missing, shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import MissingInput, UnusableData
from pipeline.load import load_spec
from pipeline.sources.fit import Fit
from pipeline.sources.registry import open_source
from pipeline.sources.source import Shard
from pipeline.spec.data import DataSpec

FIT = Fit(8, 8)


@pytest.fixture
def lines(tmp_path: Path) -> Any:
    """A function: tmp_path / "images" / "list.txt" with this text, opened as a source."""

    def write_and_open(text: Any, **spec: Any) -> Any:
        file = tmp_path / "images" / "list.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return open_source(DataSpec(source=f"list:{file}", **spec), FIT)

    return write_and_open


def test_paths_are_relative_to_the_list_and_labels_stand_behind_a_tab_or_a_comma(
    write: Any, lines: Any, scene: Any, listed: Any
) -> None:
    for seed, path in enumerate(["b/1.png", "a,b.png", "2.png", "no extension"]):
        write(path, scene(seed=seed))
    absolute = write("far/3.png", scene(seed=4))
    text = (
        "\ufeff# the first comment\nb/1.png\tlast, first\n\na,b.png\n  2.png , cat, tabby\r\n"
        f"no extension,dog\n{absolute},dog\nb/1.png\n"
    )
    source = lines(text)
    elements = listed(source)
    assert [e[1] for e in elements] == ["b/1.png", "a,b.png", "2.png", "no extension", str(absolute), "b/1.png"]
    assert [e[2] for e in elements] == ["last, first", "", "cat, tabby", "dog", "dog", ""]
    assert [e[3] for e in elements] == [FIT.apply(scene(seed=seed)).tobytes() for seed in (0, 1, 2, 3, 4, 0)]
    assert source.labels == ["cat, tabby", "dog", "last, first"]
    assert lines("2.png\n").labels is None


def test_a_missing_image_is_a_bad_example_with_its_number(write: Any, lines: Any, scene: Any, listed: Any) -> None:
    write("1.png", scene())
    elements = listed(lines("1.png\ngone.png\n1.png\n"))
    assert [e[4] for e in elements] == ["", "the file cannot be read (No such file or directory)", ""]


def test_ids_do_not_depend_on_shards_or_starts(write: Any, lines: Any, scene: Any, listed: Any) -> None:
    for seed in range(7):
        write(f"{seed}.png", scene(seed=seed))
    source = lines("".join(f"{seed}.png\n" for seed in (6, 2, 5, 1, 3, 0, 4)))
    whole = listed(source)
    assert [e[1][0] for e in whole] == list("6251304")
    for count in (1, 3, 9):
        shards = [listed(source, Shard(index, count)) for index in range(count)]
        assert [e for shard in shards for e in shard] == whole
        assert [listed(source, Shard(index, count), 1) for index in range(count)] == [shard[1:] for shard in shards]
    assert [image.key for _, image in source.fetch([5, 0])] == ["6.png", "0.png"]


def test_numbered_labels_take_their_names_from_a_file_and_one_of_the_wrong_length_is_refused(
    write: Any, lines: Any, scene: Any, listed: Any, tmp_path: Path
) -> None:
    write("1.png", scene())
    names = tmp_path / "names.txt"
    names.write_text("ape\nbee\n")
    source = lines("1.png,1\n1.png\n1.png\t-1\n1.png,0\n", labels=str(names))
    assert [e[2] for e in listed(source)] == ["bee", "", "", "ape"] and source.labels == ["ape", "bee"]
    with pytest.raises(UnusableData, match=r"names 2 classes, 0 to 1, but '1.png' of list:.* has label 2"):
        lines("1.png,2\n", labels=str(names))
    with pytest.raises(UnusableData, match=r"'1.png' of list:.* has label 'bee'"):
        lines("1.png,bee\n", labels=str(names))
    names.write_text("\n")
    with pytest.raises(UnusableData, match="is empty"):
        lines("1.png,0\n", labels=str(names))


def test_a_list_that_cannot_serve_is_named_with_what_to_do(lines: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"the list '.*' names no images"):
        lines("# nothing\n\n")
    with pytest.raises(UnusableData, match="is not text in UTF-8"):
        lines(b"\xff\xd8\xff\xe0")
    with pytest.raises(MissingInput, match=r"gone.txt' in data.source cannot be read \(No such file"):
        open_source(DataSpec(source=f"list:{tmp_path / 'gone.txt'}"), FIT)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("parquet:data/*.parquet", "parquet:{}/data/*.parquet"),
        ("tar:../x.tar", "tar:{0.parent}/x.tar"),
        ("list:a.txt", "list:{}/a.txt"),
        ("folder:${PLACE}/a", "folder:s3://bucket/a"),
        ("parquet:s3://bucket//x/../*.parquet", "parquet:s3://bucket//x/../*.parquet"),
        ("tar:memory://x", "tar:memory://x"),
        ("list:file:///x/y", "list:file:///x/y"),
        ("folder:https://host/x", "folder:https://host/x"),
    ],
)
def test_paths_in_a_spec_are_relative_to_it_and_addresses_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: Any, read: Any
) -> None:
    monkeypatch.setenv("PLACE", "s3://bucket")
    spec = tmp_path / "job.toml"
    spec.write_text(
        f'name = "x"\n[model]\nsource = "keras:VGG16"\nlayers = ["a"]\n[data]\nsource = "{written}"\nlabels = "n.txt"\n'
    )
    data = load_spec(spec).data
    assert data.source == read.format(tmp_path) and data.labels == f"{tmp_path}/n.txt"
