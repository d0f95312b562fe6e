"""Two jobs side by side: the same layers and channels of two checkpoints, or on two data sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import WrongSpec
from pipeline.report.job_reader import Row, Shelf
from pipeline.report.page import Written, collect
from pipeline.report.section import Sections
from pipeline.store.files import aside
from pipeline.store.places import Place

COMPARISON = pa.schema(
    [
        ("layer", pa.string()),
        ("channel", pa.int32()),
        ("overlap", pa.float64()),
        ("mean_a", pa.float64()),
        ("mean_b", pa.float64()),
        ("shift", pa.float64()),
        ("share_positive_a", pa.float64()),
        ("share_positive_b", pa.float64()),
        ("top_label_a", pa.string()),
        ("top_label_b", pa.string()),
    ]
)


def write_comparison(
    first: Place,
    second: Place,
    out: Place,
    sections: Sections,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Row:
    """Make a page, and comparison.parquet beside it, that hold two jobs against each other.

    Returns: the numbers of layers and channels that both have, and of files, and the bytes they take.
    Raises: WrongSpec, where a folder holds no job or the two have no channel in common; StoreFailed.
    """
    shelves = Shelf(first), Shelf(second)
    written = Written(out)
    found = compare(*shelves)
    if not len(found):
        raise WrongSpec(f"{first} and {second} have no channel of a layer in common. Compare jobs on the same layers.")
    jobs = [collect(shelf, sections, written, prefix, progress) for shelf, prefix in zip(shelves, ("a/", "b/"), strict=True)]
    layers = _layers(found)
    told: Row = {"jobs": jobs, "layers": layers, "changes": _changes(shelves)}
    columns = {name: found[name].to_pylist() for name in found.column_names}
    written.script("data/comparison.js", "comparison", {**told, "channels": columns})
    with aside(out / "comparison.parquet") as temporary:
        pq.write_table(found, temporary)
    written.keep("comparison.parquet")
    written.page("compare.html", ("page.css", "core.js", "compare.js"), told)
    return {"layers": len(layers), "channels": len(found), **written.counts()}


def compare(first: Shelf, second: Shelf) -> pa.Table:
    """A row of COMPARISON for every channel that both jobs have, in the first job's order.

    overlap is the share of images that both lists of winners name, of all that either names (Jaccard), by key;
    shift is the second mean less the first, in standard deviations of the first.
    """
    rows = []
    for layer in first.layers:
        if layer in second.layers:
            rows += _compare_layer(first, second, layer)
    return pa.Table.from_pylist(rows, schema=COMPARISON)


def _compare_layer(first: Shelf, second: Shelf, layer: str) -> list[Row]:
    of_first, of_second = (
        {row["channel"]: row for row in shelf.rows("channels", layer).to_pylist()} for shelf in (first, second)
    )
    won_first, won_second = (_winners(shelf, layer) for shelf in (first, second))
    rows = []
    for channel, a in of_first.items():
        if channel not in of_second:
            continue
        b = of_second[channel]
        either = won_first.get(channel, set()) | won_second.get(channel, set())
        both = won_first.get(channel, set()) & won_second.get(channel, set())
        rows.append(
            {
                "layer": layer,
                "channel": channel,
                "overlap": len(both) / len(either) if either else None,
                "mean_a": a["mean"],
                "mean_b": b["mean"],
                "shift": _shift(a, b),
                "share_positive_a": a["share_positive"],
                "share_positive_b": b["share_positive"],
                "top_label_a": a["top_label"],
                "top_label_b": b["top_label"],
            }
        )
    return rows


def _winners(shelf: Shelf, layer: str) -> dict[int, set[str]]:
    winners = shelf.rows("activations", layer)
    found: dict[int, set[str]] = {}
    for channel, key in zip(winners["channel"].to_pylist(), winners["key"].to_pylist(), strict=True):
        found.setdefault(channel, set()).add(key)
    return found


def _shift(a: Row, b: Row) -> float | None:
    if a["mean"] is None or b["mean"] is None or not a["std"]:
        return None
    return (b["mean"] - a["mean"]) / a["std"]


def _layers(found: pa.Table) -> list[Row]:
    """What changed in each layer, all channels together."""
    rows = found.to_pylist()
    layers = []
    for layer in dict.fromkeys(row["layer"] for row in rows):
        of_layer = [row for row in rows if row["layer"] == layer]
        overlaps = [row["overlap"] for row in of_layer if row["overlap"] is not None]
        shifts = [abs(row["shift"]) for row in of_layer if row["shift"] is not None]
        layers.append(
            {
                "name": layer,
                "count": len(of_layer),
                "overlap": float(np.mean(overlaps)) if overlaps else None,
                "shift": float(np.median(shifts)) if shifts else None,
                "relabelled": sum(row["top_label_a"] != row["top_label_b"] for row in of_layer),
            }
        )
    return layers


def _changes(shelves: tuple[Shelf, Shelf]) -> list[tuple[str, Any, Any]]:
    """The settings in which the two specs differ: name, the first's, the second's; and whether model and data do."""
    first, second = (_flat(shelf.receipt["spec"]) for shelf in shelves)
    names = [name for name in (first | second) if first.get(name) != second.get(name)]
    changes = [(name, first.get(name), second.get(name)) for name in names]
    for part in ("model", "data"):
        a, b = (shelf.receipt.get("digests", {}).get(part) for shelf in shelves)
        if a != b:
            changes.append((f"digest of the {part}", a, b))
    return changes


def _flat(tree: Row, path: str = "") -> Row:
    flat: Row = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{path}{name}.")
        else:
            flat[f"{path}{name}"] = value
    return flat
