"""Locks: one run at a time in a folder, on this machine or at an address."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import FolderHeld, StoreFailed, Unreachable
from pipeline.store import remote
from pipeline.store.files import store_failed
from pipeline.store.places import Place, Remote

REFRESHED_EVERY = 30.0  # seconds
STALE_AFTER = 300.0  # seconds: many refreshes, and more than the clocks of two machines are apart
_SETTLES_IN = 1.0  # seconds, until the last of two that take over at once is known


@contextlib.contextmanager
def hold(folder: Place, say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Keep other runs out of a folder.

    On this machine the system lets go of a dead holder's lock by itself. A remote lock is an object that its holder
    refreshes; one that has not been for a while, or whose process on this host has ended, is taken over.

    Args:
        say: told when a lock is taken over.

    Raises: FolderHeld, StoreFailed.
    """
    with _hold_local(folder) if isinstance(folder, Path) else _hold_remote(folder, say):
        yield


@contextlib.contextmanager
def _hold_local(folder: Path) -> Iterator[None]:
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = path.open("a+b", buffering=0)  # nothing waits to be written when it is closed
    except OSError as error:
        raise store_failed(folder, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise _held(folder, lock.read().decode().strip() or "another run") from None
        except OSError as error:  # a file system without locks
            raise store_failed(path, error) from error
        try:
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()} since {_utc(time.time())}".encode())
        except OSError as error:
            raise store_failed(path, error) from error
        try:
            yield
        finally:
            lock.truncate(0)


@contextlib.contextmanager
def _hold_remote(folder: Remote, say: Callable[[str], None]) -> Iterator[None]:
    lock = _RemoteLock(folder)
    lock.take(say)
    stop = threading.Event()
    thread = threading.Thread(target=lock.keep, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        taken_by = lock.release()
    if taken_by is not None:
        raise _held(folder, f"{_describe(taken_by)}, which took it over while this run could not refresh its lock")


class _RemoteLock:
    """The lock object of a folder: JSON with the holder's host, process, times, and a token of its own."""

    def __init__(self, folder: Remote) -> None:
        self._folder = folder
        self._address = str(folder / ".lock")
        self._me = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": _utc(time.time()),
            "token": uuid.uuid4().hex,
        }

    def take(self, say: Callable[[str], None]) -> None:
        """Raises: FolderHeld, MissingInput where the address does not answer, StoreFailed."""
        try:
            if remote.answered(self._create, self._address):
                return
            holder = self._holder()
            if holder is not None and not _is_gone(holder):
                raise _held(self._folder, _describe(holder))
            if holder is not None:
                say(f"the lock of {_describe(holder)} is stale: taken over")
            self._write()
            time.sleep(_SETTLES_IN)
            if not self._is_mine():
                raise _held(self._folder, _describe(self._holder() or {}))
        except (OSError, NotImplementedError, Unreachable) as error:
            raise _unwritable(self._folder, error) from error

    def keep(self, stop: threading.Event) -> None:
        """Refresh the lock until told to stop, or until it is another's."""
        while not stop.wait(REFRESHED_EVERY):
            # What cannot be refreshed now may be at the next turn; `release` tells if it was lost meanwhile.
            with contextlib.suppress(Exception):
                if not self._is_mine():
                    return
                self._write()

    def release(self) -> dict[str, Any] | None:
        """Remove the lock. Returns: who took it over, if anyone did."""
        with contextlib.suppress(Exception):
            holder = self._holder()
            if holder is not None and holder.get("token") != self._me["token"]:
                return holder
            Remote(self._address).unlink(missing_ok=True)
        return None

    def _create(self) -> bool:
        """Write the lock if there is none; stores that cannot say so in one step are asked again a moment later."""
        system, path = remote.file_system(self._address)
        try:
            system.pipe_file(path, self._content(), mode="create")
        except FileExistsError:
            return self._is_mine()  # an attempt before this one may have gone through, and its answer been lost
        return self._is_mine()

    def _write(self) -> None:
        system, path = remote.file_system(self._address)
        remote.patiently(lambda: system.pipe_file(path, self._content()), self._address)

    def _content(self) -> bytes:
        return json.dumps({**self._me, "refreshed": time.time()}).encode()

    def _holder(self) -> dict[str, Any] | None:
        try:
            found = json.loads(remote.read(self._address))
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _is_mine(self) -> bool:
        return (self._holder() or {}).get("token") == self._me["token"]


def _is_gone(holder: dict[str, Any]) -> bool:
    if time.time() - float(holder.get("refreshed", 0)) > STALE_AFTER:
        return True
    if holder.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(holder["process"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, ValueError):
        pass
    return False


def _describe(holder: dict[str, Any]) -> str:
    return f"process {holder.get('process', '?')} on {holder.get('host', '?')} since {holder.get('since', '?')}"


def _held(folder: Place, holder: str) -> FolderHeld:
    return FolderHeld(f"{folder} is held by {holder}. Wait for it, or choose another --out.")


def _unwritable(folder: Remote, error: Exception) -> StoreFailed:
    reason = " ".join(str(error.args[0] if isinstance(error, Unreachable) else error).split()).rstrip(".")
    return StoreFailed(f"{folder} cannot be written: {reason or type(error).__name__}. Choose another --out.")


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
