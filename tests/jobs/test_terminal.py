"""What C libraries write on the standard error: codecs' lines are left out, everything else arrives, also from a crash."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from jobs.terminal import painted

CODE = """
import os, signal, sys
from jobs.terminal import filter_libraries
filter_libraries()
print("ours", file=sys.stderr)
os.write(2, {written!r})
{end}
"""


def standard_error(written: bytes, end: str = "") -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", CODE.format(written=written, end=end)], capture_output=True, timeout=20)
    return done.returncode, done.stderr.decode("utf-8", "replace")


@pytest.mark.parametrize(
    "line",
    [b"libpng error: IDAT: CRC error\n", b"libpng warning: x\n", b"Corrupt JPEG data: 3 bytes\n", b"TIFFReadDirectory: x\n"],
)
def test_the_lines_of_codecs_do_not_reach_the_terminal(line: bytes) -> None:
    assert standard_error(line) == (0, "ours\n")


@pytest.mark.parametrize(
    "end", ["", "os.abort()", "os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(3)", "print('b', file=sys.stderr)"]
)
def test_the_last_words_of_a_library_arrive_however_the_process_ends(end: str) -> None:
    status, text = standard_error(b"libpng error: x\nF0000 Check failed: \xff\nhalf", end)
    assert {"ours", "half"} <= set(text.splitlines()) and "Check failed" in text and "libpng" not in text
    assert status == {"": 0, "os.abort()": -6, "sys.exit(3)": 3}.get(end, status)


def test_an_interrupt_of_the_group_does_not_end_what_passes_lines_on() -> None:
    end = "signal.signal(signal.SIGTERM, lambda *_: None); os.killpg(0, signal.SIGTERM); os.write(2, b'after\\n')"
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(written=b"before\n", end=end)], capture_output=True, timeout=20, start_new_session=True
    )
    assert {"before", "after"} <= set(done.stderr.decode().splitlines())


def test_a_child_that_outlives_the_command_does_not_keep_it() -> None:
    code = CODE.format(written=b"x\n", end="import subprocess; subprocess.Popen(['sleep', '30'], stdout=subprocess.DEVNULL)")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert process.wait(25) == 0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "variables", "expected"),
    [
        (Terminal(), {"TERM": "xterm"}, "\x1b[1;31mtext\x1b[0m"),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, "text"),
        (Terminal(), {"TERM": "dumb"}, "text"),
        (io.StringIO(), {"TERM": "xterm"}, "text"),
    ],
)
def test_colours_are_for_terminals_that_have_them_and_people_who_want_them(
    stream: io.StringIO, variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert painted("text", "bold", "red", stream=stream) == expected
