"""Place: a local path or a remote address, with the same few methods of `pathlib.Path`."""

from __future__ import annotations

import io
import os
import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple, TypeAlias

from pipeline.errors import MissingInput, shortened
from pipeline.store import remote

_LONGEST_NAME = 255  # bytes of a file's name, on every file system
_LONGEST_PATH = 3072  # bytes of a folder's path: Linux takes 4096, with what lies in the folder


class Stat(NamedTuple):
    """The length of a remote file in bytes, as os.stat names it."""

    st_size: int


@dataclass(frozen=True, order=True)
class Remote:
    """A file or folder at an address that fsspec knows: as much of `pathlib.Path` as results need.

    A remote folder exists while it holds a file. Every method retries (`remote.patiently`).
    """

    address: str
    length: int | None = field(default=None, compare=False)  # bytes, where known from a listing

    def __truediv__(self, name: str) -> Remote:
        return Remote(f"{self.address.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        return posixpath.basename(self.address.rstrip("/"))

    @property
    def stem(self) -> str:
        return posixpath.splitext(self.name)[0]

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.name)[1]

    @property
    def parent(self) -> Remote:
        return Remote(remote.parent(self.address.rstrip("/")))

    def relative_to(self, folder: Remote) -> Path:
        """The path of a file below a folder."""
        return Path(remote.relative(self.address, folder.address))

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a remote folder exists once it holds a file."""

    def exists(self) -> bool:
        return self.is_file() or next(self.rglob("*"), None) is not None

    def is_file(self) -> bool:
        if self.length is not None:
            return True
        system, path = remote.file_system(self.address)
        system.invalidate_cache()
        return remote.patiently(lambda: system.isfile(path), self.address)

    def stat(self) -> Stat:
        """Raises: FileNotFoundError."""
        if self.length is not None:
            return Stat(self.length)
        system, path = remote.file_system(self.address)
        return Stat(int(remote.patiently(lambda: system.info(path), self.address)["size"]))

    def rglob(self, pattern: str) -> Iterator[Remote]:
        """The files below whose name matches."""
        for address, length in remote.listing(f"{self.address.rstrip('/')}/"):
            file = Remote(address, length)
            if fnmatchcase(file.name, pattern):
                yield file

    def glob(self, pattern: str) -> Iterator[Remote]:
        """The files right below whose name matches."""
        return (file for file in self.rglob(pattern) if file.parent == self)

    def read_bytes(self) -> bytes:
        """Raises: FileNotFoundError."""
        return remote.read(self.address)

    def read_text(self, encoding: str = "utf-8") -> str:
        """Raises: FileNotFoundError."""
        return self.read_bytes().decode(encoding)

    def open(self, mode: str = "rb") -> io.BytesIO:
        """A file to read, held in memory. Raises: FileNotFoundError."""
        if mode != "rb":
            raise ValueError(f"mode {mode!r}: remote files are written whole, by `aside`")
        return io.BytesIO(self.read_bytes())

    def put(self, local: Path) -> None:
        """Upload a local file, all at once: no reader sees half of it."""
        system, path = remote.file_system(self.address)
        remote.patiently(lambda: system.put_file(str(local), path), self.address)

    def unlink(self, missing_ok: bool = False) -> None:
        """Raises: FileNotFoundError."""
        system, path = remote.file_system(self.address)
        try:
            remote.patiently(lambda: system.rm_file(path), self.address)
        except FileNotFoundError:
            if not missing_ok:
                raise


Place: TypeAlias = Path | Remote


def place(path: str | os.PathLike[str]) -> Place:
    """The place of a path or an address.

    Raises: MissingInput, for an address that no installed file system serves, and for a path that no file system takes.
    """
    text = os.fspath(path)
    if not remote.is_remote(text):
        local = Path(remote.local_path(text)) if remote.has_scheme(text) else Path(path)
        _check_length(local)
        return local
    remote.file_system(text)
    return Remote(text.rstrip("/"))


def _check_length(path: Path) -> None:
    """Refuse a path here that would be an OSError wherever it is looked up. Raises: MissingInput."""
    name = max(path.parts, key=lambda part: len(os.fsencode(part)), default="")
    reasons = {
        f"the name {shortened(name)!r} in it is longer than {_LONGEST_NAME} bytes": len(os.fsencode(name)) > _LONGEST_NAME,
        f"it is longer than {_LONGEST_PATH:,} bytes": len(os.fsencode(path.absolute())) > _LONGEST_PATH,
        "it holds a zero byte": "\0" in str(path),
    }
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    if reason is not None:
        raise MissingInput(f"the path {shortened(str(path))!r} cannot be: {reason}. Name another.")


def is_endless(path: str | os.PathLike[str]) -> bool:
    """Whether a local path is, or leads to, a pipe, a device or a socket: to read it may wait, or go on, for ever."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # not there, or no name that the system takes: its reader says so
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
