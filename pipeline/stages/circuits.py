"""The stage `circuits`: which earlier channels each channel is made from, by weights, and whether its winners agree."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np

from pipeline.activations.plan import ScanPlan
from pipeline.circuits.ranking import Circuit
from pipeline.circuits.stretch import Stretch, nearest_sources
from pipeline.errors import WrongSpec
from pipeline.hardware import release_memory
from pipeline.job import Job
from pipeline.models.network import LayerInfo
from pipeline.models.selection import select_among
from pipeline.progress import counted
from pipeline.report.job_reader import JobReader
from pipeline.report.section import Section
from pipeline.spec.circuits import CircuitsSpec
from pipeline.stages.stage import Outcome, Stage
from pipeline.store.columns import columns_of
from pipeline.store.tables import INDEX, write_index

_Unit = tuple[int, int, int, int]  # example, row, column, position among the layer's channels


def run(job: Job) -> Outcome:
    """Write index/circuits.parquet and index/stretches.parquet. Raises: UnusableModel, StoreFailed."""
    from pipeline.ascent.measure import deterministic

    rows: list[dict[str, Any]] = []
    stretches: list[dict[str, Any]] = []
    chosen, without = _chosen(job)
    with deterministic():
        for layer, sources in chosen:
            stretch = Stretch(job.of_image, layer, sources)
            for source, circuit in zip(sources, _circuits(job, stretch), strict=True):
                rows += circuit.rows(layer.name, source.name)
                stretches.append(_stretch_row(stretch, source, circuit))
            del stretch
            release_memory()
    numbers = {layer.name: number for number, layer in enumerate(job.layers)}
    rows.sort(key=lambda row: (numbers[row["layer"]], row["channel"], row["side"], numbers[row["other_layer"]], row["rank"]))
    write_index(job.folder, "circuits", columns_of(INDEX["circuits"], rows))
    write_index(job.folder, "stretches", columns_of(INDEX["stretches"], stretches))
    ended = {row["layer"]: row["ended"] for row in stretches if row["ended"]}
    for layer, ends in ended.items():
        job.reporter.say(f"circuits: {layer}: weights end at {'; '.join(ends[:3])}: no weight says what comes through")
    listed = len({(row["layer"], row["channel"]) for row in rows})
    return {
        "layers": [layer.name for layer, _ in chosen],
        "without_sources": without,
        "ended": ended,
        "summary": f"{counted(listed, 'channel')} of {counted(len(stretches), 'stretch')} between layers",
    }


def _stretch_row(stretch: Stretch, source: LayerInfo, circuit: Circuit) -> dict[str, Any]:
    agreement = circuit.agreement()
    known = agreement[np.isfinite(agreement)]
    return {
        "layer": stretch.target.name,
        "other_layer": source.name,
        "row": stretch.middle[0],
        "col": stretch.middle[1],
        "passed": [f"{count} x {kind}" for kind, count in stretch.between.passed],
        "ended": list(stretch.between.ended),
        "agreement": float(np.median(known)) if len(known) else None,
    }


def _circuits(job: Job, stretch: Stretch) -> list[Circuit]:
    """The circuits of a layer, one for each source."""
    layer = stretch.target
    channels = ScanPlan.of(job).channels_of(layer)
    units = _units(job, layer, channels)
    contributions = [np.full((len(channels), source.channels), np.nan) for source in stretch.sources]
    with job.reporter.step(f"circuits: {layer.name}", "channels") as advance:
        if units:
            contributions = _contributions(job, stretch, units, len(channels))
        top_k = job.spec.circuits.top_k
        circuits = [Circuit.of(channels, top_k, of_source) for of_source in contributions]
        for first in range(0, len(channels), stretch.batch):
            weights = stretch.weights(channels[first : first + stretch.batch])
            for circuit, of_source in zip(circuits, weights, strict=True):
                circuit.add(first, of_source)
            advance(min(first + stretch.batch, len(channels)), len(channels))
    return circuits


def _units(job: Job, layer: LayerInfo, channels: np.ndarray) -> list[_Unit]:
    """The winners that are looked at, by example."""
    positions = {int(channel): position for position, channel in enumerate(channels)}
    winners = JobReader(job.folder).rows("activations", layer.name).select(["channel", "rank", "example", "row", "col"])
    return sorted(
        (row["example"], row["row"], row["col"], positions[row["channel"]])
        for row in winners.to_pylist()
        if row["rank"] < job.spec.circuits.winners and row["channel"] in positions
    )


def _contributions(job: Job, stretch: Stretch, units: list[_Unit], count: int) -> list[np.ndarray]:
    """Gradient times activation, the mean over each channel's winners that can be read: float64 (channels, others) by source."""
    numbers = ScanPlan.of(job).channels_of(stretch.target)
    sums = [np.zeros((count, source.channels)) for source in stretch.sources]
    counts = np.zeros(count)
    for images, of_images in _by_images(job, units, stretch.batch):
        maps = stretch.maps(images)
        for first in range(0, len(of_images), stretch.batch):
            part = of_images[first : first + stretch.batch]
            image, row, col, position = np.array(part).T
            values = stretch.contributions(
                [maps_of_layer[image] for maps_of_layer in maps], np.stack([row, col, numbers[position]], axis=1)
            )
            for total, of_source in zip(sums, values, strict=True):
                np.add.at(total, position, of_source.astype(np.float64))
            np.add.at(counts, position, 1)
    return [np.where(counts[:, np.newaxis] > 0, total / np.maximum(counts, 1)[:, np.newaxis], np.nan) for total in sums]


def _by_images(job: Job, units: list[_Unit], batch: int) -> Iterator[tuple[np.ndarray, list[_Unit]]]:
    """The images of some units, up to `batch` at a time, and the units, with the image's number among these for the example."""
    by_example = {example: list(group) for example, group in groupby(units, key=lambda unit: unit[0])}
    examples = list(by_example)
    for first in range(0, len(examples), batch):
        read = job.readable.of(examples[first : first + batch])
        if read:
            pixels = np.stack([image.given for image in read])
            yield pixels, [(number, *unit[1:]) for number, image in enumerate(read) for unit in by_example[image.example]]


def _chosen(job: Job) -> tuple[list[tuple[LayerInfo, list[LayerInfo]]], list[str]]:
    """The layers to take apart, each with the nearest of the job before it; and those without any. Raises: UnknownLayer."""
    layers = select_among(job.layers, job.spec.circuits.layers, "circuits.layers")
    sources = {layer.name: nearest_sources(job.network, layer.name, job.layers) for layer in layers}
    return [(layer, sources[layer.name]) for layer in layers if sources[layer.name]], [
        layer.name for layer in layers if not sources[layer.name]
    ]


def check(job: Job) -> None:
    """Raises: WrongSpec, UnknownLayer."""
    chosen, without = _chosen(job)
    if not chosen:
        raise WrongSpec(
            f"[circuits] looks at what the layers of a job are made from, and before {without[0]!r} there is no other layer of "
            "this job. Add an earlier one to model.layers."
        )


STAGE = Stage(
    "circuits",
    run,
    table=CircuitsSpec,
    check=check,
    reads=("activations",),  # the winners that weights are checked with
    index=("circuits", "stretches"),
    section=Section("what channels are made from"),
)
