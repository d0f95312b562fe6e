"""Writing aside and renaming: a reader never sees half a file, and a failure leaves what was there before."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import StoreFailed, Unreachable
from pipeline.store.places import Place, Remote

_ASIDE = ".aside-"


@contextlib.contextmanager
def aside(path: Place) -> Iterator[Path]:
    """A local path to write to; it takes `path`'s place when the block ends well, and goes when it does not.

    For a remote `path` that is a temporary file, which is then sent whole.

    Raises: StoreFailed, for a full disk, a folder that cannot be written, a store that does not take it, and the like.
    """
    with _beside(path) if isinstance(path, Path) else _sent(path) as temporary:
        yield temporary


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f"{_ASIDE}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
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
            f"{path} was not written: the disk is full. Free some space and run the job again; nothing older was touched."
        )
    reason = error.strerror or str(error)
    return StoreFailed(f"{path} was not written: {reason}. Check the folder, or choose another with --out.")


def write_bytes(path: Place, data: bytes) -> None:
    """Raises: StoreFailed."""
    with aside(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Place, tree: Any) -> None:
    """Raises: StoreFailed."""
    write_bytes(path, (json.dumps(tree, indent=1, ensure_ascii=False) + "\n").encode())


def sweep(folder: Place) -> None:
    """Remove what killed runs left half written in a folder and those below it."""
    if not isinstance(folder, Path):  # where nothing is written aside
        return
    for path in folder.rglob(f"{_ASIDE}*"):
        with contextlib.suppress(OSError):
            path.unlink()


def keep_only(folder: Place, kept: Collection[Place]) -> None:
    """Remove the pictures that an earlier run left in a folder and this one did not write."""
    for path in folder.rglob("*.png"):
        if path not in kept:
            path.unlink()


def file_name(layer: str) -> str:
    """A layer's name as part of a file name that every file system takes; different layers never share one."""
    safe = re.sub(r"[^A-Za-z0-9._-]", lambda match: "-" if match[0] == "/" else "_", layer)
    if safe == layer and not layer.startswith(".") and len(layer) <= 100:
        return layer
    # What had to be changed gets a digest of the true name, which stands in the index.
    return f"{safe.lstrip('.')[:100]}-{hashlib.sha256(layer.encode()).hexdigest()[:6]}"
