"""Patterns of several files: what braces name, here and elsewhere."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import MissingInput
from pipeline.sources.file_patterns import braced, matching


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("a-{8..11}", ["a-8", "a-9", "a-10", "a-11"]),
        ("a-{000..2}", ["a-000", "a-001", "a-002"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{train,extra/b}-*.tar", ["train-*.tar", "extra/b-*.tar"]),
        ("{a,b{0..1}}-{x,y}", ["a-x", "a-y", "b0-x", "b0-y", "b1-x", "b1-y"]),
        ("a{b}c", ["a{b}c"]),
        ("a{,.gz}", ["a", "a.gz"]),
    ],
)
def test_braces_count_and_choose_as_a_shell_has_them(pattern: Any, expected: Any) -> None:
    assert sorted(braced(pattern)) == sorted(expected)


@pytest.fixture(params=["here", "elsewhere"])
def shards(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A folder or address with four files in two folders, and a function that adds one."""
    names = ["train/s-000.tar", "train/s-001.tar", "val/s-000.tar", "odd{0..1}.tar"]
    if request.param == "here":
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"x" * 3)
        return str(tmp_path)
    import fsspec

    root = f"memory://{uuid.uuid4().hex}"
    for name in names[:3]:
        with fsspec.open(f"{root}/{name}", "wb") as file:
            file.write(b"x" * 3)
    return root


def test_all_that_braces_name_is_found_once_in_the_order_of_the_paths(shards: Any) -> None:
    actual = matching("tar", f"{shards}/{{val,train}}/s-{{000..000}}.tar")
    assert [(file.name, file.length) for file in actual] == [("train/s-000.tar", 3), ("val/s-000.tar", 3)]
    twice = matching("tar", f"{shards}/train/s-{{*,000}}.tar")
    assert [file.name for file in twice] == ["s-000.tar", "s-001.tar"]


def test_a_file_that_braces_name_and_that_is_not_there_is_named(shards: Any) -> None:
    with pytest.raises(
        MissingInput, match=r"s-\{000\.\.002\}\.tar', as its braces name it: '.*s-002\.tar'\. Name files"
    ) as caught:
        matching("tar", f"{shards}/train/s-{{000..002}}.tar")
    assert "\n" not in str(caught.value)


def test_a_file_whose_own_name_has_braces_is_itself(tmp_path: Path) -> None:
    (tmp_path / "odd{0..1}.tar").write_bytes(b"x")
    assert [file.name for file in matching("tar", str(tmp_path / "odd{0..1}.tar"))] == ["odd{0..1}.tar"]
