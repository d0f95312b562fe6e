"""Paths in data from strangers: none reads a file outside the data's folder, none sends a request to another host."""

from __future__ import annotations

import http.server
import io
import json
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UnusableData
from pipeline.sources.fit import Fit
from pipeline.sources.registry import open_source
from pipeline.spec.data import DataSpec
from pipeline.store import remote

FIT = Fit(8, 8)
Listed = Callable[..., list[tuple[int, str, str, bytes, str]]]


class Host:
    """An HTTP server on the loopback address: the requests that it got, and the files that it has, by path."""

    def __init__(self) -> None:
        host = self
        self.requests: list[str] = []
        self.files: dict[str, bytes] = {}

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.requests.append(self.path)
                content = host.files.get(self.path)
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else content or b"")

            do_HEAD = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def host() -> Iterator[Host]:
    pytest.importorskip("aiohttp")
    made = Host()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def other(host: Host) -> Iterator[Host]:
    made = Host()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def secret(write: Any, scene: Any, tmp_path: Path) -> Path:
    """An image outside the folder of the data, which is tmp_path / "images" / "data"."""
    (tmp_path / "images" / "data").mkdir(parents=True)
    return Path(write("secret.png", scene(seed=9)))


def reasons(elements: list[tuple[int, str, str, bytes, str]]) -> list[str]:
    return [element[4] for element in elements]


def forged(host: Host, secret: Path) -> list[str]:
    """Paths that must not be followed from a local data set."""
    return [
        f"{host.address}/latest/meta-data",
        f"simplecache::{host.address}/x.png",
        f"filecache::{host.address}/x.png",
        f"file://{secret}",
        str(secret),
        "../secret.png",
        "data/../../secret.png",
        "link.png",
        "linked/secret.png",
        "x\0.png",
    ]


def make_links(folder: Path, secret: Path) -> None:
    (folder / "link.png").symlink_to(secret)
    (folder / "linked").symlink_to(secret.parent)


@pytest.mark.parametrize("as_struct", [True, False])
def test_a_path_in_a_table_reads_nothing_outside_the_tables_folder_and_asks_no_host(
    host: Host, secret: Path, listed: Listed, as_struct: bool
) -> None:
    folder = secret.parent / "data"
    make_links(folder, secret)
    (folder / "inside.png").write_bytes(secret.read_bytes())
    paths = [*forged(host, secret), "inside.png", str(folder / "inside.png")]
    column: list[Any] = [{"bytes": None, "path": path} for path in paths] if as_struct else list(paths)
    pq.write_table(pa.table({"image": column}), folder / "a.parquet")
    source = open_source(DataSpec(source=f"parquet:{folder}/a.parquet", image="image"), FIT)
    elements = listed(source)
    assert host.requests == []
    assert all("refused: " in reason for reason in reasons(elements)[:-2]) and reasons(elements)[-2:] == ["", ""]
    with pytest.raises(UnusableData, match="refused: it is an address, and the data are local"):
        list(source.fetch([0]))
    open_source(DataSpec(source=f"parquet:{folder}/a.parquet", image="image", window={"size": 4, "stride": 4}), FIT)
    assert host.requests == []


def test_a_local_list_names_any_local_file_and_no_address(host: Host, secret: Path, listed: Listed) -> None:
    folder = secret.parent / "data"
    addresses = [f"{host.address}/x.png", f"simplecache::{host.address}/x.png", "memory://x.png", "s3://bucket/x.png"]
    files = [str(secret), "../secret.png", f"file://{secret}"]
    (folder / "list.txt").write_text("\n".join([*addresses, *files]))
    elements = listed(open_source(DataSpec(source=f"list:{folder}/list.txt"), FIT))
    assert host.requests == []
    assert reasons(elements)[:4] == ["the file cannot be read (refused: it is an address, and the list is local)"] * 4
    assert reasons(elements)[4:] == [""] * 3


def test_a_remote_list_names_files_of_its_own_host_alone(host: Host, other: Host, secret: Path, listed: Listed) -> None:
    host.files = {"/data/x.png": secret.read_bytes(), "/more/y.png": secret.read_bytes()}
    refused = [
        f"{other.address}/x.png",
        f"file://{secret}",
        str(secret),
        "../more/y.png",
        "%2e%2e/more/y.png",
        f"x.png::{other.address}/x.png",
        f"X::{other.address}/x.png",
    ]
    host.files["/data/list.txt"] = "\n".join(["x.png", f"{host.address}/more/y.png", *refused]).encode()
    elements = listed(open_source(DataSpec(source=f"list:{host.address}/data/list.txt"), FIT))
    assert other.requests == []
    assert reasons(elements)[:2] == ["", ""] and all("refused: " in reason for reason in reasons(elements)[2:])
    assert {path for path in host.requests if "y.png" in path} == {"/more/y.png"}


def test_a_remote_table_names_files_below_its_own_folder_alone(
    host: Host, other: Host, secret: Path, tmp_path: Path, listed: Listed
) -> None:
    paths = ["x.png", f"{other.address}/x.png", f"{host.address}/data/x.png", str(secret), "/x.png", "../x.png", f"a::{secret}"]
    pq.write_table(pa.table({"image": [{"bytes": None, "path": path} for path in paths]}), tmp_path / "a.parquet")
    host.files = {"/data/x.png": secret.read_bytes(), "/data/a.parquet": (tmp_path / "a.parquet").read_bytes()}
    elements = listed(open_source(DataSpec(source=f"parquet:{host.address}/data/a.parquet", image="image"), FIT))
    assert other.requests == [] and "/x.png" not in host.requests
    assert reasons(elements)[0] == "" and all("refused: " in reason for reason in reasons(elements)[1:])


def test_names_of_files_in_a_folder_are_never_addresses(write: Any, scene: Any, folder: Any, listed: Listed) -> None:
    names = ["memory::x.png", "http::/127.0.0.1/x.png", "simplecache::y/z.png"]
    for name in names:
        write(name, scene())
    assert sorted((element[1], element[4]) for element in listed(folder(FIT))) == sorted((name, "") for name in names)


def test_names_of_files_in_a_store_are_never_addresses_of_another(host: Host, secret: Path, listed: Listed) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    try:
        store.pipe({f"/names/{host.address}/x.png": secret.read_bytes(), "/names/good.png": secret.read_bytes()})
        elements = listed(open_source(DataSpec(source="folder:memory://names"), FIT))
        assert host.requests == [] and sorted(bool(element[4]) for element in elements) == [False, True]
    finally:
        store.rm("/names", recursive=True)


def test_members_and_labels_of_an_archive_are_names_and_nothing_is_opened_by_them(
    host: Host, secret: Path, listed: Listed
) -> None:
    archive = secret.parent / "data" / "a.tar"
    with tarfile.open(archive, "w") as tar:
        for number, name in enumerate(["../../secret", f"{host.address}/x", "/etc/hostname", "link"]):
            image, label = tarfile.TarInfo(f"{name}{number}.png"), tarfile.TarInfo(f"{name}{number}.cls")
            image.size = secret.stat().st_size
            text = f"{host.address}/label".encode()
            label.size = len(text)
            tar.addfile(image, io.BytesIO(secret.read_bytes()))
            tar.addfile(label, io.BytesIO(text))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            link = tarfile.TarInfo(f"kind{ord(kind)}.png")
            link.type, link.linkname = kind, str(secret)
            tar.addfile(link)
    elements = listed(open_source(DataSpec(source=f"tar:{archive}"), FIT))
    assert host.requests == [] and reasons(elements) == [""] * 4
    assert {element[2] for element in elements} == {f"{host.address}/label"}
    assert sorted(path.name for path in secret.parent.rglob("*") if path.is_file()) == ["a.tar", "secret.png"]


@pytest.mark.parametrize("kind", ["folder", "list"])
def test_what_is_no_regular_file_is_skipped_and_not_waited_for(
    write: Any, scene: Any, tmp_path: Path, listed: Listed, kind: str
) -> None:
    good = write("a.png", scene())
    os.mkfifo(good.parent / "pipe.png")
    (good.parent / "zero.png").symlink_to("/dev/zero")
    (good.parent / "list.txt").write_text("a.png\npipe.png\n/dev/zero\n")
    source = f"folder:{good.parent}" if kind == "folder" else f"list:{good.parent}/list.txt"
    elements = listed(open_source(DataSpec(source=source), FIT))
    assert elements[0][4] == "" and all("no regular file" in element[4] for element in elements[1:])


@pytest.mark.parametrize("template", ["../../{SPLIT}.tfrecord", "/tmp/{SPLIT}.tfrecord"])
def test_a_prepared_data_set_whose_notes_name_files_elsewhere_is_refused(tmp_path: Path, template: str) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    folder = tmp_path / "evil" / "1.0.0"
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(6, 6, 3))})
    features.save_config(str(folder))
    split = {"name": "train", "filepathTemplate": template, "shardLengths": ["1"], "numBytes": "10"}
    info = {"name": "evil", "version": "1.0.0", "fileFormat": "tfrecord", "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UnusableData, match="refused: it"):
        open_source(DataSpec(source="tfds:evil/train", data_dir=str(tmp_path)), FIT, fetch=False)


def test_below_takes_what_lies_in_the_folder_however_it_is_written(tmp_path: Path) -> None:
    assert remote.below("s3://bucket/data", "a b/c.png") == "s3://bucket/data/a b/c.png"
    assert remote.below(str(tmp_path), "a/../b.png") == f"{tmp_path}/a/../b.png"
    assert remote.below("", "b.png") == "./b.png"
