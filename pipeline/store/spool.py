"""Spool: a temporary file for pictures that are made in one order and read in another."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from pathlib import Path
from types import TracebackType

from pipeline.store.files import store_failed
from pipeline.store.places import Place


class Spool:
    """Byte strings by position, on disk: memory holds none of them. Any number of threads may write and read.

    end: how many bytes there are.
    """

    def __init__(self, folder: Place, name: str) -> None:
        """A file of a folder, with what it holds already, or, where the folder is remote, a temporary one of the machine.

        Raises: StoreFailed, here and in `put`.
        """
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if isinstance(folder, Path):
                self._file = os.fdopen(os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b")
            else:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 (`__exit__` closes it)
        except OSError as error:
            raise store_failed(folder, error) from error
        self.end, self._lock = os.fstat(self._file.fileno()).st_size, threading.Lock()

    def cut_off(self, end: int) -> None:
        """Keep the first bytes alone. Raises: ValueError, where there are fewer."""
        if not 0 <= end <= self.end:
            raise ValueError(f"{self.end:,} bytes, not {end:,}.")
        os.ftruncate(self._file.fileno(), end)
        self.end = end

    def sync(self) -> None:
        """Wait until the disk has all that was put. Raises: StoreFailed."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise store_failed(self._folder, error) from error

    def put(self, data: bytes) -> int:
        """Returns: where the bytes begin."""
        with self._lock:
            start = self.end
            self.end += len(data)
        view, position = memoryview(data), start
        try:
            while view:
                written = os.pwrite(self._file.fileno(), view, position)
                view, position = view[written:], position + written
        except OSError as error:
            raise store_failed(self._folder, error) from error
        return start

    def get(self, start: int, length: int) -> bytes:
        """So many bytes from a position that `put` gave."""
        return os.pread(self._file.fileno(), length, start)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):  # the file is temporary
            self._file.close()
