"""A file from a stranger is opened in a child process first: a crash or a hang of TensorFlow's there is an error here."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipeline.compiled.tf_private import has_started
from pipeline.errors import ConvscopeError, UnusableModel
from pipeline.store.user_cache import user_cache

_SECONDS = 120.0  # of wall clock that opening may take
_BYTES = 8 * 2**30  # of address space that opening may add
_OUT_OF_MEMORY = 3
_RULES = 1  # raised where files are read otherwise than before
_MOST_MARKS = 1000


def try_in_child(
    work: Callable[[], object], where: str, seconds: float = _SECONDS, memory: int = _BYTES, cpu: int | None = None
) -> bool:
    """Do some work in a forked child, for what may happen to it; its result and its Python exceptions are thrown away.

    What crashes is the C++ of TensorFlow and HDF5, on files that contradict themselves. Nothing is tried where there is no fork,
    or where TensorFlow has already started its threads, which a fork does not take along: the command line opens networks
    before that, a notebook perhaps after.

    Args:
        where: what errors call the file.
        seconds: how long the work may take.
        memory: bytes of address space that it may add.
        cpu: seconds of a processor that it may take; None: any number within `seconds`.

    Returns: whether it was tried.
    Raises: UnusableModel, where the child was killed by a signal, took too long or ran out of memory.
    """
    if sys.platform != "linux" or has_started():
        return False
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads; NumPy's are idle
        child = os.fork()
    if not child:
        try:
            os._exit(_in_child(work, memory, cpu))
        finally:  # whatever happens, the child never goes on as its parent
            os._exit(0)
    status = _wait(child, seconds)
    advice = "The file is broken or made to break its reader: save the network again. model.trusted = true skips this trial."
    if status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        raise UnusableModel(f"{where} was not opened within {seconds if status is None else cpu:.0f} seconds. {advice}")
    if os.WIFSIGNALED(status):
        raise UnusableModel(f"{where} makes its reader crash ({signal.Signals(os.WTERMSIG(status)).name}). {advice}")
    if os.WEXITSTATUS(status) == _OUT_OF_MEMORY:
        raise UnusableModel(f"{where} takes more than {memory / 2**30:.0f} GiB of memory to open. {advice}")
    return True


def try_once(work: Callable[[], object], path: Path, settings: str) -> None:
    """As `try_in_child`, once for a graph: the user's cache remembers what a child has lived through.

    Args:
        path: a file, or the folder of a SavedModel.
        settings: what else decides how it is opened.
    """
    cache = user_cache()
    mark = None if cache is None else cache / "trials" / _digest(path, settings)
    if (mark is not None and mark.exists()) or not try_in_child(work, str(path)) or mark is None:
        return
    with contextlib.suppress(OSError):
        mark.parent.mkdir(parents=True, exist_ok=True)
        marks = list(mark.parent.iterdir())
        for old in marks if len(marks) >= _MOST_MARKS else ():
            old.unlink()
        mark.touch()


def _digest(path: Path, settings: str) -> str:
    """Of all that is read of a file or a SavedModel, the settings, and the versions of what reads it."""
    digest = hashlib.sha256(f"{tf.__version__} {np.__version__} {_RULES} {settings}".encode())
    folder = [path / "saved_model.pb", *sorted((path / "variables").glob("*"))] if path.is_dir() else [path]
    for file in filter(Path.is_file, folder):
        with file.open("rb") as content:
            digest.update(f"\0{file.relative_to(path)}\0".encode() + hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _in_child(work: Callable[[], object], memory: int, cpu: int | None) -> int:
    import resource

    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what C++ says as it dies
        os.dup2(silent, stream)
    with open("/proc/self/statm", encoding="ascii") as file:
        taken = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    for kind, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, taken + memory), (resource.RLIMIT_CPU, cpu)):
        _, hard = resource.getrlimit(kind)
        if most is not None and (hard == resource.RLIM_INFINITY or most <= hard):  # a tighter one stays
            resource.setrlimit(kind, (most, hard))
    try:
        work()
    except ConvscopeError:
        return 0  # the parent meets the same, and says it
    except MemoryError:
        return _OUT_OF_MEMORY
    except BaseException:
        return 0
    return 0


def _wait(child: int, seconds: float) -> int | None:
    """The status a child ends with; None where it took too long and was killed."""
    deadline, pause = time.monotonic() + seconds, 0.001
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None
