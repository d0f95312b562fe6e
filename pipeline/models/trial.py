"""A file from a stranger is opened in a child process first: a crash or a hang of TensorFlow's there is an error here."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from pipeline.compiled.tf_private import has_started
from pipeline.errors import ConvscopeError, UnusableModel

T = TypeVar("T")

_SECONDS = 120.0  # of wall clock that opening may take
_BYTES = 8 * 2**30  # of address space that opening may add
_OUT_OF_MEMORY = 3
_PLAIN = {
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("pathlib", "PosixPath"),
    ("collections", "OrderedDict"),
    ("builtins", "set"),
    ("builtins", "frozenset"),
}


def try_in_child(
    work: Callable[[], object],
    where: str,
    seconds: float = _SECONDS,
    cpu: int | None = None,
    runs_tensorflow: bool = True,
) -> bool:
    """Do some work in a forked child, for what may happen to it; its result and its Python exceptions are thrown away.

    What crashes is the C++ of TensorFlow and HDF5, on files that contradict themselves. Nothing is tried where there is no fork,
    nor with TensorFlow where it has started its threads: the command line opens networks before that, a notebook perhaps after.

    Args:
        where: what errors call the file.
        seconds: how long the work may take.
        cpu: seconds of a processor that it may take; None: any number within `seconds`.
        runs_tensorflow: whether it does: a fork takes none of the threads along that TensorFlow has started.

    Returns: whether it was tried.
    Raises: UnusableModel, where the child was killed by a signal, took too long or ran out of memory.
    """
    if sys.platform != "linux" or (runs_tensorflow and has_started()):
        return False
    sys.stdout.flush()
    sys.stderr.flush()
    with _no_collection(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads; NumPy's are idle
        child = os.fork()
        if not child:
            try:
                os._exit(_in_child(work, cpu))
            finally:  # whatever happens, the child never goes on as its parent
                os._exit(0)
    status = _wait(child, seconds)
    advice = "The file is broken or made to break its reader: save the network again. model.trusted = true skips this trial."
    if status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        raise UnusableModel(f"{where} was not opened within {seconds if status is None else cpu:.0f} seconds. {advice}")
    if os.WIFSIGNALED(status):
        raise UnusableModel(f"{where} makes its reader crash ({signal.Signals(os.WTERMSIG(status)).name}). {advice}")
    if os.WEXITSTATUS(status) == _OUT_OF_MEMORY:
        raise UnusableModel(f"{where} takes more than {_BYTES / 2**30:.0f} GiB of memory to open. {advice}")
    return True


def opened_in_child(work: Callable[[], T], where: str) -> Callable[[], T | None]:
    """Do some work in a forked child, as `try_in_child` does; it is done once, and handed over when it is called for.

    The child writes what it has made into memory that both share. The parent takes nothing from there but instances of
    convscope's own classes, arrays and plain values; what else a child that was taken over might write is not looked up.
    Taking it may start TensorFlow in the parent, so children of other files are to end before.

    Returns: what gives the result, or raises the ConvscopeError that the work raised. It gives None where no child was tried,
        where the child met another exception, and where its result cannot be handed over.
    Raises: as `try_in_child`.
    """
    if sys.platform != "linux":
        return lambda: None
    shared = os.fdopen(os.memfd_create("opened"), "w+b")

    def hand() -> None:
        try:
            result: object = work()
        except ConvscopeError as error:
            result = error
        pickle.dump(result, shared, protocol=5)
        shared.flush()

    def taken() -> T | None:
        with shared:
            if not was_tried or not os.fstat(shared.fileno()).st_size:
                return None
            shared.seek(0)
            try:
                result = _Handed(shared).load()
            except Exception:  # cut short: the work ended in an exception
                return None
        if isinstance(result, ConvscopeError):
            raise result
        return cast(T, result)

    weakref.finalize(taken, shared.close)  # whether it is called or not: opening this file, or another, may end in an error
    was_tried = try_in_child(hand, where)
    return taken


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without Python's collector, which in a forked child would run finalizers of the parent's garbage.

    That of an iterator over a tf.data.Dataset waits for the parent's threads, and in the child for ever.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Handed(pickle.Unpickler):
    """Reads classes of convscope, of pathlib and of NumPy's arrays, and nothing else: no function but what makes those."""

    def find_class(self, module: str, name: str) -> Any:
        value = super().find_class(module, name) if module.startswith("pipeline.") or (module, name) in _PLAIN else None
        if isinstance(value, type) or (module, name) in _PLAIN:
            return value
        raise pickle.UnpicklingError(f"{module}.{name} is not handed over")


def _in_child(work: Callable[[], object], cpu: int | None) -> int:
    import resource

    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what C++ says as it dies
        os.dup2(silent, stream)
    with open("/proc/self/statm", encoding="ascii") as file:
        taken = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    for kind, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, taken + _BYTES), (resource.RLIMIT_CPU, cpu)):
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
