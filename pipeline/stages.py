"""The whole pipeline on one screen: a table of stages, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.engines import local
from pipeline.fields import solve_fields
from pipeline.job import Job, Receipt
from pipeline.models.network import LayerInfo
from pipeline.patches import Winners, top_label, write_patches
from pipeline.store.tables import write_index
from recfield import ReceptiveField


def activations(job: Job) -> Receipt:
    """The main job: scan, receptive fields, patches, mosaics and their index."""
    from pipeline.activations.scan import Plan

    spec = job.spec.activations
    chosen = None if spec.channels == "all" else tuple(spec.channels)
    plan = Plan(job.layers, chosen, spec.top_k, job.spec.data.batch, job.spec.data.on_bad, job.spec.data.max_bad)
    with job.reporter.step("scan", "images") as advance:
        part, meter = local.scan_all(job.network, job.source, plan, advance)
    job.reporter.say(f"receptive fields of {len(job.layers)} layers")
    fields = solve_fields(job.network, job.layers)
    winners = [
        _winners(layer, plan.channels_of(layer), part.heaps[layer.name], fields[layer.name], spec.crop == "channel")
        for layer in job.layers
    ]
    with job.reporter.step("patches", "images") as advance:
        labels = write_patches(winners, job.source, job.fit, job.folder, spec.crop == "image", advance)
    _write_fields(job, fields)
    _write_channels(job, winners, part, labels)
    skipped = part.skipped
    write_index(job.folder, "skipped", {name: [getattr(one, name) for one in skipped] for name in ("example", "key", "reason")})
    return {
        "images": part.seen,
        "skipped": len(skipped),
        "nans": {name: int(heap.nans.sum()) for name, heap in part.heaps.items() if heap.nans.any()},
        "images_per_second": round(meter.images / meter.seconds, 1) if meter.seconds else 0.0,
        "scan_seconds": {"data": round(meter.data, 2), "network": round(meter.network, 2), "heaps": round(meter.heaps, 2)},
        "probes": max((field.probes for field in fields.values()), default=0),
        "asleep_channels": {name: list(field.dead_channels) for name, field in fields.items() if field.dead_channels},
    }


def patterns(job: Job) -> Receipt:
    """Dreams: the picture that fires each channel most."""
    from pipeline.dream.patterns import patterns

    return patterns(job)


def dream(job: Job) -> Receipt:
    """DeepDream on pictures, and classes drawn from nothing."""
    from pipeline.dream.dream import dream

    return dream(job)


@dataclass(frozen=True)
class Stage:
    """A step of a job.

    reads: the tables of the spec, beside [model] and [data], on which its results depend.
    """

    run: Callable[[Job], Receipt]
    reads: tuple[str, ...]


STAGES: dict[str, Stage] = {
    "activations": Stage(activations, ("activations",)),
    "patterns": Stage(patterns, ("activations", "patterns")),  # pictures stand beside the patches that were found
    "dream": Stage(dream, ("dream",)),
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
        statistics = part.statistics[layer.layer]
        tops = [top_label(of_channel) for of_channel in labels[layer.layer]]
        seen = np.maximum(statistics.seen, 1)
        values = {
            "layer": [layer.layer] * len(layer.channels),
            "channel": layer.channels,
            "seen": statistics.seen,
            "mean": statistics.mean,
            "std": statistics.std,
            "max": statistics.high,
            "share_positive": statistics.positive / seen,
            "dead": statistics.dead,
            "top_label": [label for label, _ in tops],
            "label_purity": [purity for _, purity in tops],
        }
        for name, column in values.items():
            columns.setdefault(name, []).extend(column)
    write_index(job.folder, "channels", columns)
