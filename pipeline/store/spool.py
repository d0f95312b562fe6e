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
    """Byte strings by position, on disk: memory holds none of them. Any number of threads may write and read."""

    def __init__(self, folder: Place) -> None:
        """In a folder, or, where that is remote, among the machine's temporary files.

        Raises: StoreFailed, here and in `put`.
        """
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder if isinstance(folder, Path) else None)  # noqa: SIM115 (`__exit__` closes it)
        except OSError as error:
            raise store_failed(folder, error) from error
        self._end, self._lock = 0, threading.Lock()

    def put(self, data: bytes) -> int:
        """Returns: where the bytes begin."""
        with self._lock:
            start = self._end
            self._end += len(data)
        view, at = memoryview(data), start
        try:
            while view:
                written = os.pwrite(self._file.fileno(), view, at)
                view, at = view[written:], at + written
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
