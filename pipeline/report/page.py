"""The page: what the index says, as files that a browser opens from disk."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import Fault, foreign_errors
from pipeline.geometry import EDGES, Box
from pipeline.report.circuits import circuit_rows
from pipeline.report.job_reader import DAMAGED, JobReader, Row
from pipeline.report.overview import overview, says_of, striking
from pipeline.report.page_files import PageFiles
from pipeline.report.page_journal import PageJournal
from pipeline.report.pictures import kernel, patterns
from pipeline.report.section import Sections
from pipeline.store.files import file_name
from pipeline.store.places import Place

Progress = Callable[[int, int], None]
SCRIPTS = ("core.js", "pictures.js", "glossary.js")  # of every page; the others are a page's own
_PAGE_SCRIPTS = ("rows.js", "layer.js", "circuits.js", "channel.js", "image.js", "views.js", "directions.js", "page.js")
_CHUNK = 128  # channels in a file of details, which only the view of a channel reads
_DETAILS = ("histogram", "histogram_edges")  # columns of index/channels.parquet that are details


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
    files = PageFiles(folder / "report", PageJournal(folder))
    with foreign_errors(Fault, f"the page of {folder}", DAMAGED):
        summary = collect(reader, sections, files, progress=progress)
        files.script("data/job.js", "job", summary)
        files.page("index.html", (*SCRIPTS, *_PAGE_SCRIPTS), "data/job.js", summary)
    return {"layers": len(summary["layers"]), "channels": sum(layer["count"] for layer in summary["layers"]), **files.counts()}


def collect(
    reader: JobReader, sections: Sections, files: PageFiles, prefix: str = "", progress: Progress = lambda done, total: None
) -> Row:
    """Write what a page needs of one job: data, sheets and images, in folders whose names start with `prefix`.

    Returns: what the overview says, and the names of the files with the rest.
    """
    layers = []
    # The receipt has the layers of the spec, which stages may have left alone.
    names = [name for name in reader.layers if len(reader.rows("channels", name)) or len(reader.rows("activations", name))]
    for done, layer in enumerate(names, start=1):
        before = files.kept_of(layer)  # by a page that was interrupted
        layers.append(before or _write_layer(reader, layer, files, prefix))
        if not before:
            files.end_layer(layer, layers[-1], whole=not reader.gaps)
            progress(done, len(names))
    summary = {"prefix": prefix, **overview(reader, sections, layers), "views": []}
    files.script(f"{prefix}data/+images.js", f"{prefix}images", _write_images(reader, files, prefix))
    for section in sections.values():
        for view, rows_of in section.views.items():
            rows = rows_of(reader)
            if rows:
                summary["views"].append(view)
                files.script(f"{prefix}data/+{view}.js", f"{prefix}{view}", rows)
    summary["views"].append("glossary")
    summary["gaps"] = list(reader.gaps)
    return summary


def _columns(table: pa.Table, without: Sequence[str] = ()) -> dict[str, list[Any]]:
    """A table's columns without the layer's name, which is the same all through."""
    return {name: table[name].to_pylist() for name in table.column_names if name not in ("layer", *without)}


def _write_layer(reader: JobReader, layer: str, files: PageFiles, prefix: str) -> Row:
    """Write a layer's data and pictures. Returns: what the overview says of it."""
    statistics, winners = reader.rows("channels", layer), reader.rows("activations", layer)
    channels = sorted({*statistics["channel"].to_pylist(), *winners["channel"].to_pylist()})
    name = f"{prefix}data/{file_name(layer)}"
    fields = reader.rows("fields", layer).to_pylist()
    entry: Row = {"name": layer, "count": len(channels), "sheets": [], "tile": None, "details": name}
    sheets = _write_sheets(reader, layer, files, prefix)
    rows = sheets.pop("rows", {})
    entry |= {**sheets, "field": fields[0] if fields else None}
    entry["says"] = says_of(entry, statistics)
    entry["striking"] = striking(statistics, winners)
    # What the overview draws; the others come with the layer.
    entry["rows"] = {channel["number"]: rows[channel["number"]] for channel in entry["striking"] if channel["number"] in rows}
    pictures = _write_patterns(reader, layer, files, f"{prefix}patterns/{file_name(layer)}")
    stored = {"order": channels, "chunk": _CHUNK, "rows": rows, "patterns": pictures, "winners": _winner_columns(winners)}
    stored["channels"] = _columns(statistics, without=_DETAILS)
    stored["quality"] = _columns(reader.rows("quality", layer))
    stored["names"] = {
        number: {key: row[key] for key in ("concept", "measure", "value", "chance", "false_discovery", "fits")}
        for number, row in reader.names(layer).items()
    }
    entry["data"] = files.script(f"{name}.js", f"{prefix}layer:{layer}", stored)
    tables = _detail_tables(reader, layer)
    drawn = _write_kernels(reader, layer, files, f"{prefix}kernels/{file_name(layer)}")
    maps, circuits = _maps(reader, layer), circuit_rows(reader, layer)
    for number, first in enumerate(range(0, len(channels), _CHUNK)):
        chunk = channels[first : first + _CHUNK]
        rows_of: Row = {table: _columns(_of_channels(rows, chunk)) for table, rows in tables.items()}
        rows_of["filters"] = _of_numbers(reader.kernels(layer), chunk)
        rows_of["circuits"] = _of_numbers(circuits, chunk)
        details = {"rows": rows_of, "maps": _pick(maps, chunk), "kernels": _pick(drawn, chunk)}
        files.script(f"{name}/{number}.js", f"{name}/{number}", details)
    return entry


def _detail_tables(reader: JobReader, layer: str) -> dict[str, pa.Table]:
    """The rows of a layer that only the views of its channels show, by the name that the page has for them."""
    winners = reader.rows("activations", layer)
    seen_before = {"score", "example", "key", "label"}
    return {
        "histogram": reader.rows("channels", layer).select(["channel", *_DETAILS]),
        "winners": winners.select([name for name in winners.column_names if name not in seen_before]),
        "weakest": _cropped(reader.rows("weakest", layer)),
        "by_label": _cropped(reader.rows("by_label", layer)),
        "patterns": reader.rows("patterns", layer),
        "neighbours": reader.rows("neighbours", layer),
        "concepts": reader.rows("concepts", layer),
    }


def _winner_columns(winners: pa.Table) -> dict[str, list[Any]]:
    """The winners as cards show them: responses, images, and the edges of crops in pixels of the source image."""
    columns = _columns(_cropped(winners))
    if winners["unclipped"].null_count != len(winners):
        columns["unclipped"] = winners["unclipped"].to_pylist()
    return columns


def _cropped(winners: pa.Table) -> pa.Table:
    edges = {
        edge: pc.coalesce(*(winners[f"{prefix}src_{edge}"].combine_chunks() for prefix in ("eff_", "map_", ""))) for edge in EDGES
    }
    return pa.table({**{name: winners[name] for name in ("channel", "rank", "score", "example")}, **edges})


def _of_channels(table: pa.Table, channels: Sequence[int]) -> pa.Table:
    return table.filter(pc.is_in(table["channel"], pa.array(channels, pa.int32()))) if len(table) else table


def _of_numbers(rows: Sequence[Row], channels: Sequence[int]) -> list[Row]:
    numbers = set(channels)
    return [row for row in rows if row["channel"] in numbers]


def _pick(values: dict[int, Any], channels: Sequence[int]) -> dict[int, Any]:
    return {channel: values[channel] for channel in channels if channel in values}


def _write_sheets(reader: JobReader, layer: str, files: PageFiles, prefix: str) -> Row:
    """Where the patches of a layer's channels lie on its mosaics, which the page shows piece by piece.

    Returns: {"sheets": [[file, height, width], …], "tile": {…}, "rows": {channel: [sheet, y, x]}}, or nothing.
    """
    winners = reader.rows("activations", layer)
    firing = set(winners["channel"].to_pylist())
    tiles = [tile for tile in reader.rows("mosaics", layer).to_pylist() if tile["channel"] in firing]
    sheets: dict[str, list[Any]] = {}
    for tile in tiles:
        picture = tile["picture"]
        if picture not in sheets:
            file = files.beside(reader.folder, picture, prefix)
            if file is None:
                reader.gaps.append(f"{picture} is missing.")
                return {}
            sheets[picture] = [file, tile["height"], tile["width"]]
    if not tiles:
        return {}
    names = ("tile_height", "tile_width", "per_line", "step_y", "step_x")
    layout = dict(zip(("height", "width", "per_line", "step_y", "step_x"), (tiles[0][name] for name in names), strict=True))
    k = 1 + max(winners["rank"].to_pylist())
    numbers = {picture: number for number, picture in enumerate(sheets)}
    rows = {tile["channel"]: [numbers[tile["picture"]], tile["y"], tile["x"]] for tile in tiles}
    return {"sheets": list(sheets.values()), "tile": {**layout, "k": k}, "rows": rows}


def _maps(reader: JobReader, layer: str) -> dict[int, dict[int, str]]:
    """The winners' maps as pictures in text: {channel: {rank: Base64}}."""
    table = reader.maps(layer)
    maps: dict[int, dict[int, str]] = {}
    for row in [] if table is None else table.to_pylist():
        if row["map"] is not None:
            maps.setdefault(row["channel"], {})[row["rank"]] = base64.b64encode(row["map"]).decode()
    return maps


def _box(row: Row) -> Box | None:
    """The box of a row; None where the table has none."""
    edges = [row[name] for name in EDGES]
    return None if None in edges else Box.of(edges)


def _write_kernels(reader: JobReader, layer: str, files: PageFiles, path: str) -> dict[int, list[str]]:
    """Write a layer's kernels, one file a channel that is drawn. Returns: {channel: files}."""
    files_of: dict[int, list[str]] = {}
    cache: dict[str, Any] = {}
    for row in reader.kernels(layer):
        box = _box(row)
        if row["drawn"] and box is not None:
            data = kernel(reader, row["picture"], box, cache)
            if data is not None:
                files_of.setdefault(row["channel"], []).append(
                    files.add(f"{path}-{row['channel']}-{file_name(str(row['part']))}.webp", data)
                )
    return files_of


def _write_patterns(reader: JobReader, layer: str, files: PageFiles, path: str) -> dict[int, list[Row]]:
    """Write a layer's patterns, one file each. Returns: {channel: [{"sign", "variant", "file"}]}."""
    files_of: dict[int, list[Row]] = {}
    for channel, sign, variant, data in patterns(reader, layer):
        file = files.add(f"{path}-{channel}-{file_name(str(sign))}-{variant}.webp", data)
        files_of.setdefault(channel, []).append({"sign": sign, "variant": variant, "file": file})
    return files_of


def _write_images(reader: JobReader, files: PageFiles, prefix: str) -> dict[str, list[Any]]:
    """Write the thumbnails of the winners' images, each once: windows of one image share it.

    Returns: columns, a row an image: example, file, height and width of the source image, what the network was shown of
    it (y1, x1, y2, x2), key and label. Images without a thumbnail have the last two alone.
    """
    rows: dict[int, Row] = {}
    for table in ("activations", "weakest", "by_label"):
        winners = reader.table(table)
        for example, key, label in zip(*(winners[name].to_pylist() for name in ("example", "key", "label")), strict=True):
            rows.setdefault(example, {"example": example, "key": key, "label": label})
    for batch in reader.table("images").to_batches(max_chunksize=256):
        for row in batch.to_pylist():
            data = (row["image"] or {}).get("bytes") or b""
            suffix = "jpg" if data.startswith(b"\xff\xd8") else "webp"
            name = f"{prefix}images/{hashlib.sha256(data).hexdigest()[:16]}.{suffix}"
            if name not in files:
                files.add(name, data)
            image = rows.setdefault(row["example"], {name: row[name] for name in ("example", "key", "label")})
            image |= {"file": name, "height": row["height"], "width": row["width"]}
            image |= {edge: row[f"input_{edge}"] for edge in EDGES}
    names = ("example", "file", "height", "width", *EDGES, "key", "label")
    return {name: [row.get(name) for row in rows.values()] for name in names}
