"""Spool: a temporary file for pictures that are made in one order and read in another."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Hashable
from pathlib import Path
from types import TracebackType

from pipeline.store.files import store_failed
from pipeline.store.places import Place


class Spool:
    """Byte strings by key, on disk; memory holds only their positions."""

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
        self._positions: dict[Hashable, tuple[int, int]] = {}

    def put(self, key: Hashable, data: bytes) -> None:
        try:
            self._positions[key] = (self._file.seek(0, 2), len(data))
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise store_failed(self._folder, error) from error

    def get(self, key: Hashable) -> bytes:
        """Raises: KeyError."""
        start, length = self._positions[key]
        self._file.seek(start)
        return self._file.read(length)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):  # the file is temporary
            self._file.close()
