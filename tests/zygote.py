"""Processes that have imported TensorFlow once: each command or program runs in a fork, at its own end or killed before.

A command that starts Python and TensorFlow takes four seconds, a fork less than one: so a thousand can be killed.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# What changes a folder, as Python's audit events name it; `open` counts where it is for writing.
_CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status, or minus the signal; its standard output and error; and the changes it made.

    changes: how many times it was about to create, rename or remove something below the folder it was watched in.
    """

    status: int
    out: str
    err: str
    changes: int = 0


class Zygote:
    """Runs commands of the command line in forks. Use as a context manager."""

    def __enter__(self) -> Zygote:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        settings = {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", "CONVSCOPE_CACHE": "off"}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **settings},
            start_new_session=True,
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def run(self, *words: Any, **settings: Any) -> Ended:
        """Run one command to its end.

        Args:
            settings: `kill_after`: seconds until SIGKILL. `kill_at`: SIGKILL at so many changes below `watched`.
            `user`: a uid and gid to become. `file_size`: bytes that a file may have (RLIMIT_FSIZE). `environment`: variables.
            `address_space`: bytes that the process may take beside what it has.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"words": [str(word) for word in words], **settings}) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))


class Programs:
    """Runs programs in forks of this process as it is now: make it once TensorFlow is imported, and before it starts.

    They have this process's hash seed, and whatever it has imported; a test of either starts Python itself.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        if not os.fork():
            # What pytest and its workers have open would stay so after their end.
            end = os.dup2(theirs.fileno(), 3)
            os.closerange(4, os.sysconf("SC_OPEN_MAX"))
            nothing = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(nothing, stream)
            for line in os.fdopen(end, "r", encoding="utf-8", closefd=False):
                os.write(end, f"{json.dumps(_fork(json.loads(line)))}\n".encode())
            os._exit(0)
        theirs.close()
        self._environment = tuple(os.environ)
        self._socket, self._lines = ours, ours.makefile("rw", encoding="utf-8")

    def run(self, code: str, *arguments: Any, folder: Any = ROOT, environment: dict[str, str | None] | None = None) -> Ended:
        """Run Python's code as `python -c` does, to its end.

        Args:
            folder: the working directory.
            environment: variables beside this process's, whose changes until now it has; None: without it.
        """
        variables: dict[str, str | None] = dict.fromkeys(set(self._environment) - os.environ.keys())
        settings = {"folder": str(folder), "environment": {**variables, **os.environ, **(environment or {})}}
        self._lines.write(json.dumps({"code": code, "words": [str(word) for word in arguments], **settings}) + "\n")
        self._lines.flush()
        return Ended(**json.loads(self._lines.readline()))


def _serve() -> None:
    # A child that becomes somebody else may not be able to read Python's own files.
    import encodings.utf_8_sig  # noqa: F401

    import keras  # noqa: F401
    import tensorflow  # noqa: F401

    import pipeline.models.keras.keras_file
    import pipeline.report.page
    import pipeline.stages  # noqa: F401
    from jobs import commands  # noqa: F401

    for line in sys.stdin:
        print(json.dumps(_fork(json.loads(line))), flush=True)


def _fork(request: dict[str, Any]) -> dict[str, Any]:
    import tempfile
    from concurrent.futures import ThreadPoolExecutor

    ends = [os.pipe() for _ in range(2)]  # a limit of a file's size would cut what is written to a file
    with tempfile.TemporaryFile() as count:
        child = os.fork()
        if not child:
            os.setsid()
            for stream, (_, written) in enumerate(ends, 1):
                os.dup2(written, stream)
            for end in sum(ends, ()):
                os.close(end)
            os._exit(_work(request, count.fileno()))
        for _, written in ends:
            os.close(written)
        with ThreadPoolExecutor(len(ends)) as readers:  # from the start: a pipe that is full holds its writer up
            texts = readers.map(_all_of, [read for read, _ in ends])
            status = _wait(child, request.get("kill_after"))
        count.seek(0)
        out, err = texts
        return {"status": status, "out": out, "err": err, "changes": len(count.read())}


def _all_of(end: int) -> str:
    with os.fdopen(end, "rb") as file:
        return file.read().decode("utf-8", "replace")


def _wait(child: int, kill_after: float | None) -> int:
    import signal
    import time

    if kill_after is not None:
        deadline = time.monotonic() + kill_after
        while time.monotonic() < deadline:
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
            time.sleep(0.002)
        else:
            os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _work(request: dict[str, Any], count: int) -> int:
    import resource
    import traceback

    for name, value in request.get("environment", {}).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if "watched" in request:
        _watch(request["watched"], request.get("kill_at"), count)
    if "file_size" in request:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"], request["file_size"]))
    if "address_space" in request:
        with open("/proc/self/statm", encoding="ascii") as file:
            limit = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + request["address_space"]
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if "user" in request:
        os.setgroups([])
        os.setgid(request["user"])
        os.setuid(request["user"])
    try:
        if "code" in request:
            _run_program(request)
            status = 0
        else:
            from jobs.cli import main

            status = main(request["words"])
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 99
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def _run_program(request: dict[str, Any]) -> None:
    """Python's code as the main module, with the streams of this process instead of pytest's."""
    sys.stdout, sys.stderr = (open(stream, "w", encoding="utf-8", closefd=False) for stream in (1, 2))  # noqa: SIM115
    os.chdir(request["folder"])
    sys.argv = ["-c", *request["words"]]
    sys.modules["__main__"] = main = ModuleType("__main__")
    try:
        exec(compile(request["code"], "<string>", "exec"), main.__dict__)
    finally:
        measured = sys.modules["coverage"].Coverage.current() if "coverage" in sys.modules else None
        if measured is not None:  # what the forked process measured so far goes on here, but is not written at a bare exit
            measured.stop()
            measured.save()


def _watch(folder: str, kill_at: int | None, count: int) -> None:
    """Note every change below a folder, and end the process just before one of them."""
    import signal

    changes = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        if event not in _CHANGES or not arguments:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return
        try:
            path = os.fspath(arguments[0])
        except TypeError:  # an open file, by its number
            return
        if str(path).startswith(folder):
            changes += 1
            os.write(count, b".")
            if changes == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


if __name__ == "__main__":
    _serve()
