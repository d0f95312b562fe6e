"""The whole pipeline on one screen: a table of stages, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.attribution import check_gradcam, gradcam
from pipeline.dream.patterns import patterns
from pipeline.dream.wanted import check_patterns as _check_patterns
from pipeline.engines.dispatch import scan_job, settle_job
from pipeline.errors import WrongSpec
from pipeline.featuremaps import check_featuremaps, featuremaps
from pipeline.fields import solve_fields
from pipeline.fields.effective import EffectiveFields, covers_most
from pipeline.fields.energy import check_gradients
from pipeline.filters import check_filters, filters
from pipeline.job import Job, Receipt
from pipeline.models.network import LayerInfo
from pipeline.patches import Winners, top_label, write_patches
from pipeline.report.page import write_page
from pipeline.store.card import write_card
from pipeline.store.tables import QUANTILES, write_index
from recfield import ReceptiveField

if TYPE_CHECKING:
    from pipeline.activations.scan import Plan


def activations(job: Job) -> Receipt:
    """The main job: scan, receptive fields, patches, mosaics and their index."""
    spec, plan = job.spec.activations, plan_of(job)
    with job.reporter.step("scan", "images") as advance:
        part, meter = scan_job(job, plan, advance)
    job.reporter.say(f"receptive fields of {len(job.layers)} layers")
    fields = solve_fields(job.network, job.layers)
    winners = [
        _winners(layer, plan.channels_of(layer), part.heaps[layer.name], fields[layer.name], spec.crop == "channel")
        for layer in job.layers
    ]
    effective = _effective(job, fields) if spec.crop == "effective" else {}
    winners = [replace(layer, effective=effective.get(layer.layer)) for layer in winners]
    with job.reporter.step("patches", "images") as advance:
        labels = write_patches(winners, job.source, job.fit, job.folder, spec.crop == "image", advance)
    write_card(job.folder, job.spec.name, [layer.name for layer in job.layers])
    _write_fields(job, fields)
    _write_channels(job, winners, part, labels)
    skipped = part.skipped
    write_index(job.folder, "skipped", {name: [getattr(one, name) for one in skipped] for name in ("example", "key", "reason")})
    settle_job(job, part)
    return {
        "images": part.seen,
        "skipped": len(skipped),
        "nans": {name: int(heap.nans.sum()) for name, heap in part.heaps.items() if heap.nans.any()},
        "images_per_second": round(meter.images / meter.seconds, 1) if meter.seconds else 0.0,
        "scan_seconds": {"data": round(meter.data, 2), "network": round(meter.network, 2), "heaps": round(meter.heaps, 2)},
        "probes": max((field.probes for field in fields.values()), default=0),
        "effective": {name: {"found": found.found, "without": found.without} for name, found in effective.items()},
        "asleep_channels": {name: list(field.dead_channels) for name, field in fields.items() if field.dead_channels},
    }


def check_activations(job: Job) -> None:
    """Raises: WrongSpec, UnusableModel."""
    spec = job.spec.activations
    chosen = [-1] if spec.channels == "all" else spec.channels
    for layer in job.layers:
        if max(chosen) >= layer.channels:
            raise WrongSpec(
                f"activations.channels names channel {max(chosen)}, but {layer.name} has {layer.channels} "
                f"(0 to {layer.channels - 1}). Name lower ones, or fewer layers."
            )
    if spec.label_k and not job.source.labels:
        raise WrongSpec(
            f"activations.label_k = {spec.label_k}, but the data set does not name its labels. Set data.labels, or leave it out."
        )
    if spec.crop == "effective":
        check_gradients(job.network, job.layers)


def check_patterns(job: Job) -> None:
    """Raises: any WrongSpec."""
    _check_patterns(job.spec.patterns, job.network, job.layers)


def report(job: Job) -> Receipt:
    """The web page, from whatever the other stages have left."""
    with job.reporter.step("report", "layers") as advance:
        counts = write_page(job.folder, advance)
    return {
        **counts,
        "told": f"{counts['channels']:,} channels on a page of {counts['files']:,} files, {counts['bytes'] / 1e6:.1f} MB",
    }


def plan_of(job: Job) -> Plan:
    """What a job's scan reads and keeps."""
    from pipeline.activations.scan import Plan

    spec, data = job.spec.activations, job.spec.data
    chosen = None if spec.channels == "all" else tuple(spec.channels)
    labels = tuple(job.source.labels or ()) if spec.label_k else ()
    return Plan(job.layers, chosen, spec.top_k, data.batch, data.on_bad, data.max_bad, spec.bottom_k, spec.label_k, labels)


@dataclass(frozen=True)
class Stage:
    """A step of a job.

    reads: the tables of the spec, beside [model] and [data], on which its results depend.
    check: finds, before work starts, what of these tables does not fit the network or the data. Raises: any WrongSpec.
    """

    run: Callable[[Job], Receipt]
    reads: tuple[str, ...]
    check: Callable[[Job], None] = lambda job: None


STAGES: dict[str, Stage] = {
    "activations": Stage(activations, ("activations",), check_activations),
    "filters": Stage(filters, ("filters",), check_filters),
    "featuremaps": Stage(featuremaps, ("featuremaps",), check_featuremaps),
    "gradcam": Stage(gradcam, ("gradcam",), check_gradcam),
    "patterns": Stage(patterns, ("activations", "patterns"), check_patterns),  # pictures stand beside the patches that were found
    "report": Stage(report, ("stages", "activations", "filters", "featuremaps", "gradcam", "patterns")),
}


def _winners(layer: LayerInfo, channels: np.ndarray, heap: Any, field: ReceptiveField, own_boxes: bool) -> Winners:
    """A heap's winners with their boxes: the layer's, or each channel's own."""
    rows, cols = np.maximum(heap.rows, 0), np.maximum(heap.cols, 0)
    boxes = field.boxes[rows, cols]
    extents = np.tile(np.array(field.size, np.int32), (len(channels), 1))
    if own_boxes:
        for place, channel in enumerate(channels):
            own = field.channel_boxes(int(channel))
            boxes[place] = own[rows[place], cols[place]]
            extents[place] = (own[..., 2:] - own[..., :2]).max(axis=(0, 1))
    return Winners(layer.name, channels, heap.scores, heap.examples, heap.rows, heap.cols, boxes, extents)


def _effective(job: Job, fields: dict[str, ReceptiveField]) -> dict[str, EffectiveFields]:
    """What finds the effective fields of the layers whose fields are too large to show, by name."""
    large = [layer for layer in job.layers if covers_most(fields[layer.name], job.fit.height, job.fit.width)]
    return {layer.name: EffectiveFields(job.network, layer, fields[layer.name]) for layer in large}


def _write_fields(job: Job, fields: dict[str, ReceptiveField]) -> None:
    found = [fields[layer.name] for layer in job.layers]
    write_index(
        job.folder,
        "fields",
        {
            "layer": [layer.name for layer in job.layers],
            "height": [field.size[0] for field in found],
            "width": [field.size[1] for field in found],
            "stride_y": [field.stride[0] for field in found],
            "stride_x": [field.stride[1] for field in found],
            "map_height": [layer.shape[0] for layer in job.layers],
            "map_width": [layer.shape[1] for layer in job.layers],
            "global": [field.is_global for field in found],
        },
    )


def _write_channels(job: Job, winners: list[Winners], part: Any, labels: dict[str, list[list[str | None]]]) -> None:
    columns: dict[str, list[Any]] = {}
    for layer in winners:
        statistics, tally = part.statistics[layer.layer], part.tallies[layer.layer].settled()
        tops = [top_label(of_channel) for of_channel in labels[layer.layer]]
        seen = np.maximum(statistics.seen, 1)
        selective, index = tally.selectivity()
        twin, correlation = tally.twins()
        counts, edges = tally.histogram()
        values = {
            "layer": [layer.layer] * len(layer.channels),
            "channel": layer.channels,
            "seen": statistics.seen,
            "mean": statistics.mean,
            "std": statistics.std,
            "max": statistics.high,
            "share_positive": statistics.positive / seen,
            "dead": statistics.dead,
            "saturated": ~statistics.dead & (tally.at_high > statistics.seen / 2),
            "always_negative": (statistics.seen > 0) & (statistics.high < 0),
            "share_at_max": tally.at_high / seen,
            **{f"q{share:02}": _without_nan(tally.quantile(share / 100)) for share in QUANTILES},
            "top_label": [label for label, _ in tops],
            "label_purity": [purity for _, purity in tops],
            "selective_label": selective,
            "selectivity": _without_nan(index),
            "twin": [None if number < 0 else layer.channels[number] for number in twin],
            "twin_correlation": _without_nan(correlation),
            "histogram": list(counts),
            "histogram_edges": list(edges),
        }
        for name, column in values.items():
            columns.setdefault(name, []).extend(column)
    write_index(job.folder, "channels", columns)


def _without_nan(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
