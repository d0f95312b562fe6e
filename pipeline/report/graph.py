"""The network as a small graph: where its layers lie, and the ways between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.report.job_reader import Row

_COLUMN, _ROW = 9.0, 20.0  # pixels from a layer to the next, along the network and beside it
_WIDEST = 1200.0


def draw_graph(layers: Sequence[Row]) -> Row | None:
    """The graph of index/layers.parquet, from the image on the left to the output on the right.

    A layer stands one column after the last of those that it is made from; layers of one column are branches. A way that
    passes over columns is an arc.

    Returns: {"width", "height", "shown", "nodes": [{"name", "kind", "chosen", "x", "y"}], "edges": [SVG path]}, in pixels;
    None where the table does not say what layers are made from.
    """
    feeds = {row["layer"]: list(row["feeds"] or []) for row in layers}
    if not any(feeds.values()):
        return None
    joined = {name for name, sources in feeds.items() for name in (name, *sources) if sources}  # the input stands alone
    layers = [row for row in layers if row["layer"] in joined]
    feeds = {row["layer"]: feeds[row["layer"]] for row in layers}
    column: dict[str, int] = {}
    for name in feeds:  # in the order of the forward pass
        column[name] = max((column[source] + 1 for source in feeds[name] if source in column), default=0)
    rows: dict[str, int] = {}
    filled: dict[int, int] = {}
    for name, depth in column.items():
        rows[name] = filled.get(depth, 0)
        filled[depth] = rows[name] + 1
    widest, deepest = max(filled.values()), max(column.values())
    step = min(_COLUMN, _WIDEST / max(deepest, 1))
    longest = max((column[name] - column[source] for name in feeds for source in feeds[name] if source in column), default=1)
    top = min(6.0 + 2.0 * longest, 40.0) + 8
    x = {name: 10 + step * depth for name, depth in column.items()}
    y = {name: top + _ROW * row for name, row in rows.items()}
    nodes: list[dict[str, Any]] = [
        {"name": row["layer"], "kind": row["kind"], "chosen": row["chosen"], "x": x[row["layer"]], "y": y[row["layer"]]}
        for row in layers
    ]
    edges = []
    for name, sources in feeds.items():
        for source in (source for source in sources if source in column):
            start, end = f"M {x[source]:.1f} {y[source]:.1f}", f"{x[name]:.1f} {y[name]:.1f}"
            over = column[name] - column[source]
            middle = (x[source] + x[name]) / 2
            summit = min(y[source], y[name]) - min(4.0 * over, 2 * top - 16)
            edges.append(f"{start} Q {middle:.1f} {summit:.1f} {end}" if over > 1 else f"{start} L {end}")
    size = {"width": round(20 + step * deepest), "height": round(top + _ROW * (widest - 1) + 14)}
    return {**size, "shown": sum(node["chosen"] for node in nodes), "nodes": nodes, "edges": edges}
