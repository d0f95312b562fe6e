"""The files of a page: data as scripts, pictures, and the page itself, in a folder that a browser opens from disk."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from pipeline.report.page_journal import PageJournal
from pipeline.store.files import named_file, sweep, write_bytes, write_json
from pipeline.store.places import Place
from pipeline.store.remote import below

_TEMPLATES = Path(__file__).parent / "templates"
_FILES = "data/files.json"  # what a page consists of, so that the next one can clear it away


class PageFiles:
    """Writes the files of one page, and removes those of an earlier page that are not among them."""

    def __init__(self, folder: Place, journal: PageJournal | None = None) -> None:
        """journal: of the layers that an interrupted page has written, and that this one writes."""
        self._folder, self._journal = folder, journal
        self._sizes: dict[str, int] = {}
        self._layers_end = 0  # how many files there were at the end of the last layer

    def add(self, name: str, data: bytes) -> str:
        """Write a file. Returns: its name.

        Raises: StoreFailed; PermissionError, for a name that leads out of the page's folder.
        """
        below(str(self._folder), name)
        write_bytes(self._folder / name, data, durable=False)
        self._sizes[name] = len(data)
        return name

    def keep(self, name: str) -> None:
        """Count a file that something else wrote as one of the page's."""
        self._sizes[name] = (self._folder / name).stat().st_size

    def kept_of(self, layer: str) -> Any:
        """What an interrupted page has said of a layer, whose files are then this page's; None where it is to be written."""
        written = self._journal.written(layer) if self._journal else None
        if written is None:
            return None
        entry, names = written
        for name in names:
            self.keep(name)
        self._layers_end = len(self._sizes)
        return entry

    def end_layer(self, layer: str, entry: Any, whole: bool) -> None:
        """A layer's files are written: if it is whole, an interruption keeps them, and what the overview says of it."""
        if self._journal and whole:
            self._journal.add(layer, entry, list(self._sizes)[self._layers_end :])
        self._layers_end = len(self._sizes)

    def beside(self, job: Place, name: str, prefix: str) -> str | None:
        """A picture of a job as the page refers to it: where it lies, for a page in the job's own folder; else a copy.

        Returns: its name; None where it is not there.
        """
        try:
            path = named_file(job, name)
        except OSError:
            return None
        if not prefix:
            return f"../{name}"
        copy = f"{prefix}{name}"
        return copy if copy in self else self.add(copy, path.read_bytes())

    def script(self, name: str, key: str, value: Any) -> str:
        """A value as a script, because a page opened from disk may not read other files."""
        return self.add(name, f"convscope.take({to_json(key)}, {to_json(value)});\n".encode())

    def __contains__(self, name: str) -> bool:
        return name in self._sizes

    def counts(self) -> dict[str, int]:
        return {"files": len(self._sizes), "bytes": sum(self._sizes.values())}

    def page(self, template: str, scripts: Sequence[str], data: str, values: dict[str, Any]) -> None:
        """Write the page itself and the files beside it, last: a page that is there finds all that it names.

        Args:
            scripts: of the templates, in the order in which the page reads them, and then `data`.
        """
        for name in ("page.css", *scripts):
            self.add(name, (_TEMPLATES / name).read_bytes())
        self.add("index.html", _render(template, values | {"scripts": [*scripts, data]}).encode())
        self._sweep()
        if self._journal:
            self._journal.complete()

    def _sweep(self) -> None:
        """Remove the files of an earlier page in this folder, and halves of them; files that no page wrote stay."""
        for folder in {(self._folder / name).parent for name in (*self._earlier(), *self._sizes)}:
            sweep(folder, below=False)
        for name in set(self._earlier()) - self._sizes.keys():
            (self._folder / name).unlink(missing_ok=True)
        write_json(self._folder / _FILES, sorted(self._sizes))

    def _earlier(self) -> list[str]:
        try:
            names = json.loads((self._folder / _FILES).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        return [name for name in names if isinstance(name, str) and self._is_below(name)]

    def _is_below(self, name: str) -> bool:
        try:
            return bool(below(str(self._folder), name))
        except OSError:
            return False


_PLAIN = frozenset([int, str, bool, type(None)])  # kinds of values that JSON has as they are


def to_json(value: Any) -> str:
    """JSON that may stand in a script: no tag ends early in it, and NaN and infinities, which JSON lacks, are null."""
    text = json.dumps(_finite(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: item if type(item) in _PLAIN else _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [item if type(item) in _PLAIN else _finite(item) for item in value]  # a page has a million of them
    return value


def _render(template: str, values: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["address"] = lambda name: quote(name, safe="")
    # Browsers keep scripts: a new page must not be shown with an old one's data.
    return environment.get_template(template).render(version=uuid.uuid4().hex[:8], **values)
