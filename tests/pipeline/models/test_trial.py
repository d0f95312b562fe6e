"""Files that crash or hang their reader: each trial stands in a process of its own, where TensorFlow has not started."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

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


def test_what_a_child_has_lived_through_is_not_tried_again_until_it_changes(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from pipeline.errors import UnusableModel
from pipeline.models.trial import try_once

def tried(settings="", work=lambda: os.write(write, b"x")):
    try_once(work, Path("net.pb"), settings)
    return os.read(read, 9) if select.select([read], [], [], 0)[0] else b""

import select
read, write = os.pipe()
print([tried(), tried(), tried("size = 8"), tried("size = 8")])
Path("net.pb").write_bytes(b"another")
print([tried(), tried()])
Path("net.pb").write_bytes(b"a third")
for _ in range(2):
    try:
        tried(work=os.abort)
    except UnusableModel as error:
        print("crash" in str(error))
"""
    (tmp_path / "net.pb").write_bytes(b"a graph")
    environment = {**os.environ, "CONVSCOPE_CACHE": str(tmp_path / "cache"), "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    assert done.stdout.split("\n")[:4] == ["[b'x', b'', b'x', b'']", "[b'x', b'']", "True", "True"]
