"""The terminal: styles, and what C libraries write there themselves: lines on broken images are left out, the rest passes."""

from __future__ import annotations

import atexit
import os
import re
import select
import signal
import sys
import time
from typing import TextIO

# libpng, libjpeg and libtiff on images whose reason is in index/skipped.parquet.
_LEFT_OUT = re.compile(
    rb"libpng (error|warning): |Corrupt JPEG data: |Premature end of JPEG file|JPEG datastream |TIFF[A-Za-z]*: |Warning, "
)
_PATIENCE = 0.2  # seconds that the beginning of a line waits for its end

_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)


_STYLES = {"bold": 1, "dim": 2, "red": 31, "cyan": 36}


def painted(text: str, *styles: str, stream: TextIO | None = None) -> str:
    """A text in some styles ("bold", "dim", "red", "cyan"), where a stream (absent: the standard output) is a terminal that shows
    them. NO_COLOR in the environment, unless it is empty, turns them off: https://no-color.org."""
    stream = stream or sys.stdout
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb" or not stream.isatty()
    return text if plain or not styles else f"\x1b[{';'.join(str(_STYLES[style]) for style in styles)}m{text}\x1b[0m"


def filter_libraries() -> None:
    """Let a small process of its own read what this one's C code writes on the standard error, and pass on the rest.

    Python's own lines, such as the log and the progress bar, go straight to the terminal. A process and not a thread, so that
    the last words of a library that crashes still arrive. Call once, before any thread is started.
    """
    if sys.platform == "win32" or sys.stderr is None:
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    read, write = os.pipe()
    # held back until the child ignores them: one that came in between would end it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    else:
        os.close(write)
        try:
            _pass_on(read, terminal)
        finally:
            os._exit(0)
    os.close(read)
    os.dup2(write, 2)
    os.close(write)
    sys.stderr = open(terminal, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")  # noqa: SIM115
    atexit.register(_finish, child, terminal)


def is_left_out(line: bytes) -> bool:
    """Whether a line is a codec's own about a broken image."""
    return _LEFT_OUT.match(line) is not None


def _pass_on(read: int, terminal: int) -> None:
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)  # it ends when the last writer has ended
    for stream in (0, 1, 2):
        if stream != terminal:
            os.close(stream)
    pending = b""
    while True:
        if pending and not select.select([read], [], [], _PATIENCE)[0]:
            os.write(terminal, pending)
            pending = b""
        block = os.read(read, 2**16)
        *lines, pending = (pending + block).splitlines(keepends=True) or [b""]
        if pending.endswith(b"\n") or not block:
            lines, pending = [*lines, pending], b""
        for line in lines:
            if not is_left_out(line):
                os.write(terminal, line)
        if not block:
            return


def _finish(child: int, terminal: int) -> None:
    """Let what was written arrive before this process ends; processes that it leaves behind may write for longer."""
    os.dup2(terminal, 2)
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline and not os.waitpid(child, os.WNOHANG)[0]:
        time.sleep(0.001)
