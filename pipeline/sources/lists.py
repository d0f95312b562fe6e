"""`list:FILE`: a text file with the path of an image a line, and its label behind a tab or a comma; or a CSV."""

from __future__ import annotations

import csv
import re

from pipeline.errors import MissingInput, UnusableData
from pipeline.sources.file_patterns import numbered, read_names
from pipeline.sources.files import Files
from pipeline.sources.folder import ARRAYS, EXTENSIONS
from pipeline.spec.data import DataSpec
from pipeline.store import remote
from pipeline.store.text import decoded, lines

_NAMED = re.compile(rf"(.*?(?:{'|'.join(map(re.escape, EXTENSIONS + ARRAYS))}))\s*,(.*)", re.IGNORECASE)

_PATH, _LABEL = "path", "label"  # columns of a CSV
_HEAD = re.compile(rf"{_PATH}\s*([,\t]|$)")


def open_list(path: str, spec: DataSpec, fetch: bool) -> Files:
    """The images of a list, in its order; paths are relative to the list's folder. A missing image is a bad example.

    A local list may name any local file, a remote one any file on its own host; anything else is a bad example.

    Empty lines and lines that begin with `#` are ignored. A first line that begins with `path` names columns: the list is a
    CSV, or a table with tabs, of paths, perhaps labels, and numbers for a network's other inputs.

    Raises: MissingInput for a list that cannot be read or names nothing; UnusableData for one that is not text, or
    whose labels do not fit `data.labels`.
    """
    location = path if remote.is_remote(path) else remote.local_path(path)
    try:
        text = decoded(remote.read_first(location))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise MissingInput(f"the list {path!r} in data.source cannot be read ({reason}). Name a text file: list:FILE.") from None
    except UnicodeDecodeError:
        raise UnusableData(
            f"the list {path!r} is not text in UTF-8 or marked UTF-16. Name a file with one path a line."
        ) from None
    written = [line for line in lines(text) if line.strip() and not line.startswith("#")]
    columns = _columns(written, path)
    entries = [_entry(line) for line in written] if columns is None else []
    if not entries and not (columns and columns[_PATH]):
        raise MissingInput(f"the list {path!r} names no images. Write one path a line.")
    if columns is None:
        columns = {}
        paths, labels = (tuple(column) for column in zip(*entries, strict=True))
    else:
        paths = columns.pop(_PATH)
        labels = columns.pop(_LABEL, ("",) * len(paths))
    names = None
    if spec.labels is not None:
        names = read_names(spec.labels)
        labels = tuple(
            numbered(names, spec.labels, label, f"{image!r} of list:{path}") for image, label in zip(paths, labels, strict=True)
        )
    known = names or sorted(set(labels) - {""}) or None
    return Files(f"list:{path}", remote.parent(location), paths, labels, known, locate=remote.listed, columns=columns)


def _columns(written: list[str], path: str) -> dict[str, tuple[str, ...]] | None:
    """The columns of a list whose first line names them, the first of them `path`; None for any other list."""
    if not written or not _HEAD.match(written[0]):
        return None
    head, *rows = csv.reader(written, delimiter="\t" if "\t" in written[0] else ",", skipinitialspace=True)
    names = [name.strip() for name in head]
    for row in rows:
        if len(row) != len(names):
            raise UnusableData(f"the list {path!r} has {len(names)} columns, but {len(row)} in the line {','.join(row)[:80]!r}.")
    return {name: tuple(row[number].strip() for row in rows) for number, name in enumerate(names)}


def _entry(line: str) -> tuple[str, str]:
    """(path, label). Either may hold commas: the one after an image's extension separates them."""
    path, tab, label = line.strip().partition("\t")
    named = None if tab else _NAMED.fullmatch(path)
    if named:
        path, label = named.groups()
    elif not tab and not path.lower().endswith(EXTENSIONS + ARRAYS) and "," in path:
        path, _, label = path.rpartition(",")
    return path.strip(), label.strip()
