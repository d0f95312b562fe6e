"""Telling people how far a job is: a bar on a terminal, a line a minute in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO


class Advance(Protocol):
    """Told how far a step is: done so far, in all, and a few words such as the loss."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


_LINE_EVERY = 60.0  # seconds


class Reporter:
    """Speaks for one job on a stream.

    Args:
        name: the job's, at the start of every log line.
        stream: where to write; a terminal gets bars, anything else lines.
    """

    def __init__(self, name: str, stream: TextIO | None = None) -> None:
        self.name = name
        self._stream = stream or sys.stderr
        self._bars = self._stream.isatty()

    def say(self, text: str) -> None:
        """One line."""
        line = text if self._bars else f"{time.strftime('%Y-%m-%d %H:%M:%S')} {self.name}: {text}"
        print(line, file=self._stream, flush=True)

    @contextmanager
    def step(self, title: str, unit: str) -> Iterator[Advance]:
        """A step whose progress the block reports by calling what it is given."""
        with self._bar(title, unit) if self._bars else self._lines(title, unit) as advance:
            yield advance

    @contextmanager
    def _bar(self, title: str, unit: str) -> Iterator[Advance]:
        import progressbar

        bar: progressbar.ProgressBar | None = None
        started = time.monotonic()

        def advance(done: int, total: int, note: str = "") -> None:
            nonlocal bar
            if bar is None:
                rate = progressbar.Variable("rate", format=f"{{formatted_value}} {unit}/s", width=1, precision=5)
                said = progressbar.Variable("note", format="{formatted_value}", width=1) if note else ""
                widgets = [
                    f"{title} ",
                    progressbar.Percentage(),
                    " ",
                    progressbar.Bar(),
                    " ",
                    rate,
                    " ",
                    progressbar.ETA(),
                    " ",
                    said,
                ]
                bar = progressbar.ProgressBar(max_value=total, widgets=widgets, fd=self._stream)
            bar.update(min(done, total), rate=_rate(done, started), **({"note": note} if note else {}))

        try:
            yield advance
        finally:
            if bar is not None:
                bar.finish(dirty=bar.value != bar.max_value)

    @contextmanager
    def _lines(self, title: str, unit: str) -> Iterator[Advance]:
        started = last = time.monotonic()

        def advance(done: int, total: int, note: str = "") -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _LINE_EVERY:
                last = now
                rate = done / max(now - started, 1e-9)
                left = (total - done) / rate if rate else float("inf")
                share = f"{done:,} of {total:,} {unit} ({done / max(total, 1):.0%})"
                self.say(f"{title}: {share}, {rate:.0f} {unit}/s, {left / 60:.0f} min left{f', {note}' if note else ''}")

        self.say(title)
        yield advance


def _rate(done: int, started: float) -> float:
    return round(done / max(time.monotonic() - started, 1e-9), 1)
