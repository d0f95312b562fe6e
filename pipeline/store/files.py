"""Atomic writes: files are written aside and renamed, so a reader never sees half a file and a failure keeps the old one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
import uuid
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import StoreFailed, Unreachable, one_line, shortened
from pipeline.store import remote
from pipeline.store.places import Place, Remote, is_endless

_ASIDE = ".aside-"


@contextlib.contextmanager
def aside(path: Place, durable: bool = True) -> Iterator[Path]:
    """A local path to write to: it replaces `path` when the block ends, and is removed when the block fails.

    For a remote `path` it is a temporary file, which is then uploaded.

    Args:
        durable: whether to wait until the disk has it. Without, a machine that fails may lose what a finished run has
            written: for many small files that are quickly made again.

    Raises: StoreFailed, for a full disk, a folder that cannot be written, a store that refuses it, and the like.
    """
    with _beside(path, durable) if isinstance(path, Path) else _sent(path) as temporary:
        yield temporary


@contextlib.contextmanager
def _beside(path: Path, durable: bool) -> Iterator[Path]:
    temporary = path.with_name(f"{_ASIDE}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise store_failed(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def _sent(path: Remote) -> Iterator[Path]:
    try:
        with tempfile.TemporaryDirectory(prefix="convscope-") as folder:
            temporary = Path(folder) / path.name
            yield temporary
            path.put(temporary)
    except Unreachable as error:
        raise StoreFailed(f"{path} was not written: {error.args[0]} Run the job again when it does.") from error
    except OSError as error:
        raise store_failed(path, error) from error


def store_failed(path: Place, error: OSError) -> StoreFailed:
    """The error for a path that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFailed(
            f"{path} was not written: the disk is full. Free some space and run the job again; older files are unchanged."
        )
    reason = error.strerror or str(error)
    return StoreFailed(f"{path} was not written: {reason}. Check the folder, or choose another with --out.")


def write_bytes(path: Place, data: bytes, durable: bool = True) -> None:
    """Write a file atomically, as `aside` does. Raises: StoreFailed."""
    with aside(path, durable) as temporary:
        temporary.write_bytes(data)


def write_json(path: Place, tree: Any) -> None:
    """Raises: StoreFailed."""
    write_bytes(path, (json.dumps(tree, indent=1, ensure_ascii=False) + "\n").encode())


def named_file(folder: Place, name: str) -> Place:
    """The file that a table of a job names: it lies in the job's folder, after links are resolved; job folders come from others.

    Raises: FileNotFoundError, for what is not there; PermissionError, for a path that leads elsewhere.
    """
    remote.below(str(folder), name)
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "it is not there", name)
    return path


def check_links(folder: Place) -> None:
    """Refuse to write into a job's folder that holds a link out of it: what is written there would be written elsewhere.

    Raises: StoreFailed.
    """
    if not isinstance(folder, Path):
        return
    root = os.path.realpath(folder)
    for above, folders, files in os.walk(root):
        for path in (os.path.join(above, name) for name in (*folders, *files)):
            if os.path.islink(path) and os.path.commonpath([root, os.path.realpath(path)]) != root:
                raise StoreFailed(
                    f"{folder} holds a link that leads out of it, {os.path.relpath(path, root)!r}, so nothing is written there. "
                    "Put what it leads to in its place, or remove it."
                )


def check_ends(folder: Place) -> None:
    """Refuse to read a job's folder that holds what a reader may wait for, or read, for ever. Raises: StoreFailed."""
    if not isinstance(folder, Path):
        return
    for path in (os.path.join(above, name) for above, _, files in os.walk(folder) for name in files):
        if is_endless(path):
            raise StoreFailed(
                f"{folder} holds a pipe or a device, {shortened(os.path.relpath(path, folder))!r}, which no job leaves there, "
                "so nothing is read. Remove it."
            )


def check_writable(folder: Place) -> None:
    """Check that a folder can be written: write and remove a file there, or in its nearest parent that exists.

    Raises: StoreFailed; MissingInput, for an address that does not answer.
    """
    if isinstance(folder, Path):
        above = folder.absolute()
        try:
            while not above.exists() and not above.is_symlink():
                above = above.parent
            with tempfile.TemporaryFile(dir=above) as file:
                file.write(b"x")
        except OSError as error:
            raise store_failed(folder, error) from None
        return
    trial = folder / f"{_ASIDE}{uuid.uuid4().hex[:8]}"
    try:
        with tempfile.NamedTemporaryFile() as file:
            remote.answered(lambda: trial.put(Path(file.name)), str(trial))
        trial.unlink(missing_ok=True)
    except Unreachable as error:
        raise StoreFailed(f"{folder} cannot be written: {error.args[0]} Check the address, or choose another.") from None
    except (OSError, NotImplementedError) as error:
        raise StoreFailed(
            f"{folder} cannot be written: {one_line(error)}. Check your permissions there, or choose another."
        ) from None


def sweep(folder: Place, name: str | None = None, below: bool = True) -> None:
    """Remove the half-written files of killed runs in a folder and the folders below it.

    Args:
        name: of the file that was being written; absent: any but a shard's part, which is another run's to write.
        below: whether also in the folders below.
    """
    if not isinstance(folder, Path):  # remote files are not written aside
        return
    search = folder.rglob if below else folder.glob
    for path in list(search(f"{_ASIDE}*" if name is None else f"{_ASIDE}*-{name}")):
        if name is not None or path.parent != folder / "parts":
            with contextlib.suppress(OSError):
                path.unlink()


def keep_only(folder: Place, kept: Collection[Place]) -> None:
    """Remove pictures of an earlier run from a folder, which this run has not written."""
    for path in folder.rglob("*.png"):
        if path not in kept:
            path.unlink()


_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(10))}


def file_name(layer: str) -> str:
    """A layer's name as a file name that every file system takes, also with what is put behind it after a hyphen.

    Different layers never share one, also where `conv` and `Conv` are one file, as on macOS and Windows, and where one
    layer is called as another's second page is: plain lower-case names are kept, and others get a digest of the true
    name, which is in the index. `share_files` finds names whose digests happen to be equal.
    """
    device = layer.partition(".")[0].upper() in _DEVICES  # Windows opens these whatever follows the dot
    if re.fullmatch(r"[a-z0-9_]([a-z0-9._]{0,98}[a-z0-9_])?", layer) and not device:
        return layer
    safe = re.sub(r"[^A-Za-z0-9._-]", lambda match: "-" if match[0] == "/" else "_", layer)
    return (
        f"{'_' if device else ''}{safe.strip('.')[:100]}-{hashlib.sha256(layer.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"
    )


def share_files(layers: Iterable[str]) -> tuple[str, str] | None:
    """Two layers whose file names some file system takes for one; None where there are none."""
    taken: dict[str, str] = {}
    for layer in layers:
        other = taken.setdefault(file_name(layer).casefold(), layer)
        if other != layer:
            return other, layer
    return None
