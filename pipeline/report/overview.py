"""The overview: what the page says before anyone clicks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from pipeline.receipt import Receipt, StageRecord
from pipeline.report.graph import draw_graph
from pipeline.report.job_reader import JobReader, Row
from pipeline.report.section import Sections
from pipeline.store.places import Place

_STRIKING = 3  # channels of a layer that the overview shows
_PATCHES = 4  # of each of them


def overview(reader: JobReader, sections: Sections, layers: list[Row]) -> Row:
    """The job's facts, its layers, what it lacks, and how to make that."""
    receipt = reader.receipt
    missing = [name for name in sections if name not in receipt.stages]
    data = shareable(receipt.spec["data"]["source"])
    return {
        "name": receipt.name,
        # A run that waits for nothing but the page counts as finished.
        "state": receipt.state if set(missing) & set(receipt.spec["stages"]) else "finished",
        "lead": _lead(receipt, data, layers),
        "facts": _facts(receipt, data),
        "missing": [{"name": name, "shows": sections[name].shows, "how": _how_to_run(name, receipt)} for name in missing],
        "gaps": list(reader.gaps),
        "layers": layers,
        "graph": draw_graph(reader.table("layers").to_pylist()),
        "input": receipt.input,
        "data": data,
        "originals": originals(reader.folder, receipt.spec["data"]["source"]),
    }


def shareable(source: str) -> str:
    """A source or a path as a page that is shared names it: without the folders above it on the maker's disk."""
    kind, colon, rest = source.rpartition(":")
    return f"{kind}{colon}{PurePath(rest).name}" if PurePath(rest).is_absolute() else source


def originals(folder: Place, source: str) -> str | None:
    """The address of a data set's folder seen from the page; None where no way leads there that holds on other disks too:
    the folders have nothing in common, or the source is none of files in a folder.
    """
    kind, _, path = source.partition(":")
    if kind != "folder" or not isinstance(folder, Path) or not Path(path).is_absolute():
        return None
    report = (folder / "report").resolve()
    return None if len(Path(os.path.commonpath([report, path])).parts) < 2 else quote(os.path.relpath(path, report))


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _lead(receipt: Receipt, data: str, layers: Sequence[Row]) -> str:
    network = shareable(receipt.spec["model"]["source"]).rpartition(":")[2]
    images = f"{_counted(receipt.examples, 'image')} of {data}."
    if not layers:
        return f"{network} and {images}"
    channels = sum(layer["count"] for layer in layers)
    subject = f"What excites {_counted(channels, 'channel')} in {_counted(len(layers), 'layer')} of {network}"
    return f"{subject}, among {images} Click a patch to see its image, a name to see its channel."


def _facts(receipt: Receipt, data: str) -> list[tuple[str, str]]:
    scan = next((record for record in receipt.stages.values() if record.images_per_second is not None), StageRecord())
    facts = [
        ("network", shareable(receipt.spec["model"]["source"])),
        *((key, f"{setting['value']} ({setting['reason']})") for key, setting in receipt.settings.items()),
        ("data", data),
        ("run", scan.started),
        ("speed", f"{scan.images_per_second:,g} images/s" if scan.images_per_second else ""),
        ("unreadable", f"{_counted(scan.skipped, 'image')}, listed in index/skipped.parquet" if scan.skipped else ""),
        ("model digest", receipt.digests.get("model", "")),
        ("data digest", receipt.digests.get("data", "")),
        ("made with", ", ".join(f"{name} {version}" for name, version in receipt.versions.items() if version)),
    ]
    return [(name, value) for name, value in facts if value]


def _how_to_run(stage: str, receipt: Receipt) -> str:
    asked = stage in receipt.spec["stages"]
    return "run the job to its end" if asked else f"add {stage!r} to the spec's stages and run it again"


def says_of(layer: Row, statistics: pa.Table) -> str:
    """What the overview says of a layer: the size of its map, what a unit sees, and which channels are of no use."""
    field = layer["field"]
    size = f"{field['map_height']} × {field['map_width']} × " if field else ""
    sees = "" if not field else "; sees the whole image" if field["global"] else f"; sees {field['height']} × {field['width']} px"
    dead, tied = (sum(bool(value) for value in statistics[name].to_pylist()) for name in ("dead", "ties"))
    faults = [f"; {dead:,} never fire{'s' if dead == 1 else ''}" if dead else ""]
    faults.append(f"; {tied:,} with tied winners" if tied else "")
    return f"{size}{_counted(layer['count'], 'channel')}{sees}{''.join(faults)}"


def striking(statistics: pa.Table, winners: pa.Table) -> list[Row]:
    """The channels of a layer that say most at a glance: the most selective for a label where there are labels, else those
    whose strongest response stands out most from their others; each with another strongest image.

    Returns: [{"number", "patches", "says"}], how many patches it has to show, and why it was chosen, in words.
    """
    first: dict[int, int] = {}
    counts: dict[int, int] = {}
    for channel, rank, example in zip(*(winners[name].to_pylist() for name in ("channel", "rank", "example")), strict=True):
        counts[channel] = counts.get(channel, 0) + 1
        if rank == 0:
            first[channel] = example
    selective, mean, std, top = (np.array(statistics[name].to_pylist(), float) for name in ("selectivity", "mean", "std", "max"))
    by_label = bool(np.isfinite(selective).any())
    score = selective if by_label else (top - mean) / np.where(std > 0, std, np.inf)
    numbers, labels = statistics["channel"].to_pylist(), statistics["selective_label"].to_pylist()
    chosen: list[Row] = []
    images: set[Any] = set()
    for row in np.argsort(-np.nan_to_num(score, nan=-1, neginf=-1), kind="stable"):
        number = numbers[row]
        image = labels[row] if by_label else first.get(number)
        if number not in counts or image in images:
            continue
        images.add(image)
        chosen.append({"number": number, "patches": min(counts[number], _PATCHES), "says": labels[row] or f"channel {number}"})
        if len(chosen) == _STRIKING:
            return chosen
    for number in counts:  # fewer labels than channels to show, or a table without numbers
        if len(chosen) < _STRIKING and number not in [other["number"] for other in chosen]:
            chosen.append({"number": number, "patches": min(counts[number], _PATCHES), "says": f"channel {number}"})
    return chosen
