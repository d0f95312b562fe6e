"""Progress of a job: a bar on a terminal, a line a minute in a log, lines of JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO


class Advance(Protocol):
    """Called as a step advances: how much is done, how much there is, and a few words such as the loss."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


_LINE_EVERY = 60.0  # seconds


class Reporter:
    """Reports the progress of one job on a stream.

    Args:
        name: the job's, in every line of a log.
        stream: where to write; a terminal gets bars, anything else lines.
        as_json: write one JSON object a line, on a terminal too.
    """

    def __init__(self, name: str, stream: TextIO | None = None, as_json: bool = False) -> None:
        self.name = name
        self._stream = stream or sys.stderr
        self._as_json = as_json
        self._bars = self._stream.isatty() and not as_json

    def say(self, text: str, **facts: Any) -> None:
        """Write one line. `facts` are for programs: only JSON holds them."""
        if self._as_json:
            line = json_line({"job": self.name, "message": text, **facts})
        else:
            line = text if self._bars else f"{time.strftime('%Y-%m-%d %H:%M:%S')} {self.name}: {text}"
        print(line, file=self._stream, flush=True)

    @contextmanager
    def step(self, title: str, unit: str) -> Iterator[Advance]:
        """A step: the block reports its progress by calling what it is given."""
        with self._bar(title, unit) if self._bars else self._lines(title, unit) as advance:
            yield advance

    @contextmanager
    def _bar(self, title: str, unit: str) -> Iterator[Advance]:
        import progressbar

        bar: progressbar.ProgressBar | None = None
        pace = _Pace()

        def advance(done: int, total: int, note: str = "") -> None:
            nonlocal bar
            if bar is None:
                rate = progressbar.Variable("rate", format=f"{{formatted_value}} {unit}/s", width=1, precision=5)
                note_widget = progressbar.Variable("note", format="{formatted_value}", width=1) if note else ""
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
                    note_widget,
                ]
                bar = progressbar.ProgressBar(max_value=total, widgets=widgets, fd=self._stream)
            bar.update(min(done, total), rate=pace.rate(done), **({"note": note} if note else {}))

        try:
            yield advance
        finally:
            if bar is not None:
                bar.finish(dirty=bar.value != bar.max_value)

    @contextmanager
    def _lines(self, title: str, unit: str) -> Iterator[Advance]:
        last = time.monotonic()
        pace = _Pace()

        def advance(done: int, total: int, note: str = "") -> None:
            nonlocal last
            now, rate = time.monotonic(), pace.rate(done)
            if now - last >= _LINE_EVERY:
                last = now
                left = (total - done) / rate if rate else float("inf")
                share = f"{done:,} of {total:,} {unit} ({done / max(total, 1):.0%})"
                facts = {
                    "step": title,
                    "done": done,
                    "total": total,
                    "unit": unit,
                    "rate": rate,
                    **({"note": note} if note else {}),
                }
                line = f"{title}: {share}, {rate:.0f} {unit}/s, {left / 60:.0f} min left"
                self.say(f"{line}, {note}" if note else line, **facts)

        self.say(title)
        yield advance


def json_line(facts: dict[str, Any]) -> str:
    """One line of a log for programs: the time in UTC, and the facts."""
    return json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **facts}, ensure_ascii=False)


class _Pace:
    """The rate of a step since its first report: what an earlier run has done does not count."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def rate(self, done: int) -> float:
        """Units done per second."""
        now = time.monotonic()
        if self._first is None:
            self._first = (done, now)
        before, since = self._first
        return round((done - before) / max(now - since, 1e-9), 1)
