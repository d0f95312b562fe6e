"""The checkpoint of an unfinished ascent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.store.arrays import load, save
from pipeline.store.places import Place


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
