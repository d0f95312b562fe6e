"""The same job gives the same bytes: patterns with their losses and reached values, and the parts of scans."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from zygote import Zygote

pytestmark = pytest.mark.slow

RUNS = int(os.environ.get("CONVSCOPE_RUNS", "20"))


def write(path: Path, tiny_file: Any, pictures: Any, stages: list[str]) -> Path:
    path.write_text(
        f'name = "tiny"\nstages = {json.dumps(stages)}\n[model]\nsource = "file:{tiny_file}"\nlayers = ["edges", "shapes"]\n'
        f'preprocess = "none"\nhead = "linear"\n[data]\nsource = "folder:{pictures}"\nbatch = 8\n'
        "[patterns]\nsteps = 32\nbatch = 4\n"
    )
    return path


def results(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("run.json", ".lock")
    }


def test_twenty_runs_of_patterns_give_the_same_pictures_losses_and_values(tiny_file: Any, pictures: Any, tmp_path: Path) -> None:
    spec = write(tmp_path / "job.toml", tiny_file, pictures, ["patterns"])
    with Zygote() as zygote:
        for number in range(RUNS):
            ended = zygote.run("run", spec, "--out", tmp_path / str(number))
            assert ended.status == 0, ended.err
            first, this = results(tmp_path / "0"), results(tmp_path / str(number))
            assert [name for name in first if first[name] != this.get(name)] == [] and [*first] == [*this]


def test_a_scan_leaves_the_same_bytes_whatever_order_python_gives_its_sets(
    process: Any, tiny_file: Any, pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write(tmp_path / "job.toml", tiny_file, pictures, ["activations"])
    left = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        child = process("-m", "jobs", "run", spec, "--out", tmp_path / seed)
        _, error = child.communicate(timeout=120)
        assert child.returncode == 0
        left.append(results(tmp_path / seed / "tiny"))
        # no banner of TensorFlow's, no warning of Keras's
        assert [line for line in error.splitlines() if not re.match(r"\d{4}-\d\d-\d\d [\d:]+ tiny: ", line)] == []
    assert [name for name in left[0] if left[0][name] != left[1].get(name)] == [] and "scan.part" in left[0]
