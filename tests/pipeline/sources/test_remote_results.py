"""Results over the S3 protocol, with a real server on the loopback address: the same bytes, broken lines, and locks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from broken_line import BrokenLine
from remote_job import job

from pipeline import run
from pipeline.errors import FolderHeld, MissingInput, StoreFailed
from pipeline.store import locks
from pipeline.store.files import check_writable
from pipeline.store.places import place

pytest.importorskip("s3fs", reason="s3fs is not installed: pip install convscope[s3]")
pytest.importorskip("moto.server", reason="moto's server is not installed: pip install convscope[dev]")


def test_results_at_an_address_are_byte_for_byte_those_on_this_machine(bucket: Any, stored: Any, tmp_path: Path) -> None:
    bucket.put(f"{stored}/", "bucket/data/", recursive=True)
    spec = job(tmp_path, "folder:s3://bucket/data")
    here, there = run(spec, tmp_path / "out"), run(spec, "s3://bucket/results")
    assert str(there) == "s3://bucket/results/small"
    local = contents((str(path.relative_to(here)), path.read_bytes()) for path in here.rglob("*") if path.is_file())
    far = contents((str(path.relative_to(there)), path.read_bytes()) for path in there.rglob("*"))
    assert local == far and {"index/activations.parquet", "index/skipped.parquet", "crops/conv.parquet"} <= set(far)
    receipt = json.loads((there / "run.json").read_text())
    assert receipt["state"] == "finished" and receipt["stages"]["activations"]["skipped"] == 1
    written = bucket.info("bucket/results/small/index/activations.parquet")["LastModified"]
    run(spec, "s3://bucket/results")  # finished: nothing to do
    assert bucket.info("bucket/results/small/index/activations.parquet")["LastModified"] == written
    assert not bucket.exists("bucket/results/small/.lock")


def test_results_survive_a_line_that_breaks_while_they_are_sent(
    server: Any, ask: Any, bucket: Any, stored: Any, tmp_path: Path
) -> None:
    spec = job(tmp_path, f"folder:{stored}")
    here = run(spec, tmp_path / "out")
    line = BrokenLine(server, after=120, cuts=6)
    ask(line.port)
    there = run(spec, "s3://bucket/results")
    assert line.broken == 6
    line.close()
    ask(server[1])
    local = contents((str(path.relative_to(here)), path.read_bytes()) for path in here.rglob("*") if path.is_file())
    assert contents((str(path.relative_to(there)), path.read_bytes()) for path in there.rglob("*")) == local


def test_an_output_address_that_does_not_answer_is_named_before_work_starts(
    ask: Any, stored: Any, tmp_path: Path, closed_port: Any
) -> None:
    ask(closed_port)
    with pytest.raises(MissingInput, match="s3://bucket/results/small/.lock' did not answer"):
        run(job(tmp_path, f"folder:{stored}"), "s3://bucket/results")


def test_check_tries_the_output_address_and_leaves_nothing(
    ask: Any, bucket: Any, stored: Any, tmp_path: Path, closed_port: Any
) -> None:
    check_writable(place("s3://bucket/results/small"))
    assert bucket.find("bucket") == []
    with pytest.raises(
        StoreFailed, match=r"s3://nobody/results cannot be written: .*bucket does not exist.*Check your permissions"
    ):
        check_writable(place("s3://nobody/results"))
    ask(closed_port)
    with pytest.raises(MissingInput, match="'s3://bucket/results/.*' did not answer"):
        check_writable(place("s3://bucket/results"))


def test_a_folder_that_another_run_holds_is_refused_and_one_whose_holder_is_dead_is_taken_over(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_SETTLES_IN", 0.05)
    monkeypatch.setattr(locks, "REFRESHED_EVERY", 0.05)
    folder, said = place("s3://bucket/held"), []
    mine = rf"s3://bucket/held is held by process {os.getpid()} on "
    with locks.hold(folder), pytest.raises(FolderHeld, match=mine), locks.hold(folder):
        pytest.fail("two hold one folder")
    assert not bucket.exists("bucket/held/.lock")
    for host, process, refreshed in (("elsewhere", 1, time.time() - 1000), (socket.gethostname(), dead_process(), time.time())):
        held = {"host": host, "process": process, "since": "then", "token": "x", "refreshed": refreshed}
        bucket.pipe_file("bucket/held/.lock", json.dumps(held).encode())
        said.clear()
        with locks.hold(folder, said.append):
            assert json.loads(bucket.cat_file("bucket/held/.lock"))["process"] == os.getpid()
        assert said == [f"the lock of process {process} on {host} since then is stale: taken over"]
    held = {"host": "elsewhere", "process": 1, "since": "then", "token": "x", "refreshed": time.time() - 100}
    bucket.pipe_file("bucket/held/.lock", json.dumps(held).encode())
    with pytest.raises(FolderHeld, match="process 1 on elsewhere since then"), locks.hold(folder):
        pytest.fail("a lock that is refreshed was taken over")


def test_a_lock_is_refreshed_and_a_lost_one_is_reported_and_left_alone(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "REFRESHED_EVERY", 0.05)
    folder = place("s3://bucket/held")
    with locks.hold(folder):
        first = json.loads(bucket.cat_file("bucket/held/.lock"))["refreshed"]
        deadline = time.monotonic() + 10
        while json.loads(bucket.cat_file("bucket/held/.lock"))["refreshed"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def lose_it() -> None:
        with locks.hold(folder):
            held = {"host": "other", "process": 7, "since": "then", "token": "y", "refreshed": time.time()}
            bucket.pipe_file("bucket/held/.lock", json.dumps(held).encode())

    monkeypatch.setattr(locks, "REFRESHED_EVERY", 60)
    with pytest.raises(FolderHeld, match="process 7 on other since then, which took it over"):
        lose_it()
    assert json.loads(bucket.cat_file("bucket/held/.lock"))["token"] == "y"


def test_of_many_that_ask_at_once_one_holds_the_folder(bucket: Any) -> None:
    start, outcomes = threading.Barrier(6), []

    def compete() -> None:
        start.wait()
        try:
            with locks.hold(place("s3://bucket/held")):
                time.sleep(1.5)
                outcomes.append("held")
        except FolderHeld:
            outcomes.append("refused")

    threads = [threading.Thread(target=compete) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held", *["refused"] * 5]


def contents(files: Any) -> Any:
    """{path: bytes} of the results alone, without run.json and the lock."""
    return {path: data for path, data in files if path not in ("run.json", ".lock")}


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid
