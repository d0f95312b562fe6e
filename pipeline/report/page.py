"""The page: what the index says, as files that a browser opens from disk."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from pipeline.errors import Fault, foreign_errors
from pipeline.geometry import EDGES, Box
from pipeline.report.job_reader import JobReader, Row
from pipeline.report.overview import overview
from pipeline.report.page_files import PageFiles
from pipeline.report.pictures import kernel, patterns
from pipeline.report.section import Sections
from pipeline.store.files import file_name
from pipeline.store.places import Place

Progress = Callable[[int, int], None]
_TABLES = ("channels", "activations", "weakest", "by_label", "patterns")  # of the index, whose rows a channel shows


DAMAGED = "Its tables are damaged, or of another program: run the job again with --anew."


def write_page(folder: Place, sections: Sections, progress: Progress = lambda done, total: None) -> Row:
    """Make report/ from a job's index, crops and pictures, whichever of them are there.

    Args:
        folder: the job's folder.
        sections: what the page shows of each stage.
        progress: is called with the numbers of layers done and of all layers.

    Returns: the numbers of layers, of channels and of files, and the bytes they take.
    Raises: WrongSpec, where the folder holds no job; StoreFailed; Fault, where its tables contradict each other.
    """
    reader = JobReader(folder)
    files = PageFiles(folder / "report")
    with foreign_errors(Fault, f"the page of {folder}", DAMAGED):
        summary = collect(reader, sections, files, progress=progress)
        files.script("data/job.js", "job", summary)
        files.page("index.html", ("page.css", "core.js", "page.js"), summary)
    return {"layers": len(summary["layers"]), "channels": sum(layer["count"] for layer in summary["layers"]), **files.counts()}


def collect(
    reader: JobReader, sections: Sections, files: PageFiles, prefix: str = "", progress: Progress = lambda done, total: None
) -> Row:
    """Write what a page needs of one job: data, sheets and images, in folders whose names start with `prefix`.

    Returns: what the overview says, and the names of the files with the rest.
    """
    layers = []
    names = reader.layers
    for done, layer in enumerate(names, start=1):
        layers.append(_write_layer(reader, layer, files, prefix))
        progress(done, len(names))
    summary = {"prefix": prefix, **overview(reader, sections, layers, _write_images(reader, files, prefix)), "views": []}
    for section in sections.values():
        rows = section.rows(reader) if section.view else []
        if rows:
            summary["views"].append(section.view)
            files.script(f"{prefix}data/+{section.view}.js", f"{prefix}{section.view}", rows)
    summary["gaps"] = list(reader.gaps)
    return summary


def _columns(table: pa.Table) -> dict[str, list[Any]]:
    """A table's columns without the layer's name, which is the same all through."""
    return {name: table[name].to_pylist() for name in table.column_names if name != "layer"}


def _write_layer(reader: JobReader, layer: str, files: PageFiles, prefix: str) -> Row:
    """Write a layer's data and sheets. Returns: what the overview says of it."""
    statistics = reader.rows("channels", layer)
    winners = reader.rows("activations", layer)
    channels = sorted({*statistics["channel"].to_pylist(), *winners["channel"].to_pylist()})
    name = file_name(layer)
    entry: Row = {"name": layer, "count": len(channels), "sheets": [], "tile": None, "rows": {}}
    entry |= _write_sheets(reader, layer, files, prefix)
    tables: Row = {table: _columns(reader.rows(table, layer)) for table in _TABLES}
    tables["filters"] = reader.kernels(layer)
    pictures = {
        **_write_kernels(reader, layer, files, f"{prefix}kernels/{name}"),
        **_write_patterns(reader, layer, files, f"{prefix}patterns/{name}"),
        **_maps(reader, layer),
    }
    entry["data"] = files.script(
        f"{prefix}data/{name}.js", f"{prefix}layer:{layer}", {"order": channels, "tables": tables, **pictures}
    )
    fields = reader.rows("fields", layer).to_pylist()
    entry["field"] = fields[0] if fields else None
    dead = [value for value in statistics["dead"].to_pylist() if value is not None]
    entry["dead"] = sum(dead) / len(dead) if dead else None
    return entry


def _write_sheets(reader: JobReader, layer: str, files: PageFiles, prefix: str) -> Row:
    """Where the patches of a layer's channels lie on its mosaics, which the page shows piece by piece.

    Returns: {"sheets": [[file, height, width], …], "tile": {…}, "rows": {channel: [sheet, y, x]}}, or nothing.
    """
    winners = reader.rows("activations", layer)
    firing = set(winners["channel"].to_pylist())
    places = [place for place in reader.rows("mosaics", layer).to_pylist() if place["channel"] in firing]
    sheets: dict[str, list[Any]] = {}
    for place in places:
        picture = place["picture"]
        if picture not in sheets:
            file = files.beside(reader.folder, picture, prefix)
            if file is None:
                reader.gaps.append(f"{picture} is missing.")
                return {}
            sheets[picture] = [file, place["height"], place["width"]]
    if not places:
        return {}
    names = ("tile_height", "tile_width", "per_line", "step_y", "step_x")
    tile = dict(zip(("height", "width", "per_line", "step_y", "step_x"), (places[0][name] for name in names), strict=True))
    k = 1 + max(winners["rank"].to_pylist())
    numbers = {picture: number for number, picture in enumerate(sheets)}
    rows = {place["channel"]: [numbers[place["picture"]], place["y"], place["x"]] for place in places}
    return {"sheets": list(sheets.values()), "tile": {**tile, "k": k}, "rows": rows}


def _maps(reader: JobReader, layer: str) -> Row:
    """The winners' maps as pictures in text: {"maps": {channel: {rank: address}}}, or nothing."""
    table = reader.maps(layer)
    maps: dict[int, dict[int, str]] = {}
    for row in [] if table is None else table.to_pylist():
        if row["map"] is not None:
            maps.setdefault(row["channel"], {})[row["rank"]] = base64.b64encode(row["map"]).decode()
    return {"maps": maps} if maps else {}


def _box(row: Row) -> Box | None:
    """The box of a row; None where the table has none."""
    edges = [row[name] for name in EDGES]
    return None if None in edges else Box.of(edges)


def _write_kernels(reader: JobReader, layer: str, files: PageFiles, path: str) -> Row:
    """Write a layer's kernels, one file a channel that is drawn. Returns: {"kernels": {channel: files}}, or nothing."""
    files_of: dict[int, list[str]] = {}
    cache: dict[str, Any] = {}
    for row in reader.kernels(layer):
        box = _box(row)
        if row["drawn"] and box is not None:
            data = kernel(reader, row["picture"], box, cache)
            if data is not None:
                files_of.setdefault(row["channel"], []).append(files.add(f"{path}-{row['channel']}-{row['part']}.webp", data))
    return {"kernels": files_of} if files_of else {}


def _write_patterns(reader: JobReader, layer: str, files: PageFiles, path: str) -> Row:
    """Write a layer's patterns, one file each. Returns: {"patterns": {channel: {sign and variant: file}}}, or nothing."""
    files_of: dict[int, dict[str, str]] = {}
    for channel, sign, variant, data in patterns(reader, layer):
        files_of.setdefault(channel, {})[f"{sign} {variant}"] = files.add(f"{path}-{channel}-{sign}-{variant}.webp", data)
    return {"patterns": files_of} if files_of else {}


def _write_images(reader: JobReader, files: PageFiles, prefix: str) -> dict[int, list[Any]]:
    """Write the thumbnails of the winners' images, each once: windows of one image share it.

    Returns: {example: [file, height and width of the source image, what the network was shown of it: y1, x1, y2, x2]}.
    """
    files_of: dict[int, list[Any]] = {}
    for batch in reader.table("images").to_batches(max_chunksize=256):
        for row in batch.to_pylist():
            data = (row["image"] or {}).get("bytes") or b""
            suffix = "jpg" if data.startswith(b"\xff\xd8") else "webp"
            name = f"{prefix}images/{hashlib.sha256(data).hexdigest()[:16]}.{suffix}"
            if name not in files:
                files.add(name, data)
            files_of[row["example"]] = [name, row["height"], row["width"], *(row[f"input_{edge}"] for edge in EDGES)]
    return files_of
