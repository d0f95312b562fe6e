"""The whole pipeline on one screen: a table of stages, in the order in which they run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engines.dispatch import scan_job, settle_job
from pipeline.fields import solve_fields
from pipeline.gpu import watch_gpus
from pipeline.job import Job, Receipt
from pipeline.models.network import LayerInfo
from pipeline.patches import Winners, top_label, write_patches
from pipeline.store.tables import write_index
from recfield import ReceptiveField

if TYPE_CHECKING:
    from pipeline.activations.scan import Plan


def activations(job: Job) -> Receipt:
    """The main job: scan, receptive fields, patches, mosaics and their index."""
    spec, plan = job.spec.activations, plan_of(job)
    began = time.monotonic()
    with job.reporter.step("scan", "images") as advance, watch_gpus() as gpus:
        part, meter = scan_job(job, plan, advance)
    scanned = time.monotonic()
    job.reporter.say(f"receptive fields of {len(job.layers)} layers")
    fields = solve_fields(job.network, job.layers)
    solved = time.monotonic()
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
    settle_job(job, part)
    return {
        "images": part.seen,
        "skipped": len(skipped),
        "nans": {name: int(heap.nans.sum()) for name, heap in part.heaps.items() if heap.nans.any()},
        "precision": plan.precision,
        "images_per_second": round(meter.images / max(scanned - began, 1e-9), 1),
        "scan_seconds": {name: round(getattr(meter, name), 2) for name in ("data", "network", "heaps", "writing")},
        "fields_seconds": round(solved - scanned, 2),
        "writing_seconds": round(time.monotonic() - solved, 2),
        "gpu_busy": gpus.busy,
        "probes": max((field.probes for field in fields.values()), default=0),
        "asleep_channels": {name: list(field.dead_channels) for name, field in fields.items() if field.dead_channels},
    }


def plan_of(job: Job) -> Plan:
    """What a job's scan reads and keeps."""
    from pipeline.activations.scan import Plan

    spec, data = job.spec.activations, job.spec.data
    chosen = None if spec.channels == "all" else tuple(spec.channels)
    how = job.spec.model
    return Plan(job.layers, chosen, spec.top_k, data.batch, data.on_bad, data.max_bad, how.precision, how.xla)


@dataclass(frozen=True)
class Stage:
    """A step of a job.

    reads: the tables of the spec, beside [model] and [data], on which its results depend.
    """

    run: Callable[[Job], Receipt]
    reads: tuple[str, ...]


STAGES: dict[str, Stage] = {
    "activations": Stage(activations, ("activations",)),
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
