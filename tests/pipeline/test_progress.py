"""Progress: a bar on a terminal, a line a minute in a log."""

from __future__ import annotations

import io
import json
import re
import time
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import progress
from pipeline.progress import Pace, Reporter, duration


class Terminal(io.StringIO):
    def isatty(self) -> Any:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The time as progress sees it, in seconds; the test moves it."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.seconds, strftime=time.strftime))
    return now


def lines_of(stream: Any) -> Any:
    """The lines of a log without the time that each begins with."""
    actual = [re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (.*)", line) for line in stream.getvalue().splitlines()]
    assert all(actual), stream.getvalue()
    return [match[1] for match in actual]


def test_a_log_gets_a_line_at_the_start_and_one_a_minute(clock: Any) -> None:
    stream = io.StringIO()
    with Reporter("job", stream).step("scan", "images") as advance:
        for second in range(1, 181):
            clock.seconds += 1
            advance(second * 10, 7200)
    assert lines_of(stream) == [
        "job: scan",
        "job: scan: 600 of 7,200 images (8%), 10 images/s, 11 min left",
        "job: scan: 1,200 of 7,200 images (17%), 10 images/s, 10 min left",
        "job: scan: 1,800 of 7,200 images (25%), 10 images/s, 9 min left",
    ]


def test_a_short_step_is_one_line_in_a_log(clock: Any) -> None:
    stream = io.StringIO()
    with Reporter("job", stream).step("scan", "images") as advance:
        clock.seconds += 59
        advance(7200, 7200)
    assert lines_of(stream) == ["job: scan"]


def test_an_empty_step_and_one_without_progress_do_not_fail(clock: Any) -> None:
    stream = io.StringIO()
    with Reporter("job", stream).step("scan", "images") as advance:
        clock.seconds += 60
        advance(0, 10)
        clock.seconds += 60
        advance(0, 0)
    assert len(lines_of(stream)) == 3


def test_what_is_said_begins_with_time_and_job_in_a_log_and_stands_alone_on_a_terminal() -> None:
    log, terminal = io.StringIO(), Terminal()
    Reporter("job", log).say("fields of 3 layers")
    Reporter("job", terminal).say("fields of 3 layers")
    assert lines_of(log) == ["job: fields of 3 layers"]
    assert terminal.getvalue() == "fields of 3 layers\n"


def test_a_terminal_gets_a_bar_with_share_rate_and_time_left() -> None:
    stream = Terminal()
    with Reporter("job", stream).step("scan", "images") as advance:
        for done in (10, 25, 50):
            time.sleep(0.06)
            advance(done, 50)
    assert re.search(r"images/s, \d+ s left", stream.getvalue()) and "finishing" not in stream.getvalue().splitlines()[-1]
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    frames = [frame for frame in re.split(r"[\r\n]", shown) if frame.strip()]
    assert all(frame.startswith("scan") for frame in frames)
    assert "100%" in frames[-1] and re.search(r"[\d.]+ images/s", frames[-1]) and "#" in frames[-1]
    assert shown.endswith("\n")


def test_a_bar_that_is_interrupted_leaves_the_cursor_on_a_new_line() -> None:
    stream = Terminal()

    def interrupted() -> None:
        with Reporter("job", stream).step("scan", "images") as advance:
            advance(10, 50)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert stream.getvalue().endswith("\n") and "100%" not in stream.getvalue()


def test_a_step_that_never_advances_draws_no_bar() -> None:
    stream = Terminal()
    with Reporter("job", stream).step("scan", "images"):
        pass
    assert stream.getvalue() == ""


def test_more_done_than_there_is_does_not_break_the_bar() -> None:
    stream = Terminal()
    with Reporter("job", stream).step("scan", "images") as advance:
        advance(5, 10)
        advance(12, 10)
    assert "100%" in stream.getvalue()


def test_for_programs_every_line_is_one_object_with_time_and_job_even_on_a_terminal(
    clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress.time, "gmtime", time.gmtime, raising=False)  # type: ignore[attr-defined]
    stream = Terminal()
    reporter = Reporter("job", stream, as_json=True)
    reporter.say('a "line"\nof two')
    with reporter.step("scan", "images") as advance:
        advance(0, 7200)
        clock.seconds += 60
        advance(600, 7200)
    first, second, third = (json.loads(line) for line in stream.getvalue().splitlines())
    assert all(datetime.strptime(line.pop("time"), "%Y-%m-%dT%H:%M:%SZ") for line in (first, second, third))
    assert first == {"job": "job", "message": 'a "line"\nof two'} and second == {"job": "job", "message": "scan"}
    assert third.pop("message").startswith("scan: 600 of 7,200 images (8%), 10 images/s")
    assert third == {"job": "job", "step": "scan", "done": 600, "total": 7200, "unit": "images", "rate": 10.0, "left": 660.0}


def test_the_rate_leaves_out_what_an_earlier_run_has_done(clock: Any) -> None:
    stream = io.StringIO()
    with Reporter("job", stream).step("scan", "images") as advance:
        advance(6000, 7200)
        clock.seconds += 60
        advance(6600, 7200)
    assert lines_of(stream)[1:] == ["job: scan: 6,600 of 7,200 images (92%), 10 images/s, 60 s left"]


def paced(*reports: tuple[float, int], total: int = 100) -> str:
    """What is said of a step's speed after some reports, each a time in seconds and what is done by then."""
    times = iter([seconds for seconds, _ in reports])
    pace = Pace(lambda: next(times))
    return [pace.report(done, total).words("layers") for _, done in reports][-1]


def test_nothing_is_said_of_a_speed_that_is_not_known() -> None:
    assert paced((0, 0)) == paced((0, 0), (600, 0)) == paced((0, 40)) == paced((5, 0), (5, 3)) == ""


def test_a_slow_step_has_a_rate_a_minute_or_an_hour() -> None:
    assert paced((0, 0), (20, 1)) == "3.0 layers/min, 33 min left"
    assert paced((0, 0), (360, 2)) == "20 layers/h, 4 h 54 min left"
    assert paced((0, 0), (72_000, 10)) == "0.5 layers/h, 180 h 0 min left"
    assert paced((0, 0), (4, 10)) == "2.5 layers/s, 36 s left"


def test_the_last_minute_counts_down_in_seconds_and_ends_in_finishing_rather_than_in_0_min_left() -> None:
    assert paced((0, 0), (100, 50)) == "30 layers/min, 2 min left"
    assert paced((0, 0), (100, 60)) == "36 layers/min, 67 s left"
    assert paced((0, 0), (99.0, 99)) == "1.0 layers/s, 1 s left"
    assert paced((0, 0), (0.01, 99)) == "9900 layers/s, 1 s left"
    assert paced((0, 0), (100, 100)) == "1.0 layers/s, finishing"
    assert paced((0, 100)) == "finishing"


def test_what_an_earlier_run_has_done_does_not_count() -> None:
    assert paced((0, 90), (10, 95)) == "30 layers/min, 10 s left"


def test_a_step_that_becomes_slower_says_so_within_minutes() -> None:
    fast = [(second, second * 10) for second in range(61)]
    slow = [(60 + 10 * number, 600 + number) for number in range(1, 31)]
    assert paced(*fast, *slow, total=660) == "6.0 layers/min, 5 min left"


def test_a_few_slow_units_are_not_forgotten() -> None:
    assert paced((0, 0), (300, 1), (600, 2), (1200, 3), total=6) == "9.0 layers/h, 20 min left"


def test_durations_for_people() -> None:
    assert [duration(seconds) for seconds in (0, 0.2, 1.4, 99, 99.6, 150, 7100, 7200, 90_000)] == [
        *("1 s", "1 s", "1 s", "99 s", "2 min", "2 min", "118 min", "2 h 0 min", "25 h 0 min")
    ]
