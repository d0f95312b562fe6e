"""`list:FILE`: a text file with the path of an image a line, and its label behind a tab or a comma."""

from __future__ import annotations

import re

from pipeline.errors import MissingInput, UnusableData
from pipeline.sources.file_patterns import numbered, read_names
from pipeline.sources.files import Files
from pipeline.sources.folder import ARRAYS, EXTENSIONS
from pipeline.spec.data import DataSpec
from pipeline.store import remote
from pipeline.store.text import decoded, lines

_NAMED = re.compile(rf"(.*?(?:{'|'.join(map(re.escape, EXTENSIONS + ARRAYS))}))\s*,(.*)", re.IGNORECASE)


def open_list(path: str, spec: DataSpec, fetch: bool) -> Files:
    """The images of a list, in its order; paths are relative to the list's folder. A missing image is a bad example.

    A local list may name any local file, a remote one any file on its own host; anything else is a bad example.

    Empty lines and lines that begin with `#` are ignored.

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
    entries = [_entry(line) for line in lines(text) if line.strip() and not line.startswith("#")]
    if not entries:
        raise MissingInput(f"the list {path!r} names no images. Write one path a line.")
    paths, labels = (tuple(column) for column in zip(*entries, strict=True))
    names = None
    if spec.labels is not None:
        names = read_names(spec.labels)
        labels = tuple(
            numbered(names, spec.labels, label, f"{image!r} of list:{path}") for image, label in zip(paths, labels, strict=True)
        )
    known = names or sorted(set(labels) - {""}) or None
    return Files(f"list:{path}", remote.parent(location), paths, labels, known, locate=remote.listed)


def _entry(line: str) -> tuple[str, str]:
    """(path, label). Either may hold commas: the one after an image's extension separates them."""
    path, tab, label = line.strip().partition("\t")
    named = None if tab else _NAMED.fullmatch(path)
    if named:
        path, label = named.groups()
    elif not tab and not path.lower().endswith(EXTENSIONS + ARRAYS) and "," in path:
        path, _, label = path.rpartition(",")
    return path.strip(), label.strip()
