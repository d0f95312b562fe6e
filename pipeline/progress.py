"""Progress of a job: a bar on a terminal, a line a minute in a log, lines of JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from pipeline.errors import printable


def counted(number: int, noun: str) -> str:
    """A number and its noun: "1 class", "2,048 channels"."""
    plural = f"{noun}es" if noun.endswith(("s", "ch")) else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


class Advance(Protocol):
    """Called as a step advances: the units done, their total, and a short note such as the loss."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


_LINE_EVERY = 60.0  # seconds
_STEADY = 8  # units after which the pace before them is forgotten
_PERIODS = ((1, "s"), (60, "min"), (3600, "h"))


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
        """Write one line. `facts` are for programs: only JSON lines include them."""
        if self._as_json:
            line = json_line({"job": self.name, "message": text, **facts})
        else:
            text = printable(text)
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
        pace, speed = Pace(), Speed(None, None)

        def advance(done: int, total: int, note: str = "") -> None:
            nonlocal bar, speed
            speed = pace.report(done, total)
            if bar is None:
                words = [progressbar.Variable(name, format="{formatted_value}", width=1) for name in ("speed", "note")]
                widgets = [f"{title} ", progressbar.Percentage(), " ", progressbar.Bar(), " ", words[0], " ", words[1]]
                bar = progressbar.ProgressBar(max_value=total, widgets=widgets, fd=self._stream)
            bar.update(min(done, total), speed=speed.words(unit), note=note)

        try:
            yield advance
        finally:
            if bar is not None:
                bar.update(bar.value, speed=speed.pace(unit))
                bar.finish(dirty=bar.value != bar.max_value)

    @contextmanager
    def _lines(self, title: str, unit: str) -> Iterator[Advance]:
        last = time.monotonic()
        pace = Pace()

        def advance(done: int, total: int, note: str = "") -> None:
            nonlocal last
            now, speed = time.monotonic(), pace.report(done, total)
            if now - last >= _LINE_EVERY:
                last = now
                share = f"{title}: {done:,} of {total:,} {unit} ({done / max(total, 1):.0%})"
                line = ", ".join(part for part in (share, speed.words(unit), note) if part)
                facts = {"done": done, "total": total, "unit": unit, "rate": speed.rate, "left": speed.left}
                self.say(line, step=title, **facts, **({"note": note} if note else {}))

        self.say(title)
        yield advance


def json_line(facts: dict[str, Any]) -> str:
    """One line of a log for programs: the time in UTC, and the facts."""
    return json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **facts}, ensure_ascii=False)


@dataclass(frozen=True)
class Speed:
    """The speed of a step.

    rate: units a second; None while that is not known.
    left: seconds until the step is done; None while that is not known.
    finishing: whether every unit is done, and the step still at work.
    """

    rate: float | None
    left: float | None
    finishing: bool = False

    def pace(self, unit: str) -> str:
        """The rate for people, such as "2.5 layers/min"; "" while it is not known."""
        if self.rate is None:
            return ""
        number, period = next(
            (self.rate * factor, period) for factor, period in _PERIODS if self.rate * factor >= 1 or period == "h"
        )
        return f"{number:.0f} {unit}/{period}" if number >= 10 else f"{number:.1f} {unit}/{period}"

    def words(self, unit: str) -> str:
        """The rate and what is left, such as "2.5 layers/min, 40 s left"; "" while nothing is known."""
        left = "finishing" if self.finishing else "" if self.left is None else f"{duration(self.left)} left"
        return ", ".join(part for part in (self.pace(unit), left) if part)


class Pace:
    """The speed of a step over its last minutes; what an earlier run has done does not count.

    Args:
        clock: the time, in seconds.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or time.monotonic
        self._marks: list[tuple[int, float]] = []  # what was done when: one report to count from, and a later one

    def report(self, done: int, total: int) -> Speed:
        """Record that `done` of `total` units are done. Returns: the speed; unknown until more units are done than at first."""
        now = self._clock()
        self._marks = self._marks or [(done, now)] * 2
        if now - self._marks[1][1] >= _LINE_EVERY and done - self._marks[1][0] >= _STEADY:
            self._marks = [self._marks[1], (done, now)]
        before, since = self._marks[0]
        if done <= before or now <= since:
            return Speed(None, None, done >= total)
        rate = (done - before) / (now - since)
        return Speed(float(f"{rate:.3g}"), round(max(0, total - done) / rate, 1), done >= total)


def duration(seconds: float) -> str:
    """A time, for people: 40 s, 12 min, 3 h 20 min."""
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
