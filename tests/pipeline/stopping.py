"""A reporter that stops runs, for tests of what is left of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.progress import Reporter

RESULTS = ("index", "crops", "mosaics")


class Stopping(Reporter):
    """A reporter that stops the run when a step has come so far; `lines` is what it was told."""

    def __init__(self, title: Any = "", done: Any = 0, by: Any = KeyboardInterrupt) -> None:
        super().__init__("test")
        self.lines, self.news = [], []
        self._stop, self._by = (title, done), by

    def say(self, text: Any, **facts: Any) -> None:
        self.lines.append(text)

    @contextmanager
    def step(self, title: Any, unit: Any) -> Iterator[Any]:
        def advance(done: Any, total: Any) -> None:
            self.news.append((title, done))
            if (title, done) == self._stop:
                raise self._by

        yield advance

    @property
    def scanned(self) -> Any:
        """How far the scan was at each of its batches."""
        return [done for title, done in self.news if title == "scan"]


def changed(spec: Any, **tables: Any) -> Any:
    return spec.model_copy(update={table: getattr(spec, table).model_copy(update=values) for table, values in tables.items()})
