"""How busy the GPUs are by nvidia-smi, with a stand-in for it."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.hardware import watch_gpu
from pipeline.options import RunOptions


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function: put a program called nvidia-smi first on the path; it writes the given text and keeps running."""

    def put(output: Any) -> Any:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/asked\nprintf '{output}'\nexec sleep 60\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        return tmp_path / "asked"

    return put


def watched(asked: Any) -> Any:
    with watch_gpu() as use:
        deadline = time.monotonic() + 10
        while not (asked.exists() and asked.read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
    return use.busy


def test_gpu_use_is_the_mean_of_the_samples_that_are_numbers(smi: Any) -> None:
    assert watched(smi("40\\n[N/A]\\n80\\n")) == 0.6


def test_only_the_gpu_that_the_process_uses_is_looked_at(smi: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = smi("50\\n")
    assert watched(asked) == 0.5 and "--id=0 " in asked.read_text()
    asked.unlink()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert watched(asked) == 0.5 and "--id=3 " in asked.read_text()


def test_a_process_whose_workers_compute_does_not_look(smi: Any) -> None:
    asked = smi("50\\n")
    with watch_gpu(own=False) as use:
        pass
    assert use.busy is None and not asked.exists()


@pytest.mark.parametrize(
    ("engine", "environment", "leaves"),
    [
        ("local", {}, False),
        ("ray", {}, True),
        ("ray", {"CUDA_VISIBLE_DEVICES": "0"}, True),
        ("ray", {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}", "CUDA_VISIBLE_DEVICES": ""}, True),
        ("ray", {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}", "CUDA_VISIBLE_DEVICES": "2"}, False),
    ],
)
def test_the_process_that_starts_ray_leaves_the_gpus_to_the_workers(
    engine: str, environment: dict[str, str], leaves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_JOB_CONFIG_JSON_ENV_VAR", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert RunOptions(engine).leaves_gpus is leaves


def test_without_a_gpu_there_is_no_gpu_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with watch_gpu() as use:
        pass
    assert use.busy is None


def test_where_gpus_are_hidden_nobody_looks(smi: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = smi("50\\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with watch_gpu() as use:
        pass
    assert use.busy is None and not asked.exists()


def test_the_looking_ends_with_the_block_also_when_it_fails(smi: Any) -> None:
    asked = smi("50\\n")
    with contextlib.suppress(RuntimeError), watch_gpu() as use:
        while not asked.exists():
            time.sleep(0.01)
        time.sleep(0.1)
        raise RuntimeError
    assert use.busy == 0.5
