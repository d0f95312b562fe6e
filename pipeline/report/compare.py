"""Two jobs side by side: the same layers and channels of two checkpoints, or on two data sets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import Fault, WrongSpec, foreign_errors
from pipeline.report.job_reader import DAMAGED, JobReader, Row
from pipeline.report.overview import shareable
from pipeline.report.page import SCRIPTS, collect
from pipeline.report.page_files import PageFiles
from pipeline.spec.job_spec import STAGES
from pipeline.store.files import aside
from pipeline.store.places import Place

Pairs = Mapping[str, Mapping[int, tuple[int, float]]]

COMPARISON = pa.schema(
    [
        ("layer", pa.string()),
        ("channel", pa.int32()),
        ("other_layer", pa.string()),
        ("other", pa.int32()),
        ("correlation", pa.float64()),
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


@dataclass(frozen=True)
class Compared:
    """Two jobs, and which channels of theirs are held against each other.

    pairs: by layer, for a position among the first job's channels that among the second's, and their correlation; a channel
        that has none is held against the channel of its own number, where no other is.
    how: by what they were matched, in words.
    across: where channels are matched over all layers: the layer and the position of the first's channel, those of the second's,
        and their correlation; `pairs` do not count then.
    """

    first: Place
    second: Place
    how: str = "by number"
    pairs: Pairs = field(default_factory=dict)
    across: Sequence[tuple[str, int, str, int, float]] | None = None


def write_comparison(jobs: Compared, out: Place, progress: Callable[[int, int], None] = lambda done, total: None) -> Row:
    """Make a page, and comparison.parquet beside it, that compare two jobs.

    Returns: the numbers of layers and channels that both have, and of files, and the bytes they take.
    Raises: WrongSpec, where a folder holds no job or the two have no channel in common; StoreFailed.
    """
    with foreign_errors(Fault, f"the comparison of {jobs.first} and {jobs.second}", DAMAGED):
        readers = JobReader(jobs.first), JobReader(jobs.second)
        files = PageFiles(out)
        table = compare(*readers, jobs.pairs) if jobs.across is None else _compare_across(*readers, jobs.across)
        if not len(table) and jobs.across is not None:
            raise WrongSpec(f"no channel of {jobs.first} and {jobs.second} is the nearest of the other.")
        if not len(table):
            raise WrongSpec(
                f"{jobs.first} and {jobs.second} have no channel of a layer in common. Compare jobs on the same layers."
            )
        counts = [len(reader.layers) for reader in readers]
        summaries = []
        for reader, prefix, before in zip(readers, ("a/", "b/"), (0, counts[0]), strict=True):

            def advance(done: int, total: int, before: int = before) -> None:
                progress(before + done, sum(counts))

            summaries.append(collect(reader, {}, files, prefix, advance))
        layers = _layers(table)
        across = jobs.across is not None
        summary: Row = {"jobs": summaries, "layers": layers, "changes": _changes(readers), "how": jobs.how, "across": across}
        columns = {name: table[name].to_pylist() for name in table.column_names}
        files.script("data/comparison.js", "comparison", {**summary, "channels": columns})
        with aside(out / "comparison.parquet") as temporary:
            pq.write_table(table, temporary)
        files.keep("comparison.parquet")
        files.page("compare.html", (*SCRIPTS, "compare.js"), "data/comparison.js", summary)
        return {"layers": len(layers), "channels": len(table), **files.counts()}


def compare(first: JobReader, second: JobReader, pairs: Pairs | None = None) -> pa.Table:
    """A row of COMPARISON for every channel of the first job that has a channel of the second to be held against.

    overlap is the share of images that both lists of winners name, of all that either names (Jaccard), by key;
    shift is the second mean less the first, in standard deviations of the first; null between channels of two networks.
    """
    rows = []
    for layer in first.layers:
        if layer in second.layers:
            rows += _compare_layer(first, second, layer, (pairs or {}).get(layer, {}))
    return pa.Table.from_pylist(rows, schema=COMPARISON)


def _compare_layer(first: JobReader, second: JobReader, layer: str, pairs: Mapping[int, tuple[int, float]]) -> list[Row]:
    of_first, of_second = (_statistics(reader, layer) for reader in (first, second))
    won_first, won_second = (_winners(reader, layer) for reader in (first, second))
    numbers = [*of_first], [*of_second]
    matched = {numbers[0][a]: (numbers[1][b], correlation) for a, (b, correlation) in pairs.items()}
    taken = {other for other, _ in matched.values()}
    rows = []
    for channel, a in of_first.items():
        other, correlation = matched.get(channel, (channel, None))
        if other not in of_second or (correlation is None and other in taken):
            continue
        won = won_first.get(channel, set()), won_second.get(other, set())
        rows.append(_row((layer, a), (layer, of_second[other]), won, correlation))
    return rows


def _compare_across(first: JobReader, second: JobReader, across: Sequence[tuple[str, int, str, int, float]]) -> pa.Table:
    """The rows of channels that were matched over all layers, by the first job's layer, the highest correlation first."""
    readers = first, second
    names = [{layer for layer, *_ in across}, {other_layer for _, _, other_layer, *_ in across}]
    statistics = [{layer: _statistics(reader, layer) for layer in of} for reader, of in zip(readers, names, strict=True)]
    won = [{layer: _winners(reader, layer) for layer in of} for reader, of in zip(readers, names, strict=True)]
    rows = []
    for layer, a, other_layer, b, correlation in across:
        channel, other = (list(of[name])[at] for of, name, at in zip(statistics, (layer, other_layer), (a, b), strict=True))
        ends = (layer, statistics[0][layer][channel]), (other_layer, statistics[1][other_layer][other])
        sets = won[0][layer].get(channel, set()), won[1][other_layer].get(other, set())
        rows.append(_row(*ends, sets, correlation) | {"shift": None})  # two networks have no scale in common
    order = {layer: at for at, layer in enumerate(first.layers)}
    rows.sort(key=lambda row: (order[row["layer"]], -row["correlation"], row["channel"]))
    return pa.Table.from_pylist(rows, schema=COMPARISON)


def _statistics(reader: JobReader, layer: str) -> dict[int, Row]:
    return {row["channel"]: row for row in reader.rows("channels", layer).to_pylist()}


def _row(first: tuple[str, Row], second: tuple[str, Row], won: tuple[set[str], set[str]], correlation: float | None) -> Row:
    """The row of COMPARISON for two channels, each with its layer, and the images that they win."""
    (layer, a), (other_layer, b) = first, second
    either = won[0] | won[1]
    return {
        "layer": layer,
        "channel": a["channel"],
        "other_layer": other_layer,
        "other": b["channel"],
        "correlation": correlation,
        "overlap": len(won[0] & won[1]) / len(either) if either else None,
        "mean_a": a["mean"],
        "mean_b": b["mean"],
        "shift": _shift(a, b),
        "share_positive_a": a["share_positive"],
        "share_positive_b": b["share_positive"],
        "top_label_a": a["top_label"],
        "top_label_b": b["top_label"],
    }


def _winners(reader: JobReader, layer: str) -> dict[int, set[str]]:
    winners = reader.rows("activations", layer)
    keys: dict[int, set[str]] = {}
    for channel, key in zip(winners["channel"].to_pylist(), winners["key"].to_pylist(), strict=True):
        keys.setdefault(channel, set()).add(key)
    return keys


def _shift(a: Row, b: Row) -> float | None:
    if a["mean"] is None or b["mean"] is None or not a["std"]:
        return None
    return (b["mean"] - a["mean"]) / a["std"]


def _layers(table: pa.Table) -> list[Row]:
    """The change of each layer, over all its channels."""
    rows = table.to_pylist()
    layers = []
    for layer in dict.fromkeys(row["layer"] for row in rows):
        of_layer = [row for row in rows if row["layer"] == layer]
        overlaps = [row["overlap"] for row in of_layer if row["overlap"] is not None]
        shifts = [abs(row["shift"]) for row in of_layer if row["shift"] is not None]
        correlations = [row["correlation"] for row in of_layer if row["correlation"] is not None]
        (other_layer, matches), *_ = Counter(row["other_layer"] for row in of_layer).most_common(1)
        layers.append(
            {
                "name": layer,
                "count": len(of_layer),
                "overlap": float(np.mean(overlaps)) if overlaps else None,
                "shift": float(np.median(shifts)) if shifts else None,
                "correlation": float(np.median(correlations)) if correlations else None,
                "nearest": other_layer,
                "matches": matches,
                "moved": sum((row["other_layer"], row["other"]) != (layer, row["channel"]) for row in of_layer),
                "relabelled": sum(row["top_label_a"] != row["top_label_b"] for row in of_layer),
            }
        )
    return layers


def _changes(readers: tuple[JobReader, JobReader]) -> list[tuple[str, str, str]]:
    """The settings in which the two specs differ, and the digests of model and data where they do: name, first, second.

    The settings of a stage count where both jobs have run it: what one alone has run is told by `stages`.
    """
    idle = {stage for stage in STAGES for reader in readers if stage not in reader.receipt.stages}
    specs = ({table: value for table, value in reader.receipt.spec.items() if table not in idle} for reader in readers)
    first, second = map(_flat, specs)
    names = [name for name in (first | second) if first.get(name) != second.get(name)]
    changes = [(name, *_told_apart(first.get(name), second.get(name))) for name in names]
    for part in ("model", "data"):
        a, b = (reader.receipt.digests.get(part) for reader in readers)
        if a != b:
            changes.append((f"digest of the {part}", _written(a), _written(b)))
    return changes


def _told_apart(first: Any, second: Any) -> tuple[str, str]:
    """Two settings as a page that is shared names them: paths without the folders above, unless only these differ."""
    a, b = (_written(value) for value in (first, second))
    short = shareable(a), shareable(b)
    if short[0] != short[1]:
        return short
    parts = [text.split("/") for text in (a, b)]
    same = next(count for count in range(1, 1 + max(map(len, parts))) if parts[0][-count:] != parts[1][-count:])
    return "/".join(["…", *parts[0][-same:]]), "/".join(["…", *parts[1][-same:]])


def _written(value: Any) -> str:
    """A setting as a spec has it: true, [1, 2]; texts without quotes."""
    return "not set" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(tree: Row, path: str = "") -> Row:
    flat: Row = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{path}{name}.")
        else:
            flat[f"{path}{name}"] = value
    return flat
