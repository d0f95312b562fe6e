"""Remote locks on a store that answers late, twice or not at all: an S3 server behind a proxy that misbehaves."""

from __future__ import annotations

import http.client
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pipeline.errors import ConvscopeError, FolderHeld, StoreFailed
from pipeline.store import locks, remote
from pipeline.store.places import place

pytest.importorskip("moto.server", reason="moto's server is not installed: pip install convscope[dev]")
pytest.importorskip("s3fs", reason="s3fs is not installed: pip install convscope[dev]")

Forward = Callable[[], tuple[int, list[tuple[str, str]], bytes]]  # sends the request on: status, headers, content


class Proxy:
    """Passes requests on to a store; `manner` may do so late, more than once, or lose the answer (None)."""

    def __init__(self, host: str, port: int) -> None:
        self.manner: Callable[[str, str, Forward], Any] = lambda method, path, forward: forward()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))

                def forward() -> tuple[int, list[tuple[str, str]], bytes]:
                    connection = http.client.HTTPConnection(host, port, timeout=30)
                    try:
                        connection.request(self.command, self.path, content, dict(self.headers))
                        answer = connection.getresponse()
                        return answer.status, answer.getheaders(), answer.read()
                    finally:
                        connection.close()

                answer = proxy.manner(self.command, self.path, forward)
                if answer is None:
                    self.close_connection = True
                    return
                status, headers, data = answer
                self.send_response_only(status)
                for name, value in headers:
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                if self.command == "HEAD":
                    self.send_header("Content-Length", dict(headers).get("Content-Length", "0"))
                else:
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    import fsspec
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    started = Proxy(*moto.get_host_and_port())
    own = dict(fsspec.config.conf)
    address = f"http://127.0.0.1:{started.server.server_port}"
    fsspec.config.conf["s3"] = {"key": "x", "secret": "x", "client_kwargs": {"endpoint_url": address, "region_name": "us-east-1"}}
    bucket = http.client.HTTPConnection(*moto.get_host_and_port())
    bucket.request("PUT", "/locks")
    assert bucket.getresponse().status == 200
    yield started
    fsspec.config.conf.clear()
    fsspec.config.conf.update(own)
    started.server.shutdown()
    moto.stop()


@pytest.fixture
def folder(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty folder in the store, with short pauses."""
    for name, value in {"FIRST_PAUSE": 0.01, "DEADLINE": 3.0}.items():
        monkeypatch.setattr(remote, name, value)
    for name, value in {"_SETTLES_IN": 0.05, "REFRESHED_EVERY": 0.1}.items():
        monkeypatch.setattr(locks, name, value)
    proxy.manner = lambda method, path, forward: forward()
    yield place(f"s3://locks/{uuid.uuid4().hex}")
    proxy.manner = lambda method, path, forward: forward()


def hold_and_be_held(folder: Any) -> None:
    """Hold a folder; nobody else can meanwhile, and somebody can afterwards."""
    with locks.hold(folder):
        assert json.loads((folder / ".lock").read_bytes())["token"]
        with pytest.raises(FolderHeld), locks.hold(folder):
            pytest.fail("two hold one folder")
    with locks.hold(folder):
        pass


def test_a_store_that_answers_late_holds(proxy: Proxy, folder: Any) -> None:
    def late(method: str, path: str, forward: Forward) -> Any:
        time.sleep(0.05)
        return forward()

    proxy.manner = late
    hold_and_be_held(folder)


@pytest.mark.parametrize("methods", [{"PUT"}, {"DELETE"}, {"PUT", "DELETE", "GET", "HEAD"}])
def test_a_store_that_does_everything_twice_holds(proxy: Proxy, folder: Any, methods: set[str]) -> None:
    def twice(method: str, path: str, forward: Forward) -> Any:
        if method in methods:
            forward()
        return forward()

    proxy.manner = twice
    hold_and_be_held(folder)


@pytest.mark.parametrize("methods", [{"PUT"}, {"GET"}, {"DELETE"}, {"PUT", "DELETE", "GET", "HEAD"}])
def test_a_store_whose_every_other_answer_is_lost_holds(proxy: Proxy, folder: Any, methods: set[str]) -> None:
    calls = {"n": 0}

    def lossy(method: str, path: str, forward: Forward) -> Any:
        answer = forward()  # it is done, and nobody hears of it
        calls["n"] += method in methods
        return None if method in methods and calls["n"] % 2 else answer

    proxy.manner = lossy
    hold_and_be_held(folder)


def test_a_store_that_never_answers_ends_in_time_with_one_line(proxy: Proxy, folder: Any) -> None:
    released = threading.Event()

    def never(method: str, path: str, forward: Forward) -> Any:
        released.wait(30)

    proxy.manner = never
    began = time.monotonic()
    with pytest.raises(ConvscopeError, match="did not answer") as caught, locks.hold(folder):
        pytest.fail("nobody can know")
    released.set()
    assert time.monotonic() - began < 10 and "\n" not in str(caught.value)
    assert isinstance(caught.value, StoreFailed) or caught.value.exit_code == 2


@pytest.mark.slow  # the holder waits for the store before it gives up
def test_a_store_that_falls_silent_while_a_lock_is_held_lets_the_holder_end(proxy: Proxy, folder: Any) -> None:
    with locks.hold(folder):
        proxy.manner = lambda method, path, forward: None
        time.sleep(0.3)  # some refreshes fail
    # The lock is still there, of a process that lives: another process of another host would have to wait until it is stale.
    proxy.manner = lambda method, path, forward: forward()
    assert json.loads((folder / ".lock").read_bytes())["process"]
