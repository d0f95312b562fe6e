"""Files that crash or hang their reader: each trial stands in a process of its own, where TensorFlow has not started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_OUTCOMES = [
    ("os.kill(os.getpid(), signal.SIGSEGV)", {}, "net.pb makes its reader crash (SIGSEGV)"),
    ("os.abort()", {}, "net.pb makes its reader crash (SIGABRT)"),
    ("bytearray(2**40)", {}, "takes more than 8 GiB of memory"),
    ("time.sleep(1000)", {"seconds": 1.0}, "was not opened within 1 seconds"),
    ("raise_(ValueError())", {}, "fine"),
    ("raise_(UnusableModel('x'))", {}, "fine"),
    ("print('heard', flush=True)", {}, "fine"),
]
_TRIALS = """
import json, os, signal, sys, time
from pipeline.errors import ConvscopeError, UnusableModel
from pipeline.models.trial import try_in_child

def raise_(error):
    raise error

for work, bounds in json.loads(sys.argv[1]):
    began = time.monotonic()
    try:
        try_in_child(lambda: eval(work), "net.pb", **bounds)
        said = "fine"
    except ConvscopeError as error:
        said = str(error)
    print(json.dumps([said, time.monotonic() - began]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, tuple[str, float]]:
    """{work: what is said of it, and how long it took}: each tried in a child of its own, of one process."""
    works = json.dumps([(work, bounds) for work, bounds, _ in _OUTCOMES])
    done = subprocess.run([sys.executable, "-c", _TRIALS, works], capture_output=True, text=True, check=True)
    assert "heard" not in done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {work: (said, seconds) for (work, _, _), (said, seconds) in zip(_OUTCOMES, lines, strict=True)}


@pytest.mark.parametrize(("work", "said"), [(work, said) for work, _, said in _OUTCOMES])
def test_what_happens_to_the_child_is_said_in_one_line_and_soon(outcomes: Any, work: str, said: str) -> None:
    line, seconds = outcomes[work]
    assert said in line and "\n" not in line and seconds < 60


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
