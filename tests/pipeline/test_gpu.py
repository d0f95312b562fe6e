"""How busy the GPUs are by nvidia-smi, with a stand-in for it."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.hardware import watch_gpus


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function: put a program called nvidia-smi first on the path; it writes the given text and keeps running."""

    def put(told: Any) -> Any:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/asked\nprintf '{told}'\nexec sleep 60\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        return tmp_path / "asked"

    return put


def watched(asked: Any) -> Any:
    with watch_gpus() as use:
        deadline = time.monotonic() + 10
        while not (asked.exists() and asked.read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
    return use.busy


def test_gpu_use_is_the_mean_of_the_samples_that_are_numbers(smi: Any) -> None:
    assert watched(smi("40\\n[N/A]\\n80\\n")) == 0.6


def test_only_the_gpus_that_the_process_may_use_are_looked_at(smi: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = smi("50\\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert watched(asked) == 0.5 and "--id=1" in asked.read_text()


def test_without_a_gpu_there_is_no_gpu_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with watch_gpus() as use:
        pass
    assert use.busy is None


def test_where_gpus_are_hidden_nobody_looks(smi: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = smi("50\\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with watch_gpus() as use:
        pass
    assert use.busy is None and not asked.exists()


def test_the_looking_ends_with_the_block_also_when_it_fails(smi: Any) -> None:
    asked = smi("50\\n")
    with contextlib.suppress(RuntimeError), watch_gpus() as use:
        while not asked.exists():
            time.sleep(0.01)
        time.sleep(0.1)
        raise RuntimeError
    assert use.busy == 0.5
