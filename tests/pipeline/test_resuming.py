"""Runs that are interrupted: what they save, and what the next run uses of it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from stopping import RESULTS, Stopping, changed

from pipeline import load_spec, run
from pipeline.activations.part_file import saved_parts
from pipeline.errors import Interrupted, StoreFailed, Unreachable, WrongSpec
from pipeline.options import RunOptions
from pipeline.receipt import read_receipt
from pipeline.store import files

ALWAYS = RunOptions(save_every=0)


@pytest.fixture
def small(spec: Any) -> Any:
    """The spec of the 20 pictures in ten batches; the tiny network's sums are exact, so the bytes are those of any batch."""
    return changed(spec, data={"batch": 2})


def stopped(spec: Any, out: Any, done: Any, by: Any = KeyboardInterrupt, options: Any = RunOptions()) -> Any:
    """A run that is stopped when its scan has done so many; the reporter."""
    reporter = Stopping("scan", done, by)
    with pytest.raises(Interrupted if by is KeyboardInterrupt else type(by)):
        run(spec, out, reporter=reporter, options=options)
    return reporter


def test_a_run_that_is_interrupted_again_and_again_continues_each_time_and_ends_with_the_same_bytes(
    small: Any, tmp_path: Path, finished: Any, tree_of: Any
) -> None:
    for before, after in ((0, 6), (6, 8), (8, 18)):
        reporter = stopped(small, tmp_path, after)
        assert reporter.scanned[0] == before and reporter.scanned[1:] == list(range(before + 2, after + 1, 2))
        assert (f"continuing after {before} of 20 examples, which an earlier run has scanned" in reporter.lines) == (before > 0)
        assert [saved.part.done for saved in saved_parts(tmp_path / "tiny")] == [after]
    last = Stopping()
    folder = run(small, tmp_path, reporter=last)
    assert last.scanned == [18, 20]
    assert tree_of(folder, *RESULTS) == tree_of(finished, *RESULTS)
    assert not list((folder / "parts").iterdir())


def test_what_was_scanned_is_not_scanned_again_when_a_later_step_is_interrupted(
    small: Any, tmp_path: Path, finished: Any, tree_of: Any, reporter: Any
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(small, tmp_path, reporter=Stopping("patches", 3))
    last = Stopping()
    folder = run(small, tmp_path, reporter=last)
    assert last.scanned == [] and "all 20 examples were scanned before" in " ".join(last.lines)
    assert tree_of(folder, *RESULTS) == tree_of(finished, *RESULTS)


def test_a_run_that_is_interrupted_before_its_first_batch_keeps_and_reports_what_an_earlier_one_has_saved(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(scan_pass: Any, images: Any, thresholds: Any) -> None:
        raise KeyboardInterrupt

    stopped(small, tmp_path, 6)
    monkeypatch.setattr("pipeline.activations.scan_pass.ScanPass.run", interrupted)
    with pytest.raises(Interrupted, match=r" 6 of 20 examples are scanned and saved"):
        run(small, tmp_path, reporter=Stopping())
    assert [saved.part.done for saved in saved_parts(tmp_path / "tiny")] == [6]


def test_an_address_that_no_longer_answers_loses_nothing_that_was_scanned(small: Any, tmp_path: Path) -> None:
    stopped(small, tmp_path, 6, by=Unreachable("gone."))
    last = Stopping()
    run(small, tmp_path, reporter=last)
    assert last.scanned[0] == 6


def test_a_stage_that_is_asked_for_again_scans_again_and_continues_where_that_was_interrupted(
    copied: Any, spec: Any, tree_of: Any
) -> None:
    before = tree_of(copied, *RESULTS)
    with pytest.raises(Interrupted):
        run(spec, copied.parent, stages=["activations"], reporter=Stopping("scan", 8))
    assert tree_of(copied, *RESULTS) == before  # the old results stand until new ones take their place
    last = Stopping()
    run(spec, copied.parent, stages=["activations"], reporter=last)
    assert last.scanned == [8, 16, 20] and tree_of(copied, *RESULTS) == before


def test_anew_scans_a_finished_job_again(copied: Any, spec: Any, tree_of: Any) -> None:
    before, last = tree_of(copied, *RESULTS), Stopping()
    run(spec, copied.parent, reporter=last, options=RunOptions(anew=True))
    assert last.scanned == [0, 8, 16, 20] and tree_of(copied, *RESULTS) == before


def test_another_crop_of_the_same_winners_needs_no_scan(copied: Any, spec: Any) -> None:
    last = Stopping()
    run(changed(spec, activations={"crop": "image"}), copied.parent, reporter=last)
    assert last.scanned == [] and ("patches", 1) in last.news


# What no longer fits.


def test_a_scan_of_another_network_is_refused_and_nothing_is_changed(
    small: Any, tiny_model: Any, tmp_path: Path, tree_of: Any
) -> None:
    import keras

    file = tmp_path / "model.keras"
    tiny_model.save(file)
    spec = changed(small, model={"source": f"file:{file}"})
    stopped(spec, tmp_path / "out", 6)
    other = keras.models.clone_model(tiny_model)
    other.set_weights([2 * weights for weights in tiny_model.get_weights()])
    other.save(file)
    before = tree_of(tmp_path / "out")
    with pytest.raises(
        WrongSpec, match=r"stopped after 6 examples, and the network has changed: its digest is \w{16}, and was"
    ) as e:
        run(spec, tmp_path / "out", reporter=Stopping())
    assert "\n" not in str(e.value) and "--anew" in str(e.value) and e.value.exit_code == 2
    after = tree_of(tmp_path / "out")
    before.pop("tiny/.lock"), after.pop("tiny/.lock")
    assert after == before
    last = Stopping()
    run(spec, tmp_path / "out", reporter=last, options=RunOptions(anew=True))
    assert last.scanned[0] == 0


def test_a_scan_of_a_data_set_that_has_shrunk_is_refused(small: Any, write_pictures: Any, tmp_path: Path) -> None:
    images = write_pictures(tmp_path / "images", count=8)
    spec = changed(small, data={"source": f"folder:{images}"})
    stopped(spec, tmp_path / "out", 6)
    (images / "dog" / "007.png").unlink()
    with pytest.raises(WrongSpec, match="the data set has changed: it has 7 examples, and had 8"):
        run(spec, tmp_path / "out", reporter=Stopping())
    last = Stopping()
    folder = run(spec, tmp_path / "out", reporter=last, options=RunOptions(anew=True))
    assert last.scanned == [0, 2, 4, 6, 7] and read_receipt(folder).examples == 7


def test_a_changed_spec_starts_the_scan_over(small: Any, tmp_path: Path) -> None:
    stopped(small, tmp_path, 6)
    last = Stopping()
    run(changed(small, activations={"top_k": 1}), tmp_path, reporter=last)
    assert last.scanned[0] == 0


def test_a_run_with_a_raised_share_of_bad_images_continues(small: Any, write_pictures: Any, tmp_path: Path) -> None:
    from pipeline.errors import TooManyBad

    images = write_pictures(tmp_path / "images", count=9)
    (images / "dog" / "007.png").write_bytes(b"torn")
    spec = changed(small, data={"source": f"folder:{images}"})
    with pytest.raises(TooManyBad):
        run(spec, tmp_path / "out", reporter=Stopping(), options=ALWAYS)
    last = Stopping()
    folder = run(changed(spec, data={"max_bad": 0.5}), tmp_path / "out", reporter=last)
    assert last.scanned[0] == 8 and read_receipt(folder).stages["activations"].skipped == 1


@pytest.mark.parametrize(("format_", "words"), [(0, "is of format 0, this version reads 4"), (5, "is of format 5")])
def test_a_part_of_another_format_is_refused_by_name(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: Any, words: Any
) -> None:
    from pipeline.activations import part_file as saved

    with monkeypatch.context() as patched:
        patched.setattr(saved, "FORMAT", format_)
        stopped(small, tmp_path, 6)
    with pytest.raises(WrongSpec, match=rf"parts/1-of-1.part {words}.*--anew"):
        run(small, tmp_path, reporter=Stopping())
    run(small, tmp_path, reporter=Stopping(), options=RunOptions(anew=True))


# The machine.


def test_a_disk_that_fills_up_during_the_scan_keeps_the_last_state_and_the_next_run_continues(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Any, tree_of: Any
) -> None:
    import errno

    write, left = files.write_bytes, [3]

    def until_full(path: Any, data: Any) -> None:
        if not left[0]:
            raise files.store_failed(path, OSError(errno.ENOSPC, "No space left on device"))
        left[0] -= 1
        write(path, data)

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.activations.part_file.write_bytes", until_full)
        with pytest.raises(StoreFailed, match="parts/1-of-1.part was not written: the disk is full"):
            run(small, tmp_path, reporter=Stopping(), options=ALWAYS)
    last = Stopping()
    folder = run(small, tmp_path, reporter=last)
    assert last.scanned[0] == 6 and tree_of(folder, *RESULTS) == tree_of(finished, *RESULTS)


def test_a_disk_that_is_really_full_keeps_the_last_state(small: Any, small_disk: Any) -> None:
    disk = small_disk(200)

    class Filling(Stopping):
        @contextmanager
        def step(self, title: Any, unit: Any) -> Iterator[Any]:
            def advance(done: Any, total: Any) -> None:
                if done == 6:
                    with open(disk / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
                        while filler.write(bytes(4096)):
                            pass

            yield advance

    with pytest.raises(StoreFailed, match="the disk is full") as caught:
        run(small, disk, reporter=Filling(), options=ALWAYS)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 1
    (disk / "filler").unlink()
    assert [saved.part.done for saved in saved_parts(disk / "tiny")] == [6]
    stopped(small, disk, 8)


def test_a_clock_that_jumps_changes_neither_results_nor_speeds_nor_what_is_saved(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Any, tree_of: Any
) -> None:
    real, jumps = time.time, random.Random(3)
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: real() + jumps.choice([-1e7, 0, 1e7]))
        stopped(small, tmp_path, 6)
        last = Stopping()
        folder = run(small, tmp_path, reporter=last)
    assert last.scanned[0] == 6 and tree_of(folder, *RESULTS) == tree_of(finished, *RESULTS)
    stage = read_receipt(folder).stages["activations"]
    assert 0 <= stage.seconds < 600 and all(0 <= seconds < 600 for seconds in stage.scan_seconds.values())


# Processes that are killed.

# The command line, telling of every batch once it is saved, and taking some time over each.
TELLING = """
import sys, time
from contextlib import contextmanager
from pipeline import progress

class Telling(progress.Reporter):
    @contextmanager
    def step(self, title, unit):
        def advance(done, total):
            print(title, done, flush=True)
            time.sleep(0.05)
        yield advance

progress.Reporter = Telling
from jobs.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_run_loses_no_more_than_what_was_not_saved(
    write_spec: Any, process: Any, tmp_path: Path, finished: Any, tree_of: Any, small: Any
) -> None:
    path = write_spec(tmp_path / "tiny.toml", data={"batch": 2})
    child = process("-c", TELLING, "run", path, "--out", tmp_path, "--save-every", "0")
    heard = []
    while "scan 8\n" not in heard:
        heard.append(child.stdout.readline())
        assert heard[-1], child.stderr.read()
    child.send_signal(signal.SIGKILL)
    child.wait()
    (saved,) = saved_parts(tmp_path / "tiny")
    assert saved.part.done >= 8
    (tmp_path / "tiny" / "parts" / ".aside-0123abcd-1-of-1.part").write_bytes(b"half")  # as a kill in mid-writing leaves it
    last = Stopping()
    folder = run(load_spec(path), tmp_path, reporter=last)
    assert last.scanned[0] == saved.part.done and tree_of(folder, *RESULTS) == tree_of(finished, *RESULTS)
    assert not list((folder / "parts").iterdir())


class Watched:
    """A process whose log is read while it runs."""

    def __init__(self, child: Any) -> None:
        self.child, self.lines, self._started = child, [], time.monotonic()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.child.stderr:
            self.lines.append((time.monotonic() - self._started, line))

    def heard(self, words: Any) -> Any:
        """When a line with some words came, in seconds from the start; None where it never will."""
        while True:
            ended = self.child.poll() is not None
            for seconds, line in list(self.lines):
                if words in line:
                    return seconds
            if ended and not self._reader.is_alive():
                return None
            time.sleep(0.005)

    def end(self) -> Any:
        """Wait for the end. Returns: the exit status."""
        status = self.child.wait()
        self._reader.join()
        return status


@pytest.mark.slow
def test_runs_that_are_killed_at_random_moments_end_with_the_same_bytes(process: Any, tmp_path: Path, tree_of: Any) -> None:
    """CONVSCOPE_KILLS processes are killed, most of them during the scan; after a few each job is let finish."""
    kills = int(os.environ.get("CONVSCOPE_KILLS", "40"))
    chance = random.Random(int(os.environ.get("CONVSCOPE_SEED", "1")))
    settings = ["data.limit=6000", "data.batch=20", "activations.channels=[0, 7, 33]", "activations.top_k=4"]
    words = [word for setting in settings for word in ("--set", setting)]

    def start(out: Any) -> Any:
        return Watched(process("-m", "jobs", "run", "demo", "--out", out, "--save-every", "0", *words))

    began = time.monotonic()
    reference = start(tmp_path / "reference")
    assert reference.end() == 0, reference.lines
    whole, scan, after = time.monotonic() - began, reference.heard("demo: scan"), reference.heard("receptive fields")
    moments = [("", whole), ("demo: scan", after - scan), ("receptive fields", whole - after)]
    expected = tree_of(tmp_path / "reference" / "demo", *RESULTS)
    killed = went_on = jobs = during_scan = 0
    while killed < kills:
        out, done, left = tmp_path / f"out{jobs}", 0, chance.randint(2, 8)
        status = None
        while status != 0:
            watched = start(out)
            number = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            step, span = chance.choices(moments, [1, 4, 1])[0]
            if left and (not step or watched.heard(step) is not None):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    watched.child.wait(chance.uniform(0, span))
                if watched.child.poll() is None:
                    watched.child.send_signal(number)
            status, left = watched.end(), max(0, left - 1)
            log = "".join(line for _, line in watched.lines)
            # A signal that comes before Python has its handlers ends the process at once; an interrupt while
            # Python itself still starts, with 1 and Python's own word for it.
            unborn = status == 1 and number == signal.SIGINT and "Fatal Python error: init_import_site" in log
            assert unborn or (status in (0, 75, -number) and (status != 75 or number != signal.SIGKILL)), log
            killed += status != 0
            went_on += "continuing after" in log or "were scanned before" in log
            parts = saved_parts(out / "demo")
            for saved in parts:
                assert saved.part.done >= done, log  # what was saved stays saved
                done = saved.part.done
                during_scan += status != 0 and not saved.complete
        assert tree_of(out / "demo", *RESULTS) == expected
        assert not list((out / "demo").rglob("*.part"))[1:]
        jobs += 1
    print(f"{killed} kills ({during_scan} left half a scan), {went_on} runs went on, {jobs} jobs, all of the same bytes")
    assert killed >= kills and went_on > kills // 4 and during_scan > kills // 4
