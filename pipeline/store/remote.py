"""Remote addresses through fsspec: broken connections are retried, and addresses that never answer fail within a deadline."""

from __future__ import annotations

import errno
import os
import posixpath
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit

from pipeline.errors import ConvscopeError, MissingInput, Unreachable, one_line

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

Result = TypeVar("Result")

ATTEMPTS = 6
FIRST_PAUSE = 0.5  # seconds; each pause is twice the one before
DEADLINE = 30.0  # seconds, for the first answer of an address
BLOCK = 2**22  # bytes a request

# Errors that another attempt would not change.
_FINAL = (
    *(FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError),
    *(ValueError, TypeError, NotImplementedError, ImportError, MemoryError, ConvscopeError),
)

# Without these, a host that drops packets blocks for minutes. The user's fsspec configuration takes precedence.
_S3 = {"config_kwargs": {"connect_timeout": 5, "read_timeout": 20, "retries": {"max_attempts": 1, "mode": "standard"}}}
_SETTINGS: dict[str, dict[str, Any]] = {"s3": _S3, "s3a": _S3}


def is_remote(path: str) -> bool:
    """Whether a path is an address for fsspec: it has a scheme other than `file`."""
    return has_scheme(path) and not path.startswith(("file://", "local://"))


def has_scheme(path: str) -> bool:
    """Whether a path is written as an address: `s3://bucket/key`, `memory://x`, `file:///x`."""
    return re.match(r"[a-z][a-z0-9+.-]*(::|://)", path) is not None


def local_path(path: str) -> str:
    """A path on this machine as the system knows it: without `file://`, `~` expanded."""
    return os.path.expanduser(path.partition("://")[2] if has_scheme(path) else path)


def below(folder: str, path: str) -> str:
    """The file that data name by a path, which must lie in the data's own folder, here or elsewhere.

    Data come from strangers: their paths must neither read this machine's files nor send requests to other hosts.

    Args:
        path: relative to the folder. Absolute paths and links are allowed where they lead into it.

    Raises: PermissionError, for an address, and for a path that leads out of the folder; its `strerror` says which.
    """
    if "\0" in path:
        raise _refused("its name holds a zero byte", path)
    if is_remote(folder):
        # `::` would chain file systems, and hosts read `%2e%2e` as `..`.
        if "::" in path or "://" in path:
            raise _refused("it is an address of its own", path)
        if path.startswith("/") or ".." in re.split(r"[/\\]", unquote(path)):
            raise _refused("it lies outside the folder of the data", path)
        return f"{folder.rstrip('/')}/{path}"
    if has_scheme(path):
        raise _refused("it is an address, and the data are local", path)
    joined, root = os.path.join(folder or ".", path), os.path.realpath(folder or ".")
    if os.path.commonpath([root, os.path.realpath(joined)]) != root:
        raise _refused("it lies outside the folder of the data", path)
    return joined


def listed(folder: str, path: str) -> str:
    """The file that a list of paths names, relative to the list's folder: any on this machine, or any on the list's own host.

    Raises: PermissionError, for an address in a local list, and in a remote one for other hosts and for files of this machine.
    """
    if "\0" in path:
        raise _refused("its name holds a zero byte", path)
    if not is_remote(folder):
        if is_remote(path):
            raise _refused("it is an address, and the list is local", path)
        return local_path(path) if has_scheme(path) else os.path.join(folder, path)
    if not has_scheme(path):
        return below(folder, path)
    base, named = urlsplit(folder), urlsplit(path)
    if "::" in path or (base.scheme, base.netloc) != (named.scheme, named.netloc):
        raise _refused(f"it is not on the list's own host, {base.scheme}://{base.netloc}", path)
    return path


def _refused(reason: str, path: str) -> PermissionError:
    return PermissionError(errno.EPERM, f"refused: {reason}", path)


def parent(path: str) -> str:
    """The folder that holds a file, on this machine or elsewhere."""
    if not is_remote(path):
        return os.path.dirname(path)
    scheme, separator, rest = path.partition("://")
    return f"{scheme}{separator}{posixpath.dirname(rest)}"


def file_system(address: str) -> tuple[AbstractFileSystem, str]:
    """The file system that serves an address, and the path there. Raises: MissingInput, where none does."""
    import fsspec

    protocol = address.partition("://")[0]
    options = fsspec.config.conf.get(protocol, {})
    settings = {key: value for key, value in _SETTINGS.get(protocol, {}).items() if key not in options}
    try:
        system, path = fsspec.core.url_to_fs(address, **settings)
    except (ValueError, ImportError) as error:
        raise MissingInput(f"{address!r} cannot be served: {one_line(error)}.") from None
    if hasattr(system, "retries"):  # `patiently` retries; both together would take minutes
        system.retries = 1
    return system, path


def read(address: str, first: int = 0, last: int | None = None) -> bytes:
    """The bytes first to last (half-open; None: the end) of a file. Raises: OSError where it does not exist, Unreachable."""
    if not is_remote(address):
        with open(local_path(address), "rb") as file:
            file.seek(first)
            return file.read() if last is None else file.read(last - first)
    system, path = file_system(address)
    return patiently(lambda: system.cat_file(path, start=first or None, end=last), address)


def open_binary(address: str) -> BinaryIO:
    """A file to read and to seek in; the caller closes it, and retries where reading breaks off (`resumed`)."""
    if not is_remote(address):
        return open(local_path(address), "rb")
    system, path = file_system(address)
    # Blocks, since Parquet readers go back and forth between columns; few, to bound memory.
    return system.open(path, "rb", block_size=BLOCK, cache_type="blockcache", cache_options={"maxblocks": 6})


def listing(address: str, pattern: bool = False) -> list[tuple[str, int]]:
    """The files below an address, or those that it matches as a pattern: their addresses and bytes, sorted.

    Raises: MissingInput, where the address does not answer, or the store refuses.
    """
    system, path = file_system(address)
    scheme = address.partition("://")[0]

    def ask() -> dict[str, Any]:
        system.invalidate_cache()
        if not pattern:
            return system.find(path, detail=True)
        return system.glob(path, detail=True) if re.search(r"[*?\[]", path) else {path: system.info(path)}

    try:
        entries = answered(ask, address)
    except FileNotFoundError as error:
        # Over HTTP, fsspec reports a host that is missing, or refuses, as a missing file.
        cause = error.__cause__
        if cause is not None and not isinstance(cause, FileNotFoundError) and getattr(cause, "status", None) not in (404, 410):
            raise MissingInput(f"{address!r} cannot be read: {one_line(cause)}. Check the address.") from None
        entries = {}
    except (OSError, ValueError) as error:
        raise MissingInput(f"{address!r} cannot be listed: {one_line(error)}. Name one that can.") from None
    files = {name: entry for name, entry in entries.items() if entry["type"] == "file"}
    return sorted(
        (name if has_scheme(name) else f"{scheme}://{name.lstrip('/')}", int(entry.get("size") or 0))
        for name, entry in files.items()
    )


def relative(address: str, folder: str) -> str:
    """The path of a file below a folder, both given by their addresses."""
    return _bare(address).removeprefix(f"{_bare(folder)}/")


def patiently(action: Callable[[], Result], address: str) -> Result:
    """The result of an action on an address, retried after pauses where it breaks off; on this machine, tried once.

    Raises: Unreachable, when all attempts have failed; what the action raises, where another attempt would not help.
    """
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except _FINAL:
            raise
        except Exception as error:
            if not is_remote(address):
                raise
            if attempt == ATTEMPTS - 1:
                raise unreachable(address, error) from error
            time.sleep(FIRST_PAUSE * 2**attempt)
    raise AssertionError("unreached")


def resumed(make: Callable[[int], Iterator[Result]], address: str) -> Iterator[Result]:
    """The items of `make(0)`; where they break off after n, those of `make(n)` follow. Raises: Unreachable."""
    done = failures = 0
    while True:
        try:
            for item in make(done):
                yield item
                done += 1
                failures = 0
            return
        except _FINAL:
            raise
        except Exception as error:
            failures += 1
            if not is_remote(address):
                raise
            if failures == ATTEMPTS:
                raise unreachable(address, error) from error
            time.sleep(FIRST_PAUSE * 2 ** (failures - 1))


def answered(action: Callable[[], Result], address: str) -> Result:
    """The result of the first action on an address, retried up to DEADLINE. Raises: MissingInput; what the action raises."""
    try:
        return within(DEADLINE, lambda: patiently(action, address), address)
    except Unreachable as error:
        raise MissingInput(f"{error.args[0]} Check the address, the network and the store's settings.") from None


def read_first(path: str) -> bytes:
    """A small file that a spec names, whole. Raises: MissingInput, where an address does not answer; OSError."""
    return answered(lambda: read(path), path) if is_remote(path) else read(path)


def within(seconds: float, action: Callable[[], Result], address: str) -> Result:
    """The result of an action, if it comes in time. Raises: Unreachable, or what the action raises."""
    outcome: list[tuple[Result | None, BaseException | None]] = []

    def act() -> None:
        try:
            outcome.append((action(), None))
        except BaseException as error:
            outcome.append((None, error))

    # A daemon thread: an action that never returns must not keep the process alive.
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise Unreachable(f"{address!r} did not answer within {seconds:g} seconds.")
    result, error = outcome[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def unreachable(address: str, error: Exception) -> Unreachable:
    """The error for an address that failed in all attempts."""
    return Unreachable(f"{address!r} did not answer in {ATTEMPTS} attempts; the last: {one_line(error)}.")


def _bare(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.netloc}{parts.path}".strip("/")
