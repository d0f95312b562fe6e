"""How jobs end that are not let finish: no room, no folder, no time; and how two runs share a folder."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline import run
from pipeline.errors import FolderHeld, StoreFailed
from pipeline.receipt import read_receipt

RESULTS = ("index", "crops", "mosaics")


def one_line(caught: Any, status: Any) -> Any:
    assert "\n" not in str(caught.value) and caught.value.exit_code == status
    return str(caught.value)


def test_a_file_instead_of_the_output_folder_is_an_error_of_one_line(spec: Any, tmp_path: Path, quiet: Any) -> None:
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(StoreFailed, match=r"was not written: .*another with --out") as caught:
        run(spec, tmp_path / "out", reporter=quiet)
    one_line(caught, 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_an_output_folder_that_cannot_be_written_is_one_line(spec: Any, tmp_path: Path, quiet: Any) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreFailed, match="Permission denied") as caught:
        run(spec, tmp_path / "out", reporter=quiet)
    one_line(caught, 1)


def test_a_disk_that_takes_no_writes_is_one_line(spec: Any, small_disk: Any, quiet: Any) -> None:
    disk = small_disk(64)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(StoreFailed, match="Read-only file system") as caught:
        run(spec, disk, reporter=quiet)
    one_line(caught, 1)


@pytest.mark.parametrize("writes", [0, 1, 3, 6, 10])
def test_a_disk_that_fills_up_anywhere_leaves_whole_files_and_the_next_run_completes(
    copied: Any, spec: Any, tree_of: Any, monkeypatch: pytest.MonkeyPatch, writes: Any, quiet: Any, reporter: Any
) -> None:
    before = tree_of(copied, *RESULTS)
    replace, left = os.replace, [writes]

    def until_full(*arguments: Any) -> None:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        replace(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", until_full)
        with pytest.raises(StoreFailed, match="the disk is full") as caught:
            run(spec, copied.parent, stages=["activations"], reporter=quiet)
    one_line(caught, 1)
    # The same job writes the same bytes, so what was replaced and what was not are both as they were.
    assert tree_of(copied, *RESULTS) == before and not list(copied.rglob(".aside-*"))
    run(spec, copied.parent, reporter=reporter)
    # The spec is written first, then the receipt: only then has a new run begun.
    assert ("scan" in reporter.lines) == (writes > 1) and tree_of(copied, *RESULTS) == before
    assert read_receipt(copied).state == "finished"


@pytest.mark.parametrize("kibibytes", [8, 60, 100, 140])
def test_a_disk_that_is_really_full_is_one_line_and_leaves_whole_files(
    spec: Any, small_disk: Any, kibibytes: Any, quiet: Any
) -> None:
    disk = small_disk(kibibytes)
    with pytest.raises(StoreFailed, match="the disk is full") as caught:
        run(spec, disk, reporter=quiet)
    one_line(caught, 1)
    assert not list(disk.rglob(".aside-*"))
    for table in disk.rglob("*.parquet"):
        pq.read_table(table)


def test_a_disk_that_is_full_from_the_start_is_one_line(spec: Any, small_disk: Any, quiet: Any) -> None:
    disk = small_disk(64)
    (disk / "filler").write_bytes(bytes(64 * 1024))
    with pytest.raises(StoreFailed, match="the disk is full") as caught:
        run(spec, disk, reporter=quiet)
    one_line(caught, 1)


HOLDER = """
import sys, time
from pathlib import Path
from pipeline.store.locks import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(process: Any, tmp_path: Path) -> Any:
    """Another process that holds the folder tmp_path/tiny."""
    child = process("-c", HOLDER, tmp_path / "tiny")
    assert child.stdout.readline() == "held\n", child.stderr.read()
    return child


def test_a_folder_that_another_process_holds_is_named_with_host_process_and_time(
    spec: Any, holder: Any, tmp_path: Path, tree_of: Any, quiet: Any
) -> None:
    before = tree_of(tmp_path / "tiny")
    with pytest.raises(FolderHeld) as caught:
        run(spec, tmp_path, reporter=quiet)
    message = one_line(caught, 75)
    held = (tmp_path / "tiny" / ".lock").read_text()
    assert re.match(rf"process {holder.pid} on {re.escape(socket.gethostname())} since \d{{4}}-\d\d-\d\dT\d\d:\d\d", held)
    assert held in message and "Wait for it" in message
    assert tree_of(tmp_path / "tiny") == before


def test_the_lock_of_a_process_that_died_is_taken_over_and_its_debris_swept(
    spec: Any, holder: Any, tmp_path: Path, finished: Any, tree_of: Any, quiet: Any
) -> None:
    debris = tmp_path / "tiny" / "index" / ".aside-0123abcd-fields.parquet"
    debris.parent.mkdir()
    debris.write_bytes(b"half")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    folder = run(spec, tmp_path, reporter=quiet)
    assert not debris.exists() and tree_of(folder, *RESULTS) == tree_of(finished, *RESULTS)


# The command line, on a scan that tells how far it is and then takes its time over every batch.
SLOW = """
import sys, time
from contextlib import contextmanager
from pipeline import progress

class Slow(progress.Reporter):
    @contextmanager
    def step(self, title, unit):
        def advance(done, total):
            print(title, done, flush=True)
            time.sleep(600 if title == sys.argv[1] and 0 < done < total else 0)
        yield advance

progress.Reporter = Slow
from jobs.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("step", "first_news", "kept"),
    [("scan", "scan 8\n", []), ("patches", "patches 1\n", ["parts/patches.npz", "parts/patches.spool"])],
)
def test_an_interrupted_run_leaves_no_half_files_and_the_next_completes_to_the_same_bytes(
    write_spec: Any,
    process: Any,
    tmp_path: Path,
    finished: Any,
    tree_of: Any,
    spec: Any,
    step: Any,
    first_news: Any,
    kept: Any,
    quiet: Any,
) -> None:
    path = write_spec(tmp_path / "tiny.toml")
    child = process("-c", SLOW, step, "run", path, "--out", tmp_path / "out")
    heard = []
    while first_news not in heard:
        heard.append(child.stdout.readline())
        assert heard[-1], child.stderr.read()
    folder = tmp_path / "out" / "tiny"
    with pytest.raises(FolderHeld, match=f"process {child.pid} on "):
        run(spec, tmp_path / "out", reporter=quiet)
    child.send_signal(signal.SIGTERM)
    _, error = child.communicate(timeout=60)
    assert child.returncode == 75
    assert error.splitlines()[-1].startswith("Interrupted: ") and "Traceback" not in error
    assert read_receipt(folder).state == "running"
    assert sorted(tree_of(folder)) == sorted([".lock", "parts/1-of-1.part", *kept, "run.json", "spec.toml"])
    run(spec, tmp_path / "out", reporter=quiet)
    assert tree_of(folder, *RESULTS) == tree_of(finished, *RESULTS)
