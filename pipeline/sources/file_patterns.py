"""What sources made of several files share: the files that a pattern matches, and the names of numbered labels."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from pipeline.errors import MissingInput, UnusableData
from pipeline.sources.files import as_text
from pipeline.store import remote

Result = TypeVar("Result")

_REQUESTS = 8  # under way at the same time, to a remote address


class Stored(NamedTuple):
    """One file of a data set.

    name: its path below the folder that the pattern starts from, the same wherever that folder lies.
    length: bytes.
    """

    path: str
    name: str
    length: int


def matching(kind: str, pattern: str) -> list[Stored]:
    """The files that `KIND:PATTERN` names, byte-wise by path.

    `*`, `?`, `[…]`, `**` and braces stand for what they do in a shell. What braces name has to be there, every one.

    Raises: MissingInput where there is none, or nobody answers.
    """
    if not remote.is_remote(pattern):
        pattern = remote.local_path(pattern)
    found: dict[str, int] = {}
    for one in [pattern] if os.path.isfile(pattern) else braced(pattern):
        matches = _matches(one)
        if not matches:
            hint = f", such as {kind}:{one.rstrip('/')}/*.{kind}" if os.path.isdir(one) else ""
            named = "" if one == pattern else f", as its braces name it: {one!r}"
            raise MissingInput(
                f"no file matches data.source '{kind}:{pattern}'{named}. Name files, with wildcards if they are several{hint}."
            )
        found |= matches
    folder = remote.parent(re.split(r"[*?\[{]", pattern)[0] + "x")
    cut = remote.relative if remote.is_remote(pattern) else (lambda path, start: os.path.relpath(path, start or "."))
    files = [Stored(path, as_text(cut(path, folder)), length) for path, length in found.items()]
    return sorted(files, key=lambda file: os.fsencode(file.name))


def braced(pattern: str) -> list[str]:
    """What a pattern with braces names: `{000..009}` counts, in three digits, and `{a,b}` is one and the other."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    if found[3] is not None:
        choices = found[3].split(",")
    else:
        first, last = int(found[1]), int(found[2])
        padded = any(len(end) > 1 and end[0] == "0" for end in found.groups()[:2])
        width = max(len(found[1]), len(found[2])) if padded else 0
        step = 1 if first <= last else -1
        choices = [f"{number:0{width}}" for number in range(first, last + step, step)]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return list(dict.fromkeys(one for choice in choices for one in braced(f"{before}{choice}{after}")))


def _matches(pattern: str) -> dict[str, int]:
    """The files that a pattern without braces names, and their bytes."""
    if remote.is_remote(pattern):
        return dict(remote.listing(pattern, pattern=True))
    paths = [pattern] if os.path.isfile(pattern) else glob.glob(pattern, recursive=True)
    return {path: os.path.getsize(path) for path in paths if os.path.isfile(path)}


def of_each(files: Sequence[Stored], action: Callable[[Stored], Result]) -> list[Result]:
    """What an action makes of each file, in order; several remote ones at a time."""
    with ThreadPoolExecutor(_REQUESTS if any(remote.is_remote(file.path) for file in files) else 1) as pool:
        return list(pool.map(action, files))


def read_names(path: str) -> list[str]:
    """The names of labels 0, 1, …: one a line; empty lines at the end do not count. Raises: MissingInput, UnusableData."""
    try:
        text = remote.read_first(path).decode("utf-8").rstrip()
    except OSError as error:
        raise MissingInput(f"data.labels {path!r} cannot be read ({error.strerror or error}). Name a text file.") from None
    except UnicodeDecodeError:
        raise UnusableData(f"data.labels {path!r} is not text in UTF-8. Name a file with one name a line.") from None
    if not text:
        raise UnusableData(f"data.labels {path!r} is empty. Name a file with one name a line.")
    return [line.strip() for line in text.splitlines()]


def check_reach(labels: list[str], path: str, highest: int, where: str) -> None:
    """Raises: UnusableData, where a data set's numbered labels go beyond the names that it was given."""
    if highest >= len(labels):
        raise UnusableData(
            f"data.labels {path!r} names {len(labels)} classes, 0 to {len(labels) - 1}, but {where} has label {highest}. "
            "Name the file that belongs to these data."
        )


def numbered(labels: list[str], path: str, label: str, where: str) -> str:
    """The name for a label that is a number in text; "" stays "". Raises: UnusableData, for text and for a wrong number."""
    if not label:
        return ""
    if not re.fullmatch(r"-?\d+", label):
        raise UnusableData(f"data.labels {path!r} names numbered labels, but {where} has label {label!r}. Leave data.labels out.")
    check_reach(labels, path, int(label), where)
    return labels[int(label)] if int(label) >= 0 else ""
