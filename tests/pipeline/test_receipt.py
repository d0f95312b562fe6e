"""run.json: what it holds survives, and one that no run of ours wrote is refused in one line, whoever reads it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import StoreFailed, WrongSpec
from pipeline.receipt import FORMAT, Receipt, StageRecord, find_receipt, read_receipt, write_receipt

SPEC = {"name": "job", "stages": ["activations", "report"], "model": {"source": "keras:Any"}, "data": {"source": "folder:/x"}}
SCAN = {"started": "2026-01-01T00:00:00Z", "seconds": 2, "images": 5, "nans": {}, "asleep_channels": {"conv": [1]}}
TREE = {
    "format": FORMAT,
    "name": "job",
    "state": "running",
    "spec": SPEC,
    "digests": {"model": "m", "data": "d"},
    "versions": {"python": "3.11", "convscope": None},
    "input": [32, 32, 3],
    "layers": ["conv"],
    "examples": 5,
    "stages": {"activations": SCAN},
}


def with_value(path: Any, value: Any) -> Any:
    """TREE with another value at a path of keys; without the key where the value is None."""
    tree = json.loads(json.dumps(TREE))
    *tables, key = path.split(".")
    table = tree
    for name in tables:
        table = table[name]
    if value is None:
        del table[key]
    else:
        table[key] = value
    return tree


def test_a_receipt_is_read_and_written_key_for_key_also_those_that_only_its_stage_knows(tmp_path: Path) -> None:
    tree = {**TREE, "of a later version": [1]}
    (tmp_path / "run.json").write_text(json.dumps(tree))
    write_receipt(tmp_path, read_receipt(tmp_path))
    assert json.loads((tmp_path / "run.json").read_text()) == tree


def test_a_job_is_finished_when_its_last_missing_stage_has_run_and_running_when_one_begins_again() -> None:
    receipt = Receipt.model_validate(TREE)
    finished = receipt.end("report", StageRecord(summary="a page"))
    assert finished.state == "finished" and list(finished.stages) == ["activations", "report"]
    again = finished.begin(["activations"])
    assert again.state == "running" and list(again.stages) == ["report"]
    assert receipt.as_json() == TREE  # no receipt is changed in place


def test_a_folder_without_a_job_has_no_receipt(tmp_path: Path) -> None:
    assert find_receipt(tmp_path) is None
    with pytest.raises(WrongSpec, match="holds no job"):
        read_receipt(tmp_path)


def test_the_receipt_of_another_version_is_read_only_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({**TREE, "format": FORMAT + 1}))
    with pytest.raises(WrongSpec, match=f"is of format {FORMAT + 1}, this version writes {FORMAT}"):
        find_receipt(tmp_path)
    assert read_receipt(tmp_path, any_format=True).name == "job"


BAD = [
    ("format", None),
    ("name", 7),
    ("name", None),
    ("state", "asleep"),
    ("spec", []),
    ("spec.stages", "activations"),
    ("spec.model", "keras:Any"),
    ("spec.data", {}),
    ("digests", {"model": 1}),
    ("digests", None),
    ("versions", []),
    ("input", "32"),
    ("layers", [1]),
    ("examples", "5"),
    ("stages", []),
    ("stages.activations", 7),
    ("stages.activations.seconds", "2"),
    ("stages.activations.nans", {"conv": "many"}),
    ("stages.activations.scan_seconds", [1.0]),
    ("stages.activations.file_digests", {"a.png": None}),
]


@pytest.mark.parametrize(("path", "value"), BAD)
def test_a_value_that_no_run_writes_is_named_in_one_line(tmp_path: Path, path: Any, value: Any) -> None:
    (tmp_path / "run.json").write_text(json.dumps(with_value(path, value)))
    with pytest.raises(WrongSpec, match=r"run\.json is no receipt of a job|is of format None") as caught:
        find_receipt(tmp_path)
    message = str(caught.value)
    assert "\n" not in message and caught.value.exit_code == 2 and message.endswith(".")
    assert path in message or path == "format" or path.startswith("spec")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"run"', "\xff", "[" * 100_000])
def test_what_is_no_receipt_at_all_is_one_line(tmp_path: Path, text: Any) -> None:
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(WrongSpec, match=r"run\.json (cannot be read|is no receipt)") as caught:
        find_receipt(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", [["show"], ["merge"], ["report"], ["compare"]])
@pytest.mark.parametrize(("path", "value"), [("stages.activations.seconds", "2"), ("layers", None), ("spec", {})])
def test_every_command_that_reads_a_job_refuses_such_a_receipt_in_one_line(
    command: Any, tmp_path: Path, words: Any, path: Any, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(with_value(path, value)))
    folders = [tmp_path, tmp_path] if words == ["compare"] else [tmp_path]
    status, _, error = command(*words, *folders)
    assert status == 2 and error.splitlines()[-1].startswith("WrongSpec: ") and "is no receipt of a job" in error
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_a_folder_that_holds_a_pipe_or_a_device_is_not_read(tmp_path: Path) -> None:
    """A reader would wait for what a pipe gives, or read from a device, for ever."""
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "layers.parquet").symlink_to("/dev/zero")
    with pytest.raises(StoreFailed, match="'index/layers.parquet'"):
        read_receipt(tmp_path)
    (tmp_path / "index" / "layers.parquet").unlink()
    assert find_receipt(tmp_path) is None
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(StoreFailed, match=r"a pipe or a device, 'run.json'"):
        read_receipt(tmp_path)
