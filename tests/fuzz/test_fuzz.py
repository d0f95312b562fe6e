"""The fuzzer's short pass: every kind of broken input that is known, what longer runs found, and some new ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Opened in processes of their own, which takes most of the time; tests/pipeline/models attacks them too.
SLOW = {"frozen", "savedmodel", "checkpoint", "keras", "h5", "onnx", "tfrecord"}
DOORS = [
    *("spec", "set", "params", "classes", "parquet", "tar", "image", "window", "list", "labels"),
    *("receipt", "scan", "shard", "index", "atlas"),
]


def fuzz(*words: str) -> tuple[int, str]:
    """The fuzzer's exit status, and what it printed; started as `make fuzz` starts it, without a path."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "fuzz", *words],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    return done.returncode, done.stdout + (done.stderr[-3000:] if done.returncode else "")


def test_a_case_is_the_same_whatever_was_made_before_it() -> None:
    """What nasty values are put into trees must not be what the next mutation changes."""
    sys.path.insert(0, str(ROOT / "tests" / "fuzz"))
    from mutation import NASTY, mutate_tree

    whole = repr(NASTY)
    for seed in range(2000):
        mutate_tree(Random(seed), {"a": [1, {"b": 2}], "c": "x"})
    assert repr(NASTY) == whole


def test_no_broken_input_ends_in_a_traceback_a_crash_a_hang_or_a_long_message() -> None:
    status, printed = fuzz("--cases", "24", "--every", "3", "--seed", "0", "--doors", *DOORS)
    assert status == 0, printed
    assert int(re.findall(r"([\d,]+) cases in", printed)[0]) >= 70, printed


@pytest.mark.slow
def test_no_broken_network_does_either() -> None:
    status, printed = fuzz("--cases", "60", "--seed", "0", "--workers", "2", "--doors", *sorted(SLOW))
    assert status == 0, printed
