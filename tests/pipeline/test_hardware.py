"""What the CPU is said to compute in, and freed memory that goes back to the system."""

from __future__ import annotations

import io
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline import load_spec, run
from pipeline.errors import WrongSpec
from pipeline.hardware import emulates_bfloat16, release_memory
from pipeline.progress import Reporter


@pytest.mark.parametrize(
    ("said", "emulates"),
    [
        ("flags\t\t: fpu avx512f avx512_vnni\n", True),
        ("flags\t\t: fpu avx512f avx512_bf16\n", False),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", False),
        ("Features\t: fp asimd bf16\n", False),
        ("Features\t: fp asimd\n", True),
        ("model name\t: unknown\n", False),
    ],
)
def test_bfloat16_is_emulated_by_cpus_whose_flags_do_not_have_it(tmp_path: Path, said: str, emulates: bool) -> None:
    cpu = tmp_path / "cpuinfo"
    cpu.write_text(said)
    assert emulates_bfloat16(cpu) is emulates
    assert not emulates_bfloat16(tmp_path / "none")


@pytest.mark.parametrize(("emulates", "precision"), [(True, "bfloat16"), (True, "float32"), (False, "bfloat16")])
def test_a_scan_that_is_slower_in_bfloat16_says_so(
    tmp_path: Path, write_spec: Any, monkeypatch: pytest.MonkeyPatch, emulates: bool, precision: str
) -> None:
    monkeypatch.setattr("pipeline.stages.activations.emulates_bfloat16", lambda: emulates)
    said = io.StringIO()
    spec = load_spec(write_spec(tmp_path / "spec.toml", model={"precision": precision}))
    with suppress(WrongSpec):  # of CPUs for which TensorFlow cannot emulate it
        run(spec, tmp_path, ["activations"], Reporter("tiny", said))
    assert ("warning: this CPU has neither" in said.getvalue()) == (emulates and precision == "bfloat16")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone keeps freed memory")
def test_what_was_freed_between_pieces_that_are_still_in_use_goes_back_to_the_system() -> None:
    pieces = [bytearray(100_000) for _ in range(1500)]
    kept = pieces[::50]
    del pieces
    before = _resident()
    release_memory()
    assert before - _resident() > 100_000_000
    assert len(kept) == 30


def _resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
