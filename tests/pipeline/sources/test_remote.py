"""Data in over the S3 protocol, with a real server on the loopback address; broken lines and dead ends."""

from __future__ import annotations

import socket
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_line import BrokenLine
from remote_job import job

from pipeline import run
from pipeline.errors import MissingInput, Unreachable, UnusableData
from pipeline.sources.fit import Fit
from pipeline.sources.registry import open_source
from pipeline.sources.source import Shard
from pipeline.spec.data import DataSpec
from pipeline.store import remote

pytest.importorskip("s3fs", reason="s3fs is not installed: pip install convscope[s3]")
pytest.importorskip("moto.server", reason="moto's server is not installed: pip install convscope[dev]")

FIT = Fit(8, 8)


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
    assert without_reasons(whole) == without_reasons(listed(here)) and len(whole) >= 9
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
