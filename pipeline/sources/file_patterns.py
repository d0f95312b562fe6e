"""What sources of several files share: the files that a pattern matches, and the names of numbered labels."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from pipeline.errors import MissingInput, UnusableData, WrongSpec
from pipeline.sources.files import as_text
from pipeline.store import remote
from pipeline.store.text import decoded, lines

Result = TypeVar("Result")

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", re.ASCII)
_MOST_FILES = 100_000
_REQUESTS = 8  # to a remote address at a time


class StoredFile(NamedTuple):
    """One file of a data set.

    name: its path below the folder that the pattern starts from, the same wherever that folder lies.
    length: bytes.
    """

    path: str
    name: str
    length: int


def matching(kind: str, pattern: str) -> list[StoredFile]:
    """The files that `KIND:PATTERN` names, byte-wise by path.

    `*`, `?`, `[…]`, `**` and braces mean what they do in a shell. Every file that braces name must exist.

    Raises: MissingInput where there is none, or the address does not answer.
    """
    if not remote.is_remote(pattern):
        pattern = remote.local_path(pattern)
    lengths: dict[str, int] = {}
    for expanded in [pattern] if os.path.isfile(pattern) else braced(pattern):
        matches = _matches(expanded)
        if not matches:
            hint = f", such as {kind}:{expanded.rstrip('/')}/*.{kind}" if os.path.isdir(expanded) else ""
            named = "" if expanded == pattern else f", as its braces name it: {expanded!r}"
            raise MissingInput(
                f"no file matches data.source '{kind}:{pattern}'{named}. Name files, with wildcards if they are several{hint}."
            )
        lengths |= matches
    folder = remote.parent(re.split(r"[*?\[{]", pattern)[0] + "x")
    cut = remote.relative if remote.is_remote(pattern) else (lambda path, start: os.path.relpath(path, start or "."))
    files = [StoredFile(path, as_text(cut(path, folder)), length) for path, length in lengths.items()]
    return sorted(files, key=lambda file: os.fsencode(file.name))


def braced(pattern: str) -> list[str]:
    """The patterns that braces expand to: `{000..009}` counts in three digits, `{a,b}` names a and b.

    Raises: WrongSpec, where they name more than 100,000 files.
    """
    files = 1
    for braces in _BRACES.finditer(pattern):
        files *= braces[3].count(",") + 1 if braces[3] is not None else _span(braces[1], braces[2])
        if files > _MOST_FILES:
            raise WrongSpec(f"data.source {pattern!r}: its braces name more than {_MOST_FILES:,} files. Use a wildcard (*).")
    return _braced(pattern)


def _span(first: str, last: str) -> int:
    """The number of values in a range; too many for ends of more digits than any file is numbered with."""
    return abs(int(last) - int(first)) + 1 if max(len(first), len(last)) <= 18 else _MOST_FILES + 1


def _braced(pattern: str) -> list[str]:
    braces = _BRACES.search(pattern)
    if braces is None:
        return [pattern]
    if braces[3] is not None:
        choices = braces[3].split(",")
    else:
        first, last = int(braces[1]), int(braces[2])
        padded = any(len(end) > 1 and end[0] == "0" for end in braces.groups()[:2])
        width = max(len(braces[1]), len(braces[2])) if padded else 0
        step = 1 if first <= last else -1
        choices = [f"{number:0{width}}" for number in range(first, last + step, step)]
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    return list(dict.fromkeys(name for choice in choices for name in _braced(f"{before}{choice}{after}")))


def _matches(pattern: str) -> dict[str, int]:
    """The files that a pattern without braces matches, and their lengths in bytes."""
    if remote.is_remote(pattern):
        return dict(remote.listing(pattern, pattern=True))
    paths = [pattern] if os.path.isfile(pattern) else glob.glob(pattern, recursive=True)
    return {path: os.path.getsize(path) for path in paths if os.path.isfile(path)}


def of_each(files: Sequence[StoredFile], action: Callable[[StoredFile], Result]) -> list[Result]:
    """The results of an action on each file, in order; several remote files at a time."""
    with ThreadPoolExecutor(_REQUESTS if any(remote.is_remote(file.path) for file in files) else 1) as pool:
        return list(pool.map(action, files))


def read_names(path: str) -> list[str]:
    """The names of labels 0, 1, …: one a line; trailing empty lines do not count. Raises: MissingInput, UnusableData."""
    try:
        text = decoded(remote.read_first(path)).rstrip()
    except OSError as error:
        raise MissingInput(f"data.labels {path!r} cannot be read ({error.strerror or error}). Name a text file.") from None
    except UnicodeDecodeError:
        raise UnusableData(
            f"data.labels {path!r} is not text in UTF-8 or marked UTF-16. Name a file with one name a line."
        ) from None
    if not text:
        raise UnusableData(f"data.labels {path!r} is empty. Name a file with one name a line.")
    return [line.strip() for line in lines(text)]


def check_highest(labels: list[str], path: str, highest: int, where: str) -> None:
    """Raises: UnusableData, where a data set has a higher label than there are names."""
    if highest >= len(labels):
        raise UnusableData(
            f"data.labels {path!r} names {len(labels)} classes, 0 to {len(labels) - 1}, but {where} has label {highest}. "
            "Name the file that belongs to these data."
        )


def numbered(labels: list[str], path: str, label: str, where: str) -> str:
    """The name of a label that is a number as text; "" stays "". Raises: UnusableData, for other text or an unnamed number."""
    if not label:
        return ""
    if not re.fullmatch(r"-?\d+", label):
        raise UnusableData(f"data.labels {path!r} names numbered labels, but {where} has label {label!r}. Leave data.labels out.")
    check_highest(labels, path, int(label), where)
    return labels[int(label)] if int(label) >= 0 else ""
