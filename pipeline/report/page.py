"""The page: what the index says, as files that a browser opens from disk."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pyarrow as pa

from pipeline.geometry import EDGES, Box
from pipeline.report.job_reader import Row, Shelf
from pipeline.report.overview import overview
from pipeline.report.pictures import kernel, patterns
from pipeline.report.section import Sections
from pipeline.report.sprites import ROWS, sheets, tiling
from pipeline.store.files import file_name, write_bytes, write_json
from pipeline.store.places import Place

Progress = Callable[[int, int], None]
_TEMPLATES = Path(__file__).parent / "templates"
_FILES = "data/files.json"  # what a page consists of, so that the next one can clear it away
_TABLES = ("channels", "activations", "weakest", "by_label", "patterns")  # of the index, whose rows a channel shows


def write_page(folder: Place, sections: Sections, progress: Progress = lambda done, total: None) -> Row:
    """Make report/ from a job's index, crops and pictures, whichever of them are there.

    Args:
        folder: the job's folder.
        sections: what the page shows of each stage.
        progress: told how many layers are done, of how many.

    Returns: the numbers of layers, of channels and of files, and the bytes they take.
    Raises: WrongSpec, where the folder holds no job; StoreFailed.
    """
    shelf = Shelf(folder)
    written = Written(folder / "report")
    told = collect(shelf, sections, written, progress=progress)
    written.script("data/job.js", "job", told)
    written.page("index.html", ("page.css", "core.js", "page.js"), told)
    return {"layers": len(told["layers"]), "channels": sum(layer["count"] for layer in told["layers"]), **written.counts()}


def collect(
    shelf: Shelf, sections: Sections, written: Written, prefix: str = "", progress: Progress = lambda done, total: None
) -> Row:
    """Write what a page needs of one job: data, sheets and images, in folders whose names start with `prefix`.

    Returns: what the overview says, and where the rest stands.
    """
    layers = []
    names = shelf.layers
    for done, layer in enumerate(names, start=1):
        layers.append(_write_layer(shelf, layer, written, prefix))
        progress(done, len(names))
    told = {"prefix": prefix, **overview(shelf, sections, layers, _write_images(shelf, written, prefix)), "views": []}
    for section in sections.values():
        rows = section.rows(shelf) if section.view else []
        if rows:
            told["views"].append(section.view)
            written.script(f"{prefix}data/+{section.view}.js", f"{prefix}{section.view}", rows)
    told["gaps"] = list(shelf.gaps)
    return told


class Written:
    """The files of one page: writes them, and knows which of an earlier page's are not among them."""

    def __init__(self, folder: Place) -> None:
        self._folder = folder
        self._sizes: dict[str, int] = {}

    def add(self, name: str, data: bytes) -> str:
        """Write a file. Returns: its name. Raises: StoreFailed."""
        write_bytes(self._folder / name, data, durable=False)
        self._sizes[name] = len(data)
        return name

    def keep(self, name: str) -> None:
        """Count a file that was written by other hands as one of the page's."""
        self._sizes[name] = (self._folder / name).stat().st_size

    def script(self, name: str, key: str, value: Any) -> str:
        """A value as a script, because a page opened from disk may not read other files."""
        return self.add(name, f"convscope.take({to_json(key)}, {to_json(value)});\n".encode())

    def __contains__(self, name: str) -> bool:
        return name in self._sizes

    def counts(self) -> dict[str, int]:
        return {"files": len(self._sizes), "bytes": sum(self._sizes.values())}

    def page(self, template: str, beside: Sequence[str], values: Row) -> None:
        """Write the page itself and the files beside it, last: where it stands, all that it names stands too."""
        for name in beside:
            self.add(name, (_TEMPLATES / name).read_bytes())
        self.add("index.html", _render(template, values).encode())
        self._sweep()

    def _sweep(self) -> None:
        """Remove what an earlier page in this folder had and this one has not; what others put there stays."""
        for name in set(self._earlier()) - self._sizes.keys():
            (self._folder / name).unlink(missing_ok=True)
        write_json(self._folder / _FILES, sorted(self._sizes))

    def _earlier(self) -> list[str]:
        try:
            names = json.loads((self._folder / _FILES).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        return [name for name in names if isinstance(name, str) and ".." not in name and not name.startswith("/")]


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


def _write_layer(shelf: Shelf, layer: str, written: Written, prefix: str) -> Row:
    """Write a layer's data and sheets. Returns: what the overview says of it."""
    statistics = shelf.rows("channels", layer)
    winners = shelf.rows("activations", layer)
    crops = shelf.crops(layer)
    channels = sorted({*statistics["channel"].to_pylist(), *winners["channel"].to_pylist()})
    name = file_name(layer)
    told: Row = {"name": layer, "count": len(channels), "sheets": [], "tile": None}
    if crops is not None and len(crops) and set(crops["channel"].to_pylist()) <= set(channels):
        boxes = _boxes(winners)
        layout = tiling(crops, boxes)
        told["tile"] = {"height": layout.height, "width": layout.width, "k": layout.k, "crisp": layout.crisp, "rows": ROWS}
        told["sheets"] = [
            written.add(f"{prefix}sheets/{name}-{sheet.number}.webp", sheet.data)
            for sheet in sheets(crops, channels, layout, boxes)
        ]
    tables: Row = {table: _columns(shelf.rows(table, layer)) for table in _TABLES}
    tables["filters"] = shelf.kernels(layer)
    told["shown"] = {
        **_write_kernels(shelf, layer, written, f"{prefix}kernels/{name}"),
        **_write_patterns(shelf, layer, written, f"{prefix}patterns/{name}"),
    }
    told["data"] = written.script(
        f"{prefix}data/{name}.js", f"{prefix}layer:{layer}", {"order": channels, "tables": tables, **told.pop("shown")}
    )
    fields = shelf.rows("fields", layer).to_pylist()
    told["field"] = fields[0] if fields else None
    dead = [value for value in statistics["dead"].to_pylist() if value is not None]
    told["dead"] = sum(dead) / len(dead) if dead else None
    return told


def _boxes(winners: pa.Table) -> dict[tuple[int, int], tuple[int, int]]:
    """Height and width of the winners' boxes, where they are what was cropped and no unit of the layer sees nothing."""
    rows = winners.select(["channel", "rank", *EDGES, "eff_y1"]).to_pylist()
    sizes = {}
    for row in rows:
        box = _box(row)
        if row["eff_y1"] is not None or box is None or box.is_empty:
            return {}
        sizes[row["channel"], row["rank"]] = box.height, box.width
    return sizes


def _box(row: Row) -> Box | None:
    """The box of a row; None where the table has none."""
    edges = [row[name] for name in EDGES]
    return None if None in edges else Box.of(edges)


def _write_kernels(shelf: Shelf, layer: str, written: Written, path: str) -> Row:
    """Write a layer's kernels, one file a channel that is drawn. Returns: {"kernels": {channel: files}}, or nothing."""
    found: dict[int, list[str]] = {}
    opened: dict[str, Any] = {}
    for row in shelf.kernels(layer):
        box = _box(row)
        if row["drawn"] and box is not None:
            data = kernel(shelf, row["picture"], box, opened)
            if data is not None:
                found.setdefault(row["channel"], []).append(written.add(f"{path}-{row['channel']}-{row['part']}.webp", data))
    return {"kernels": found} if found else {}


def _write_patterns(shelf: Shelf, layer: str, written: Written, path: str) -> Row:
    """Write a layer's patterns, one file each. Returns: {"patterns": {channel: {sign and variant: file}}}, or nothing."""
    found: dict[int, dict[str, str]] = {}
    for channel, sign, variant, data in patterns(shelf, layer):
        found.setdefault(channel, {})[f"{sign} {variant}"] = written.add(f"{path}-{channel}-{sign}-{variant}.webp", data)
    return {"patterns": found} if found else {}


def _write_images(shelf: Shelf, written: Written, prefix: str) -> dict[int, list[Any]]:
    """Write the thumbnails of the winners' images, each once: windows of one image share it.

    Returns: {example: [file, height, width of the source image]}.
    """
    found: dict[int, list[Any]] = {}
    for batch in shelf.table("images").to_batches(max_chunksize=256):
        for row in batch.to_pylist():
            data = row["image"]["bytes"]
            name = f"{prefix}images/{hashlib.sha256(data).hexdigest()[:16]}.webp"
            if name not in written:
                written.add(name, data)
            found[row["example"]] = [name, row["height"], row["width"]]
    return found


def _render(template: str, values: Row) -> str:
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
