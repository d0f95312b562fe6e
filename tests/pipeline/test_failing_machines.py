"""Machines that fail: a full disk at each stage, a folder that an ordinary user may not write, little memory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from zygote import Zygote

from pipeline.stages import STAGES as EVERY_STAGE

NOBODY = 65534
STAGES = {
    "activations": "",
    "filters": "",
    "featuremaps": "[featuremaps]\nfirst = 2\n",
    "gradcam": "[gradcam]\nfirst = 1\nmethods = ['gradcam']\n",
    "patterns": "[patterns]\nlayers = 'edges'\nsteps = 2\nbatch = 2\n",
    "dream": "[dream]\nfirst = 1\nlayers = 'edges'\niterations = 1\nnum_octave = 1\n",
    "concepts": "[concepts]\nmasks = { source = 'colours' }\nembeddings = { layer = 'shapes' }\n",
    "directions": "[directions]\nlayers = ['edges']\nmethods = ['pca2', 'topk4']\nsparsity = 2\nsteps = 5\n",
    "atlas": "[atlas]\nlayers = ['edges']\nper_image = 12\nneighbours = 5\ngrids = [2]\nsteps = 1\n",
    "circuits": "",
    "report": "",
}
AFTER_A_SCAN = ("circuits", "concepts", "report")


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as started:
        yield started


def write(path: Path, tiny_file: Any, pictures: Any, named: list[str]) -> Path:
    tables = "".join(STAGES[stage] for stage in named)
    path.write_text(
        f'name = "tiny"\nstages = {json.dumps(named)}\n[model]\nsource = "file:{tiny_file}"\nlayers = ["edges", "shapes"]\n'
        f'preprocess = "none"\nhead = "linear"\n[data]\nsource = "folder:{pictures}"\nbatch = 8\n{tables}'
    )
    return path


def assert_whole(folder: Path) -> None:
    for path in folder.rglob("*.parquet"):
        if not path.name.startswith("."):
            pq.read_table(path)


def test_no_stage_is_left_out_here() -> None:
    assert STAGES.keys() == EVERY_STAGE.keys()


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_fills_up_in_a_stage_is_one_line_and_the_job_ends_once_there_is_room(
    stage: str, zygote: Zygote, tiny_file: Any, pictures: Any, tmp_path: Path
) -> None:
    """Every file may have so many bytes, so that each file of the stage in turn is the first that does not fit."""
    needed = ["activations", stage] if stage in AFTER_A_SCAN else [stage]
    spec = write(tmp_path / "job.toml", tiny_file, pictures, needed)
    whole = zygote.run("run", spec, "--out", tmp_path / "whole")
    assert whole.status == 0, whole.err
    sizes = sorted({path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file()})
    limits = [size - 1 for size in sizes if size > 1]
    for limit in {limits[0], limits[len(limits) // 2], limits[-1]}:
        ended = zygote.run("run", spec, "--out", tmp_path / "out", file_size=limit)
        assert ended.status == 1 and ended.err.splitlines()[-1].startswith(("StoreFailed: ", "Fault: ")), ended.err
        assert "Traceback" not in ended.err and "too large" in ended.err
        assert_whole(tmp_path / "out")
    ended = zygote.run("run", spec, "--out", tmp_path / "out")
    assert ended.status == 0, ended.err
    left, expected = ({path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*")} for name in ("out", "whole"))
    assert left == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
@pytest.mark.parametrize("command", ["run", "check", "report", "compare", "merge", "picture"])
def test_an_ordinary_user_who_may_not_write_a_folder_is_told_so_in_one_line(
    command: str, zygote: Zygote, tiny_file: Any, pictures: Any, finished: Any
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are root's alone
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copy(tiny_file, folder / "tiny.keras")
        shutil.copytree(pictures, folder / "pictures")
        spec = write(folder / "job.toml", folder / "tiny.keras", folder / "pictures", ["activations"])
        job = shutil.copytree(finished, folder / "out" / "tiny")
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        words = {
            "run": ["run", spec, "--out", folder / "out", "--anew"],
            "check": ["check", spec, "--out", folder / "out"],
            "report": ["report", job],
            "compare": ["compare", job, job, "--out", folder / "compared"],
            "merge": ["merge", job],
            "picture": ["picture", job, "--image", "0"],
        }
        ended = zygote.run(*words[command], user=NOBODY)
        assert ended.status in (1, 2) and len(ended.err.splitlines()) == 1, ended.err
        assert "Permission denied" in ended.err and str(folder) in ended.err
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
        shown = zygote.run("show", job, user=NOBODY)
        assert shown.status == 0 and "finished" in shown.out, shown.err
        searched = zygote.run("search", job, "cat", user=NOBODY)
        assert searched.status == 0 and "why" in searched.out, searched.err


@pytest.mark.slow  # it fills two gigabytes first
def test_a_process_without_memory_ends_in_one_line(zygote: Zygote, tiny_file: Any, pictures: Any, tmp_path: Path) -> None:
    spec = write(tmp_path / "job.toml", tiny_file, pictures, ["activations"])
    ended = zygote.run("run", spec, "--out", tmp_path / "out", "--set", "data.batch=1000000", address_space=2**31)
    assert ended.status == 1 and ended.err.splitlines()[-1].startswith("Fault: out of memory."), ended.err[-2000:]
    assert "Traceback" not in ended.err
