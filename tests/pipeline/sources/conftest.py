"""What the tests of sources share: a scene, a folder to fill, and a stream as plain Python."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources.registry import open_source
from pipeline.sources.source import Shard
from pipeline.spec.data import DataSpec
from pipeline.store import remote

STORED = 9  # pictures of `stored`


@pytest.fixture
def scene() -> Any:
    """A smooth random picture of some size, always the same for the same seed."""

    def draw(height: Any = 12, width: Any = 16, seed: Any = 0) -> Any:
        noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        return cv2.GaussianBlur(noise, (5, 5), 2)

    return draw


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Write RGB pixels (or bytes as they are) to a file below tmp_path / "images"."""

    def write_file(path: Any, pixels: Any) -> Any:
        file = tmp_path / "images" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(pixels, bytes):
            file.write_bytes(pixels)
        else:
            file.write_bytes(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())
        return file

    return write_file


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    """Open tmp_path / "images" as a source."""

    def open_folder(fit: Any, **spec: Any) -> Any:
        return open_source(DataSpec(source=f"folder:{tmp_path / 'images'}", **spec), fit)

    return open_folder


@pytest.fixture
def listed() -> Any:
    """The elements of a stream as tuples (example, key, label, pixels as bytes, error)."""

    def as_tuples(source: Any, shard: Any = None, start: Any = 0) -> Any:
        elements = source.stream(shard or Shard(), start).as_numpy_iterator()
        return [
            (int(e["example"]), e["key"].decode(), e["label"].decode(), e["image"].tobytes(), e["error"].decode())
            for e in elements
        ]

    return as_tuples


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
    """Nine pictures in every kind of file; the last but one is not a picture. Returns: their folder."""
    paths = [f"c{index % 2}/{index}.png" for index in range(STORED)]
    files = [write(path, b"text" if index == 7 else scene(40, 50, index)) for index, path in enumerate(paths)]
    data = [file.read_bytes() for file in files]
    images = tmp_path / "images"
    table = pa.table(
        {"image": [{"bytes": content, "path": None} for content in data], "label": [f"c{i % 2}" for i in range(STORED)]}
    )
    (images / "parquet").mkdir()
    pq.write_table(table.slice(0, 5), images / "parquet" / "a.parquet", row_group_size=2)
    pq.write_table(table.slice(5), images / "parquet" / "b.parquet", row_group_size=2)
    (images / "tar").mkdir()
    for name, mode in (("a.tar", "w"), ("b.tar.gz", "w:gz")):
        with tarfile.open(images / "tar" / name, mode) as archive:
            for index, picture in enumerate(data):
                for ending, content in (("png", picture), ("cls", str(index % 2).encode())):
                    member = tarfile.TarInfo(f"{index}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    (images / "list.txt").write_text("".join(f"{path}\tlabel {path}\n" for path in [*paths, "gone.png"]))
    return images


@pytest.fixture
def closed_port() -> Any:
    with socket.create_server(("127.0.0.1", 0)) as freed:
        return freed.getsockname()[1]
