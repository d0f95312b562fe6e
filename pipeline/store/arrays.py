"""NumPy arrays in a file, written atomically."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
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
