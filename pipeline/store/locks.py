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
from io import FileIO
from pathlib import Path
from typing import Any

from pipeline.errors import FolderHeld, StoreFailed, Unreachable
from pipeline.store import remote
from pipeline.store.files import check_links, store_failed
from pipeline.store.places import Place, Remote

REFRESHED_EVERY = 30.0  # seconds
STALE_AFTER = 300.0  # seconds: many refreshes, and more than the clocks of two machines are apart
_WATCHED_FOR = 2.5  # refresh intervals for which a lock that looks stale is watched
_SETTLES_IN = 1.0  # seconds after which the winner of two runs that take over at once is known


@contextlib.contextmanager
def hold(folder: Place, say: Callable[[str], None] = lambda line: None, part: tuple[int, int] | None = None) -> Iterator[None]:
    """Keep other runs out of a folder, or out of one shard of its job.

    A local lock ends with the process that holds it. A remote lock is an object that its holder refreshes. It is taken over
    if it was not refreshed for a while and is not refreshed while it is watched, or if its process on this host has ended.

    Args:
        say: called when a lock is taken over.
        part: the shard, from 0, and how many there are; absent: the folder.

    Raises: FolderHeld, StoreFailed.
    """
    if part is None:
        title, lock = str(folder), folder / ".lock"
    else:
        shard, count = part[0] + 1, part[1]
        title, lock = f"shard {shard} of {count} in {folder}", folder / "parts" / f".{shard}-of-{count}.lock"
    with _hold_local(title, lock, part is not None) if isinstance(lock, Path) else _hold_remote(title, lock, say):
        check_links(folder)
        yield


@contextlib.contextmanager
def _hold_local(title: str, path: Path, removed: bool) -> Iterator[None]:
    """removed: whether the file is removed when the lock is released."""
    with _locked(title, path) as lock:
        try:
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()} since {_utc(time.time())}".encode())
        except OSError as error:
            raise store_failed(path, error) from error
        try:
            yield
        finally:
            lock.truncate(0)
            if removed:
                with contextlib.suppress(OSError):
                    path.unlink()


def _locked(title: str, path: Path) -> FileIO:
    """The lock's file, open and locked."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileIO(path, "a+", opener=_not_through_links)  # unbuffered: closing it writes nothing
        except OSError as error:
            raise store_failed(path.parent, error) from error
        with contextlib.ExitStack() as unused:
            unused.enter_context(lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The last holder may have removed the file after this process opened it; then the lock is ineffective.
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                        unused.pop_all()
                        return lock
            except BlockingIOError:
                lock.seek(0)
                raise _held(title, lock.read().decode().strip() or "another run") from None
            except OSError as error:  # a file system without locks
                raise store_failed(path, error) from error


def _not_through_links(path: str, flags: int) -> int:
    """Open a file, but not what a link in its place leads to: the lock is emptied."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


@contextlib.contextmanager
def _hold_remote(title: str, address: Remote, say: Callable[[str], None]) -> Iterator[None]:
    lock = _RemoteLock(title, address)
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
        raise _held(title, f"{_describe(taken_by)}, which took it over while this run could not refresh its lock")


class _RemoteLock:
    """A lock object: JSON with the holder's host, process, times, and a token of its own."""

    def __init__(self, title: str, address: Remote) -> None:
        self._what = title
        self._address = str(address)
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
            if holder is not None and not self._is_gone(holder):
                raise _held(self._what, _describe(holder))
            if holder is not None:
                say(f"the lock of {_describe(holder)} is stale: taken over")
            self._write()
            time.sleep(_SETTLES_IN)
            if not self._is_mine():
                raise _held(self._what, _describe(self._holder() or {}))
        except (OSError, NotImplementedError, Unreachable) as error:
            raise _unwritable(self._address, error) from error

    def keep(self, stop: threading.Event) -> None:
        """Refresh the lock until `stop` is set, or another run holds it."""
        while not stop.wait(REFRESHED_EVERY):
            # A failed refresh is retried at the next interval; `release` notices if the lock was lost in the meantime.
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
        """Write the lock if there is none, and read it back: not every store can do this in one step."""
        system, path = remote.file_system(self._address)
        try:
            system.pipe_file(path, self._content(), mode="create")
        except FileExistsError:
            return self._is_mine()  # an earlier attempt may have succeeded though its answer was lost
        return self._is_mine()

    def _write(self) -> None:
        system, path = remote.file_system(self._address)
        remote.patiently(lambda: system.pipe_file(path, self._content()), self._address)

    def _content(self) -> bytes:
        return json.dumps({**self._me, "refreshed": time.time()}).encode()

    def _holder(self) -> dict[str, Any] | None:
        try:
            holder = json.loads(remote.read(self._address))
        except (FileNotFoundError, ValueError):
            return None
        return holder if isinstance(holder, dict) else None

    def _is_mine(self) -> bool:
        return (self._holder() or {}).get("token") == self._me["token"]

    def _is_gone(self, holder: dict[str, Any]) -> bool:
        if _has_ended(holder):
            return True
        if abs(time.time() - float(holder.get("refreshed", 0))) <= STALE_AFTER:
            return False
        # One of the two clocks may have jumped. A live holder refreshes its lock while it is watched.
        time.sleep(_WATCHED_FOR * REFRESHED_EVERY)
        return self._holder() == holder


def _has_ended(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this host and has ended."""
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


def _held(title: str, holder: str) -> FolderHeld:
    return FolderHeld(f"{title} is held by {holder}. Wait for it, or choose another --out.")


def _unwritable(lock: str, error: Exception) -> StoreFailed:
    reason = " ".join(str(error.args[0] if isinstance(error, Unreachable) else error).split()).rstrip(".")
    return StoreFailed(f"{lock} cannot be written: {reason or type(error).__name__}. Choose another --out.")


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
