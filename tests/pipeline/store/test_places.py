"""Places at addresses, with fsspec's own store in memory: verbs, whole files, patience, locks."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import FolderHeld, StoreFailed, Unreachable
from pipeline.store import locks, remote
from pipeline.store.files import aside, check_writable, sweep, write_bytes, write_json
from pipeline.store.places import Remote, place
from pipeline.store.tables import read_index, write_index


@pytest.fixture
def folder() -> Any:
    """An empty folder in memory."""
    return place(f"memory://test/{uuid.uuid4().hex}")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)


def test_a_path_without_a_scheme_or_with_that_of_files_is_a_path_of_this_machine() -> None:
    assert place("out") == Path("out") and place(Path("/x")) == Path("/x") and place("file:///x/y") == Path("/x/y")
    assert place("memory://x/") == Remote("memory://x")


def test_a_remote_place_answers_as_a_path_does(folder: Any) -> None:
    assert not folder.exists() and list(folder.rglob("*")) == [] and not (folder / "a").is_file()
    write_bytes(folder / "index" / "a.txt", "é".encode())
    write_json(folder / "b.json", {"x": 1})
    assert folder.exists() and (folder / "index").exists() and not (folder / "index").is_file()
    assert [str(path) for path in folder.rglob("*")] == [f"{folder}/b.json", f"{folder}/index/a.txt"]
    assert [path.name for path in folder.glob("*.json")] == ["b.json"] and list(folder.glob("*.txt")) == []
    here = folder / "index/a.txt"
    assert (here.name, here.stem, here.suffix, here.parent) == ("a.txt", "a", ".txt", folder / "index")
    assert here.read_text() == "é" and here.stat().st_size == 2 and here.open("rb").read(1) == b"\xc3"
    assert next(folder.rglob("a.txt")).relative_to(folder) == Path("index/a.txt")
    here.unlink()
    assert not here.is_file()
    with pytest.raises(FileNotFoundError):
        here.read_bytes()


def test_a_table_comes_back_from_an_address(folder: Any) -> None:
    write_index(folder, "skipped", {"example": [3], "key": ["a"], "reason": ["b"]})
    assert read_index(folder, "skipped").to_pylist() == [{"example": 3, "key": "a", "reason": "b"}]


def test_an_address_is_tried_without_leaving_anything(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(folder)
    assert not folder.exists()
    import fsspec

    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "put_file", refuse)
    with pytest.raises(StoreFailed, match=rf"{folder} cannot be written: Access Denied\. Check your permissions"):
        check_writable(folder)


def test_what_fails_while_it_is_written_leaves_what_was_there(folder: Any) -> None:
    def fail() -> None:
        with aside(folder / "a") as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("stop")

    write_bytes(folder / "a", b"old")
    with pytest.raises(RuntimeError):
        fail()
    sweep(folder)
    assert (folder / "a").read_bytes() == b"old" and len(list(folder.rglob("*"))) == 1


def test_a_store_that_fails_now_and_then_gets_every_byte_and_one_that_always_does_is_named(
    folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    put, calls = MemoryFileSystem.put_file, []

    def put_badly(self: Any, *arguments: Any, **settings: Any) -> Any:
        calls.append(1)
        if len(calls) % 4:
            raise ConnectionResetError("reset by peer")
        return put(self, *arguments, **settings)

    monkeypatch.setattr(MemoryFileSystem, "put_file", put_badly)
    write_bytes(folder / "a", b"whole")
    assert (folder / "a").read_bytes() == b"whole" and len(calls) == 4
    monkeypatch.setattr(
        MemoryFileSystem, "put_file", lambda *a, **k: (_ for _ in ()).throw(ConnectionResetError("reset by peer"))
    )
    with pytest.raises(StoreFailed, match=rf"{folder}/b was not written: .*6 attempts; the last: reset by peer") as caught:
        write_bytes(folder / "b", b"x")
    assert "\n" not in str(caught.value)


def test_what_another_attempt_would_not_change_is_not_tried_again() -> None:
    calls = []

    def missing() -> None:
        calls.append(1)
        raise FileNotFoundError("gone")

    with pytest.raises(FileNotFoundError):
        remote.patiently(missing, "memory://x")
    assert len(calls) == 1


def test_items_that_break_off_continue_where_they_stopped() -> None:
    starts = []

    def make(done: Any) -> Iterator[Any]:
        starts.append(done)
        for item in range(done, 10):
            if item in (4, 7) and item not in broken:
                broken.add(item)
                raise ConnectionError("cut")
            yield item

    broken = set()
    assert list(remote.resumed(make, "memory://x")) == list(range(10)) and starts == [0, 4, 7]

    def dead(done: Any) -> Iterator[Any]:
        raise ConnectionError("cut")
        yield

    with pytest.raises(Unreachable, match="'memory://x' did not answer in 6 attempts; the last: cut"):
        list(remote.resumed(dead, "memory://x"))


def test_a_remote_lock_is_there_while_it_is_held(folder: Any) -> None:
    with locks.hold(folder):
        assert json.loads((folder / ".lock").read_text())["since"]
    assert list(folder.rglob("*")) == []


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_a_lock_that_is_refreshed_is_not_taken_over_because_a_clock_has_jumped(
    folder: Any, monkeypatch: pytest.MonkeyPatch, jump: Any
) -> None:
    monkeypatch.setattr(locks, "REFRESHED_EVERY", 0.05)
    real, mine = time.time, threading.get_ident()
    with locks.hold(folder):
        # The clock of the holder, which refreshes in a thread of its own, and ours are apart.
        monkeypatch.setattr(time, "time", lambda: real() + (jump if threading.get_ident() == mine else 0))
        with pytest.raises(FolderHeld), locks.hold(folder):
            pytest.fail("two hold one folder")


@pytest.mark.parametrize("refreshed", [0, 1e12])
def test_a_lock_that_nobody_refreshes_is_taken_over_even_if_its_clock_was_wrong(
    folder: Any, monkeypatch: pytest.MonkeyPatch, refreshed: Any
) -> None:
    monkeypatch.setattr(locks, "REFRESHED_EVERY", 0.01)
    monkeypatch.setattr(locks, "_SETTLES_IN", 0.01)
    held = {"host": "elsewhere", "process": 1, "since": "then", "token": "x", "refreshed": refreshed}
    write_json(folder / ".lock", held)
    said = []
    with locks.hold(folder, said.append):
        assert said == ["the lock of process 1 on elsewhere since then is stale: taken over"]


@pytest.fixture
def dead_process() -> Any:
    """The number of a process of this host that has ended."""
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def left_lock(folder: Any, host: Any, process: Any, token: Any = "x") -> None:
    """The lock of someone else, refreshed just now."""
    held = {"host": host, "process": process, "since": "then", "token": token, "refreshed": time.time()}
    write_json(folder / ".lock", held)


def test_the_lock_of_a_process_that_ended_on_this_host_is_taken_over_and_of_another_host_is_not(
    folder: Any, dead_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_SETTLES_IN", 0.01)
    left_lock(folder, socket.gethostname(), dead_process)
    with locks.hold(folder):
        pass
    left_lock(folder, "elsewhere", dead_process)
    with pytest.raises(FolderHeld, match=f"process {dead_process} on elsewhere"), locks.hold(folder):
        pytest.fail("two hold one folder")


def test_of_two_that_take_over_at_once_the_first_gives_way(
    folder: Any, dead_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_lock(folder, socket.gethostname(), dead_process)
    monkeypatch.setattr(time, "sleep", lambda seconds: left_lock(folder, "elsewhere", 7, "y"))
    with pytest.raises(FolderHeld, match="process 7 on elsewhere"), locks.hold(folder):
        pytest.fail("two hold one folder")
    assert json.loads((folder / ".lock").read_text())["token"] == "y"


def test_of_two_that_make_a_lock_at_once_the_first_gives_way(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    pipe = MemoryFileSystem.pipe_file

    def overtaken(self: Any, *arguments: Any, **settings: Any) -> None:
        pipe(self, *arguments, **settings)
        left_lock(folder, "elsewhere", 7, "y")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", overtaken)
    with pytest.raises(FolderHeld, match="process 7 on elsewhere"), locks.hold(folder):
        pytest.fail("two hold one folder")
    assert json.loads((folder / ".lock").read_text())["token"] == "y"


def test_a_lock_whose_writing_went_through_unanswered_is_ours(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    pipe, calls = MemoryFileSystem.pipe_file, []

    def unanswered(self: Any, *arguments: Any, **settings: Any) -> None:
        pipe(self, *arguments, **settings)
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", unanswered)
    with locks.hold(folder):
        assert len(calls) == 1 and json.loads((folder / ".lock").read_text())["process"]
    assert not (folder / ".lock").exists()


def test_a_lock_that_is_anothers_now_is_not_refreshed(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "REFRESHED_EVERY", 0.01)

    def lose_it() -> None:
        with locks.hold(folder):
            left_lock(folder, "elsewhere", 7, "y")
            time.sleep(0.2)

    with pytest.raises(FolderHeld, match="process 7 on elsewhere since then, which took it over"):
        lose_it()
    assert json.loads((folder / ".lock").read_text())["token"] == "y"


def test_of_the_shards_of_a_remote_job_each_has_a_lock_of_its_own(folder: Any) -> None:
    with locks.hold(folder, part=(0, 2)):
        with locks.hold(folder, part=(1, 2)), locks.hold(folder):
            pass
        with pytest.raises(FolderHeld, match=r"shard 1 of 2 in memory://.* is held by process"), locks.hold(folder, part=(0, 2)):
            pytest.fail("two hold one shard")
    assert not list(folder.rglob("*"))
