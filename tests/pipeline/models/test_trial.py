"""Files that crash or hang their reader: each trial stands in a process of its own, where TensorFlow has not started."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest


def trial(work: str, **bounds: float) -> tuple[str, float]:
    """What is said of some work tried in a child, and how long it took."""
    code = f"""
import os, signal, time
from pipeline.errors import ConvscopeError, UnusableModel
from pipeline.models.trial import try_in_child

def work():
    {work}

try:
    try_in_child(work, "net.pb", **{bounds})
    print("fine")
except ConvscopeError as error:
    print(error)
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip(), time.monotonic() - began


@pytest.mark.parametrize(
    ("work", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "net.pb makes its reader crash (SIGSEGV)"),
        ("os.abort()", "net.pb makes its reader crash (SIGABRT)"),
        ("bytearray(2**40)", "takes more than 8 GiB of memory"),
        ("raise ValueError", "fine"),
        ("raise UnusableModel('x')", "fine"),
        ("print('heard', flush=True)", "fine"),
    ],
)
def test_what_happens_to_the_child_is_said_in_one_line(work: str, said: str) -> None:
    line, _ = trial(work)
    assert said in line and "\n" not in line and "heard" not in line


def test_work_without_end_is_stopped() -> None:
    line, seconds = trial("time.sleep(1000)", seconds=1.0)
    assert "was not opened within 1 seconds" in line and seconds < 60


def test_a_process_whose_tensorflow_runs_already_opens_files_itself() -> None:
    code = """
import tensorflow as tf
tf.constant(1)
from pipeline.models.trial import try_in_child
try_in_child(lambda: 1 / 0, "net.pb")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
