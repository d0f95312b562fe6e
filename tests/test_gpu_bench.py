"""`make gpu-check` on a machine without a GPU, and its parts with what is here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import gpu, gpu_parts
from pipeline.compiled.devices import visible_gpus

without_a_gpu = pytest.mark.skipif(bool(visible_gpus()), reason="a GPU runs it")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["bench.gpu", *arguments])
    return gpu.main()


@without_a_gpu
def test_without_a_gpu_it_says_what_it_would_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    assert run(monkeypatch, "--out", str(tmp_path / "report.json")) == 0
    printed = capsys.readouterr().out
    assert "TensorFlow sees no GPU here" in printed and all(name in printed for name in gpu.PARTS)
    assert not (tmp_path / "report.json").exists()
    assert sum(seconds for _, seconds in gpu.PARTS.values()) <= 600


def test_every_part_is_measured_or_is_the_tests() -> None:
    assert {*gpu_parts.MEASURES} | {"tests"} == {*gpu.PARTS}
    assert all(Path(path).exists() for path in gpu._TESTS)


def test_the_table_and_the_file_hold_what_parts_measure_and_those_that_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    results = {"bytes": {"passed": True, "tables": 7}, "scan": {"passed": False, "error": "out\nof memory"}, "job": {"rate": 2.5}}
    monkeypatch.setattr(gpu, "measured", lambda part, anyway: {**results[part], "seconds": 1.0})
    parts = [word for part in results for word in ("--part", part)]
    assert run(monkeypatch, "--anyway", "--out", str(tmp_path / "report.json"), *parts) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["bytes", "holds", "1.0", "s", "tables", "7"] and "FAILS" in lines[1] and "of memory" in lines[1]
    report = json.loads((tmp_path / "report.json").read_text())
    assert [*report["parts"]] == [*results] and report["environment"]["tensorflow"]


def test_operations_without_a_kernel_are_printed_and_end_with_one(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    missing = {"activations, keras": [], "gradcam, keras": ["MatMul(T=int64)"]}
    monkeypatch.setattr(gpu, "kernels_missing", lambda folder, stages: missing)
    assert run(monkeypatch, "--kernels") == 1
    assert "MatMul(T=int64)" in capsys.readouterr().out
    missing["gradcam, keras"] = []
    assert run(monkeypatch, "--kernels") == 0


@pytest.mark.slow
@pytest.mark.parametrize("part", gpu_parts.MEASURES)
def test_every_part_runs_with_what_is_here(part: str, tmp_path: Path) -> None:
    result = gpu_parts.MEASURES[part](tmp_path)
    assert result and result.get("passed") is not False, result
