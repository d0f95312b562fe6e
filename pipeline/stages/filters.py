"""The stage `filters`: every chosen kernel as a picture, and every filter in the index."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.drawing.pixels import encode_png
from pipeline.filters.kernel_sheet import Drawn, Limits, draw_kernel, kind_of
from pipeline.filters.selection import choose, given_by
from pipeline.filters.statistics import FilterStatistics
from pipeline.geometry import EDGES
from pipeline.job import Job
from pipeline.models.network import Kernel
from pipeline.report.section import Section
from pipeline.spec.filters import FiltersSpec
from pipeline.stages.stage import Outcome, Stage
from pipeline.store.files import file_name, keep_only, write_bytes
from pipeline.store.tables import INDEX, write_index


def filters(job: Job) -> Outcome:
    """Draw the kernels and write index/filters.parquet. Raises: WrongSpec, as `check_filters` does; StoreFailed."""
    from pipeline.filters.colours import colour_inputs

    spec = job.spec.filters
    chosen = choose(job.network, spec.layers, job.layers)
    gives = given_by(job.network, chosen, job.layers)
    limits = Limits(spec.sort, spec.filters, spec.inputs)
    columns: dict[str, list[Any]] = {field.name: [] for field in INDEX["filters"]}
    folder, written, all_drawn = job.folder / "mosaics" / "filters", set(), 0
    with job.reporter.step("filters", "layers") as advance:
        for done, layer in enumerate(chosen, start=1):
            for kernel in job.network.kernels([layer.name])[layer.name]:
                suffix = "" if kernel.part == "kernel" else f"-{kernel.part}"
                path = folder / f"{file_name(layer.name)}{suffix}.png"
                title = layer.name if kernel.part == "kernel" else f"{layer.name}, {kernel.part}"
                drawn = draw_kernel(title, kernel, limits, colour_inputs(job.network, layer.name, kernel))
                write_bytes(path, encode_png(drawn.picture))
                written.add(path)
                all_drawn += int(drawn.filters.sum())
                picture = f"mosaics/filters/{path.name}"
                for name, values in _columns(layer.name, kernel, drawn, picture, gives[layer.name]).items():
                    columns[name].extend(values)
            advance(done, len(chosen))
    write_index(job.folder, "filters", columns)
    keep_only(folder, written)
    count = len(columns["layer"])
    return {
        "layers": [layer.name for layer in chosen],
        "filters": count,
        "told": f"{count:,} filters of {len(chosen)} layers, {all_drawn:,} of them drawn",
    }


def check_filters(job: Job) -> None:
    """Find before work starts what cannot be drawn. Raises: UnknownLayer, WrongSpec."""
    choose(job.network, job.spec.filters.layers, job.layers)


def _columns(layer: str, kernel: Kernel, drawn: Drawn, picture: str, gives: list[str]) -> dict[str, Any]:
    statistics = FilterStatistics.of(kernel)
    count = kernel.filters
    height, width, inputs, _ = kernel.weights.shape
    alone = statistics.twin < 0
    return {
        "layer": [layer] * count,
        "part": [kernel.part] * count,
        "channel": np.arange(count),
        "kind": [kind_of(kernel)] * count,
        "height": [height] * count,
        "width": [width] * count,
        "inputs": [inputs] * count,
        "first_input": [kernel.first_input(filter) for filter in range(count)],
        "norm": statistics.norm,
        "mean": statistics.mean,
        "share_near_zero": statistics.share_near_zero,
        "twin": [None if none else int(twin) for twin, none in zip(statistics.twin, alone, strict=True)],
        "twin_cosine": [None if none else float(cosine) for cosine, none in zip(statistics.twin_cosine, alone, strict=True)],
        "drawn": drawn.filters,
        "picture": [picture] * count,
        "gives": [gives] * count,
        **{edge: _where(drawn.filters, drawn.boxes[:, place]) for place, edge in enumerate(EDGES)},
    }


def _where(there: np.ndarray, values: np.ndarray) -> list[int | None]:
    return [int(value) if known else None for value, known in zip(values, there, strict=True)]


STAGE = Stage(
    "filters",
    filters,
    table=FiltersSpec,
    check=check_filters,
    index=("filters",),
    folders=("mosaics/filters",),
    section=Section("the learned kernels"),
)
