"""Arrays in a file, written atomically; and the checkpoint of an unfinished ascent."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.store.files import write_bytes
from pipeline.store.places import Place


def save(path: Place, arrays: Sequence[Any]) -> None:
    """Write arrays, or values that NumPy makes arrays of, in order. Raises: StoreFailed."""
    file = io.BytesIO()
    np.savez(file, *[np.asarray(array) for array in arrays])
    write_bytes(path, file.getvalue())


def load(path: Place) -> list[np.ndarray] | None:
    """The arrays of a file; None if it is missing or damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes())) as saved:
            return [saved[name] for name in saved.files]
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile):
        return None


@dataclass
class Checkpoint:
    """The file that holds the state of an unfinished ascent, rewritten every `every` seconds."""

    path: Place
    every: float
    _written: float = field(default_factory=time.monotonic)

    @property
    def due(self) -> bool:
        """Whether `every` seconds have passed since it was written."""
        return time.monotonic() - self._written >= self.every

    def save(self, arrays: Sequence[Any]) -> None:
        """Raises: StoreFailed."""
        save(self.path, arrays)
        self._written = time.monotonic()

    def load(self) -> list[np.ndarray] | None:
        """The arrays that an interrupted run saved, if any."""
        return load(self.path)
