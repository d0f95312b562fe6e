"""Data in and results out over the S3 protocol, with a real server on the loopback address; broken lines and dead ends."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from broken_line import BrokenLine

from pipeline import run
from pipeline.errors import FolderHeld, MissingInput, StoreFailed, Unreachable, UnusableData
from pipeline.load import parse_spec
from pipeline.sources.fit import Fit
from pipeline.sources.registry import open_source
from pipeline.sources.source import Shard
from pipeline.spec.data import DataSpec
from pipeline.store import locks, remote
from pipeline.store.files import check_writable
from pipeline.store.places import place

pytest.importorskip("s3fs", reason="s3fs is not installed: pip install convscope[s3]")
pytest.importorskip("moto.server", reason="moto's server is not installed: pip install convscope[dev]")

FIT = Fit(8, 8)
IMAGES = 9


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    yield moto.get_host_and_port()
    moto.stop()


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function: all that follows asks this port for s3:// addresses."""
    import fsspec

    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)

    def port(number: Any) -> None:
        settings = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in {**settings, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{number}"}.items():
            monkeypatch.setenv(name, value)
        fsspec.filesystem("s3").clear_instance_cache()

    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.02)
    yield port
    fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture
def bucket(server: Any, ask: Any) -> Iterator[Any]:
    """An empty bucket, removed at the end. Returns: its file system, that of s3fs."""
    import fsspec

    ask(server[1])
    system = fsspec.filesystem("s3")
    system.mkdir("bucket")
    yield system
    ask(server[1])
    system = fsspec.filesystem("s3")
    system.rm("bucket", recursive=True)


@pytest.fixture
def stored(tmp_path: Path, write: Any, scene: Any) -> Any:
    """The same pictures in every kind of file; the last but one is not a picture. Returns: their folder."""
    paths = [f"c{index % 2}/{index}.png" for index in range(IMAGES)]
    files = [write(path, b"text" if index == 7 else scene(40, 50, index)) for index, path in enumerate(paths)]
    data = [file.read_bytes() for file in files]
    images = tmp_path / "images"
    table = pa.table({"image": [{"bytes": one, "path": None} for one in data], "label": [f"c{i % 2}" for i in range(IMAGES)]})
    (images / "parquet").mkdir()
    pq.write_table(table.slice(0, 5), images / "parquet" / "a.parquet", row_group_size=2)
    pq.write_table(table.slice(5), images / "parquet" / "b.parquet", row_group_size=2)
    (images / "tar").mkdir()
    for name, mode in (("a.tar", "w"), ("b.tar.gz", "w:gz")):
        with tarfile.open(images / "tar" / name, mode) as archive:
            for index, one in enumerate(data):
                for ending, content in (("png", one), ("cls", str(index % 2).encode())):
                    member = tarfile.TarInfo(f"{index}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    (images / "list.txt").write_text("".join(f"{path}\tlabel {path}\n" for path in [*paths, "gone.png"]))
    return images


SOURCES = ["folder:{}", "parquet:{}/parquet/*.parquet", "tar:{}/tar/*", "list:{}/list.txt"]


def opened(source: Any, root: Any, **spec: Any) -> Any:
    return open_source(DataSpec(source=source.format(root), **spec), FIT)


def without_reasons(elements: Any) -> Any:
    return [(*element[:4], bool(element[4])) for element in elements]


@pytest.mark.parametrize("source", SOURCES)
def test_remote_data_give_the_same_examples_and_the_same_digest_as_local_ones(
    bucket: Any, stored: Any, listed: Any, source: Any
) -> None:
    bucket.put(f"{stored}/", "bucket/data/", recursive=True)
    here, there = opened(source, stored), opened(source, "s3://bucket/data")
    whole = listed(there)
    assert without_reasons(whole) == without_reasons(listed(here)) and len(whole) >= IMAGES
    assert sum(bool(element[4]) for element in whole) >= 1
    assert there.digest() == here.digest() and there.labels == here.labels
    assert listed(there, Shard(1, 3), 1) == whole[len(whole) // 3 : 2 * len(whole) // 3][1:]
    good = [element[0] for element in whole if not element[4]]
    for (example, image), (same, twin) in zip(there.fetch(good[::3]), here.fetch(good[::3]), strict=True):
        assert example == same and image.key == twin.key and np.array_equal(image.pixels, twin.pixels)
    windows = {"window": {"size": 20, "stride": 10}, "limit": 17}
    assert listed(opened(source, "s3://bucket/data", **windows)) == listed(opened(source, stored, **windows))


@pytest.mark.parametrize("source", SOURCES)
def test_a_line_that_breaks_in_between_brings_the_same_bytes(
    server: Any, ask: Any, bucket: Any, stored: Any, listed: Any, source: Any
) -> None:
    bucket.put(f"{stored}/", "bucket/data/", recursive=True)
    expected = without_reasons(listed(opened(source, stored)))
    ask(server[1])
    line = BrokenLine(server, after=1500, cuts=7)
    try:
        ask(line.port)
        assert without_reasons(listed(opened(source, "s3://bucket/data"))) == expected
        assert line.broken == 7
    finally:
        line.close()


@pytest.mark.parametrize("source", ["folder:{}", "parquet:{}/parquet/*.parquet", "tar:{}/tar/a.tar"])
def test_a_line_that_stays_broken_ends_in_one_line_that_names_the_address(
    server: Any, ask: Any, bucket: Any, stored: Any, tmp_path: Path, source: Any
) -> None:
    bucket.put(f"{stored}/", "bucket/data/", recursive=True)
    line = BrokenLine(server, after=0, cuts=0)
    ask(line.port)
    spec = job(tmp_path, source.format("s3://bucket/data"))
    runs = sys.modules["pipeline.run"]
    opening = runs.open_job

    def then_break(*arguments: Any, **settings: Any) -> Any:
        opened_job = opening(*arguments, **settings)
        line.cuts = 10**6
        return opened_job

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "open_job", then_break)
        with pytest.raises(Unreachable, match=r"'s3://bucket/data/.*did not answer in 6 attempts") as caught:
            run(spec, tmp_path / "out")
    assert "\n" not in str(caught.value) and caught.value.exit_code == 75
    line.close()


def test_an_address_where_nobody_listens_is_named_before_work_starts(ask: Any, tmp_path: Path, closed_port: Any) -> None:
    ask(closed_port)
    for source in SOURCES:
        begin = time.monotonic()
        with pytest.raises(MissingInput, match=r"s3://bucket/data.* did not answer") as caught:
            opened(source, "s3://bucket/data")
        assert time.monotonic() - begin < 15 and "\n" not in str(caught.value)


def test_an_address_that_listens_and_says_nothing_is_given_up_in_time(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "DEADLINE", 1.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ask(silent.getsockname()[1])
        begin = time.monotonic()
        with pytest.raises(MissingInput, match=r"s3://bucket/data.*did not answer within 1.5 seconds"):
            opened("folder:{}", "s3://bucket/data")
        assert time.monotonic() - begin < 10


@pytest.mark.parametrize(("source", "said"), [("folder:{}", "holds no images"), ("parquet:{}/*.parquet", "no file matches")])
def test_an_address_with_nothing_there_is_named(bucket: Any, source: Any, said: Any) -> None:
    with pytest.raises(MissingInput, match=rf"s3://bucket/none.*{said}|{said}.*s3://bucket/none"):
        opened(source, "s3://bucket/none")
    with pytest.raises(MissingInput, match="s3://no-such-bucket"):
        opened(source, "s3://no-such-bucket/x")


def test_files_come_over_http_too_and_a_host_that_is_not_there_is_named(
    server: Any, bucket: Any, stored: Any, listed: Any, closed_port: Any
) -> None:
    bucket.put(f"{stored}/", "bucket/data/", recursive=True)
    for file in bucket.find("bucket"):
        bucket.chmod(file, "public-read")
    for source in ("parquet:{}/parquet/a.parquet", "tar:{}/tar/a.tar", "tar:{}/tar/b.tar.gz", "list:{}/list.txt"):
        far = opened(source, f"http://127.0.0.1:{server[1]}/bucket/data")
        assert without_reasons(listed(far)) == without_reasons(listed(opened(source, stored)))
    for source in ("parquet:{}/a.parquet", "tar:{}/a.tar", "list:{}/a.txt"):
        with pytest.raises(MissingInput, match=f"127.0.0.1:{closed_port}/a"):
            opened(source, f"http://127.0.0.1:{closed_port}")
        with pytest.raises(MissingInput, match="no file matches|cannot be read"):
            opened(source, f"http://127.0.0.1:{server[1]}/bucket/none")


def test_a_server_without_range_requests_is_an_error_of_one_line(stored: Any) -> None:
    import functools
    import http.server

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    class QuietServer(http.server.ThreadingHTTPServer):
        def handle_error(self, *arguments: Any) -> None:
            pass

    (stored / "picture.png").write_bytes(bytes(2**23))
    with tarfile.open(stored / "big.tar", "w") as archive:
        for name in ("1.png", "2.png"):
            archive.add(stored / "picture.png", name)
    with QuietServer(("127.0.0.1", 0), functools.partial(Quiet, directory=stored)) as plain:
        threading.Thread(target=plain.serve_forever, daemon=True).start()
        for source in ("parquet", "tar"):
            with pytest.raises(UnusableData, match="range requests") as caught:
                opened(f"{source}:{{}}/big.tar", f"http://127.0.0.1:{plain.server_port}")
            assert "\n" not in str(caught.value)
        plain.shutdown()


def test_prepared_data_sets_lie_where_tensorflow_reads(tmp_path: Path) -> None:
    with pytest.raises(UnusableData, match="data.data_dir 's3://bucket/tfds': TensorFlow reads folders and gs:// addresses"):
        opened("tfds:cifar10/test", "", data_dir="s3://bucket/tfds")


def test_a_scheme_that_nobody_serves_is_named() -> None:
    with pytest.raises(MissingInput, match="nosuch://x/y"):
        opened("folder:{}", "nosuch://x/y")


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


@pytest.fixture
def closed_port() -> Any:
    with socket.create_server(("127.0.0.1", 0)) as freed:
        return freed.getsockname()[1]


def job(tmp_path: Path, source: str) -> Any:
    model = tmp_path / "small.keras"
    if not model.exists():
        keras.utils.set_random_seed(3)
        x = inputs = keras.Input((16, 16, 3))
        x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(x)
        x = keras.layers.Conv2D(3, 3, strides=2, name="deep")(x)
        keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))).save(model)
    return parse_spec(
        {
            "name": "small",
            "stages": ["activations"],
            "model": {"source": f"file:{model}", "layers": ["conv", "deep"], "preprocess": "unit"},
            "data": {"source": source, "batch": 4, "max_bad": 0.5},
            "activations": {"top_k": 2},
        }
    )


def contents(files: Any) -> Any:
    """{path: bytes} of the results alone, without run.json and the lock."""
    return {path: data for path, data in files if path not in ("run.json", ".lock")}


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid
