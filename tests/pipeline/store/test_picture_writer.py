"""Pictures that are written by threads of their own."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

import pytest

from pipeline.errors import StoreFailed
from pipeline.hardware import cores
from pipeline.store.picture_writer import PictureWriter


def test_all_pictures_are_there_when_it_is_finished_and_it_can_go_on(tmp_path: Path) -> None:
    writer = PictureWriter()
    for first in (0, 30):
        for number in range(first, first + 30):
            writer.put(tmp_path / "deep" / f"{number}.png", partial(bytes, [number] * 100))
        writer.finish()
        assert all((tmp_path / "deep" / f"{number}.png").read_bytes() == bytes([number]) * 100 for number in range(first + 30))


def test_no_more_pictures_wait_than_twice_the_cores(tmp_path: Path) -> None:
    writer, go, encoded = PictureWriter(), threading.Event(), []

    def encode() -> bytes:
        go.wait(10)
        encoded.append(1)
        return b"x"

    def put_many() -> None:
        for number in range(2 * cores() + 3):
            writer.put(tmp_path / f"{number}.png", encode)

    caller = threading.Thread(target=put_many)
    caller.start()
    caller.join(0.3)
    assert caller.is_alive() and not encoded
    go.set()
    caller.join(10)
    writer.finish()
    assert len(encoded) == 2 * cores() + 3


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    writer = PictureWriter()
    writer.put(tmp_path / "file" / "a.png", lambda: b"x")
    with pytest.raises(StoreFailed, match="was not written"):
        writer.finish()
