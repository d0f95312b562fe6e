"""PageJournal: the layers that an interrupted page has written, in the user's cache, so that the next page goes on from there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from pipeline.errors import ConvscopeError
from pipeline.report.job_reader import Row
from pipeline.store.files import write_bytes
from pipeline.store.places import Place
from pipeline.store.user_cache import user_cache

_PAGES = 64  # unfinished ones that are kept: the last
_NOT_READ = ("report", "parts")  # of a job's folders, by a page's layers; nor do they read the files beside them


class PageJournal:
    """What was written of each layer of a page, a line a layer, until the page is whole.

    A line counts while nothing has changed in the job's folder that a page reads, nor in the code that writes pages, and while
    the layer's files are as they were written. Nothing is kept of a remote folder, nor where the user's cache is off. It does not
    lie in the job's folder, which a stranger may have made: scripts would be trusted that this user's page has not written.
    """

    def __init__(self, folder: Place) -> None:
        """For the page of a job's folder."""
        self._folder, cached = folder / "report", user_cache()
        self._path: Path | None = None
        self._lines: dict[str, Row] = {}
        if cached is None or not isinstance(folder, Path):
            return
        self._path = cached / "pages" / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]}.jsonl"
        key = _state(folder)
        with contextlib.suppress(OSError, ValueError):  # absent, or the last line is cut short
            first, *lines = self._path.read_text(encoding="utf-8").splitlines()
            for line in map(json.loads, lines if first == key else []):
                self._lines[line["layer"]] = line
        with contextlib.suppress(ConvscopeError, OSError):
            self._begin(key)

    def written(self, layer: str) -> tuple[Row, list[str]] | None:
        """What the overview says of a layer, and the names of its files; None where it is to be written."""
        line = self._lines.get(layer)
        if line is None or any(self._digest(name) != digest for name, digest in line["files"].items()):
            return None
        return line["entry"], list(line["files"])

    def add(self, layer: str, entry: Row, files: Sequence[str]) -> None:
        """A layer is written: what the overview says of it, and the names of its files."""
        if self._path is not None:
            line = {"layer": layer, "entry": entry, "files": {name: self._digest(name) for name in files}}
            with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(line)}\n")

    def complete(self) -> None:
        """The page is whole."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _begin(self, key: str) -> None:
        assert self._path is not None
        text = "".join(f"{line}\n" for line in (key, *map(json.dumps, self._lines.values())))
        write_bytes(self._path, text.encode(), durable=False)
        for path in sorted(self._path.parent.iterdir(), key=lambda path: path.stat().st_mtime)[:-_PAGES]:
            path.unlink()

    def _digest(self, name: str) -> str | None:
        try:
            return hashlib.sha256((self._folder / name).read_bytes()).hexdigest()
        except OSError:
            return None


def _state(folder: Path) -> str:
    """A digest of what a page is made of: sizes and times of the job's files, and the code that writes pages."""
    digest = hashlib.sha256(_code())
    for above, folders, files in os.walk(folder):
        outermost = above == str(folder)
        folders[:] = sorted(name for name in folders if not (outermost and name in _NOT_READ))
        for name in [] if outermost else sorted(files):
            status = os.lstat(path := os.path.join(above, name))
            digest.update(f"{os.path.relpath(path, folder)!r} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


@cache
def _code() -> bytes:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).digest()
