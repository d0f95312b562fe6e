"""The page: what the index says, as files that a browser opens from disk."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa

from pipeline.report.overview import overview
from pipeline.report.sheets import ROWS, sheets, tiling
from pipeline.report.shelf import Row, Shelf
from pipeline.store.files import file_name, write_bytes
from pipeline.store.places import Place

Progress = Callable[[int, int], None]
_TEMPLATES = Path(__file__).parent / "templates"


def write_page(folder: Place, progress: Progress = lambda done, total: None) -> Row:
    """Make report/ from a job's index, crops and pictures, whichever of them are there.

    Args:
        folder: the job's folder.
        progress: told how many layers are done, of how many.

    Returns: the numbers of layers, of channels and of files, and the bytes they take.
    Raises: WrongSpec, where the folder holds no job; StoreFailed.
    """
    shelf = Shelf(folder)
    written = _Written(folder / "report")
    names = shelf.layers
    layers = []
    for done, layer in enumerate(names, start=1):
        layers.append(_write_layer(shelf, layer, written))
        progress(done, len(names))
    images = _write_images(shelf, written)
    told = overview(shelf, layers, images)
    written.script("data/job.js", "job", told)
    for name in ("page.css", "page.js"):
        written.add(name, (_TEMPLATES / name).read_bytes())
    # The page itself comes last: where it stands, all that it names stands too.
    written.add("index.html", _render("index.html", told).encode())
    written.sweep()
    return {"layers": len(layers), "channels": sum(layer["count"] for layer in layers), **written.counts()}


class _Written:
    """The files of one page: writes them, and knows which of an earlier page's are not among them."""

    def __init__(self, folder: Place) -> None:
        self._folder = folder
        self._sizes: dict[str, int] = {}

    def add(self, name: str, data: bytes) -> str:
        write_bytes(self._folder / name, data)
        self._sizes[name] = len(data)
        return name

    def script(self, name: str, key: str, value: Any) -> str:
        """A value as a script, because a page opened from disk may not read other files."""
        return self.add(name, f"convscope.take({to_json(key)}, {to_json(value)});\n".encode())

    def __contains__(self, name: str) -> bool:
        return name in self._sizes

    def counts(self) -> dict[str, int]:
        return {"files": len(self._sizes), "bytes": sum(self._sizes.values())}

    def sweep(self) -> None:
        """Remove what an earlier page had and this one has not."""
        for part in ("data", "sheets", "images"):
            for path in (self._folder / part).glob("*"):
                if f"{part}/{path.name}" not in self._sizes:
                    path.unlink()


def to_json(value: Any) -> str:
    """JSON that may stand in a script: no tag ends early in it, and NaN and infinities, which JSON lacks, are null."""
    text = json.dumps(_finite(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _columns(table: pa.Table) -> dict[str, list[Any]]:
    """A table's columns without the layer's name, which is the same all through."""
    return {name: table[name].to_pylist() for name in table.column_names if name != "layer"}


def _write_layer(shelf: Shelf, layer: str, written: _Written) -> Row:
    """Write a layer's data and sheets. Returns: what the overview says of it."""
    statistics = shelf.rows("channels", layer)
    winners = shelf.rows("activations", layer)
    crops = shelf.crops(layer)
    channels = sorted({*statistics["channel"].to_pylist(), *winners["channel"].to_pylist()})
    name = file_name(layer)
    told: Row = {"name": layer, "file": name, "count": len(channels), "sheets": [], "tile": None}
    if crops is not None and len(crops) and set(crops["channel"].to_pylist()) <= set(channels):
        layout = tiling(crops)
        told["tile"] = {"height": layout.height, "width": layout.width, "k": layout.k, "crisp": layout.crisp, "rows": ROWS}
        told["sheets"] = [
            written.add(f"sheets/{name}-{sheet.number}.webp", sheet.data) for sheet in sheets(crops, channels, layout)
        ]
    others: Row = {table: _columns(shelf.rows(table, layer)) for table in ("filters", "patterns") if table in shelf.tables}
    details = {"order": channels, "channels": _columns(statistics), "winners": _columns(winners), **others}
    written.script(f"data/{name}.js", f"layer:{layer}", details)
    fields = shelf.rows("fields", layer).to_pylist()
    told["field"] = fields[0] if fields else None
    dead = [value for value in statistics["dead"].to_pylist() if value is not None]
    told["dead"] = sum(dead) / len(dead) if dead else None
    return told


def _write_images(shelf: Shelf, written: _Written) -> dict[int, list[Any]]:
    """Write the thumbnails of the winners' images, each once: windows of one image share it.

    Returns: {example: [file, height, width of the source image]}.
    """
    found: dict[int, list[Any]] = {}
    for batch in shelf.table("images").to_batches(max_chunksize=256):
        for row in batch.to_pylist():
            data = row["image"]["bytes"]
            name = f"images/{hashlib.sha256(data).hexdigest()[:16]}.webp"
            if name not in written:
                written.add(name, data)
            found[row["example"]] = [name, row["height"], row["width"]]
    return found


def _render(name: str, values: Row) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Browsers keep scripts; a new page must not be shown with an old one's data.
    return environment.get_template(name).render(version=uuid.uuid4().hex[:8], **values)
