"""The main job: every channel's strongest responses, the receptive fields, the patches, and their index."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.activations import Activations
from pipeline.activations.heap_members import ByLabel, Strongest, Weakest
from pipeline.activations.part import Part
from pipeline.activations.plan import ScanPlan
from pipeline.activations.scan_state import clear
from pipeline.compiled.energy import check_gradients
from pipeline.engines.registry import check as check_saved
from pipeline.engines.registry import scan_job, settle_job
from pipeline.errors import WrongSpec
from pipeline.fields import solve_fields
from pipeline.fields.effective import EffectiveFields, covers_most
from pipeline.hardware import watch_gpus
from pipeline.job import Job
from pipeline.models.network import LayerInfo
from pipeline.patches import Winners, top_label, write_patches
from pipeline.report.section import Section
from pipeline.spec.activations import ActivationsSpec
from pipeline.stages.stage import Outcome, Stage
from pipeline.store.card import write_card
from pipeline.store.tables import write_index
from recfield import ReceptiveField


def activations(job: Job) -> Outcome:
    """The main job: scan, receptive fields, patches, mosaics and their index."""
    spec, plan = job.spec.activations, plan_of(job)
    began = time.monotonic()
    with job.reporter.step("scan", "images") as advance, watch_gpus() as gpus:
        part, times = scan_job(job, plan, advance)
    scanned = time.monotonic()
    job.reporter.say(f"receptive fields of {len(job.layers)} layers")
    fields = solve_fields(job.network, job.layers)
    solved = time.monotonic()
    effective = _effective(job, fields) if spec.crop == "effective" else {}
    winners = list(_all_winners(job, plan, part, fields, effective))
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
        "nans": {name: int(nans.sum()) for name, member in part.of(Strongest).items() if (nans := member.heap.nans).any()},
        "precision": plan.precision,
        "images_per_second": round(times.images / max(scanned - began, 1e-9), 1),
        "scan_seconds": {name: round(getattr(times, name), 2) for name in ("data", "network", "heaps", "writing")},
        "fields_seconds": round(solved - scanned, 2),
        "writing_seconds": round(time.monotonic() - solved, 2),
        "gpu_busy": gpus.busy,
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
        check_gradients(job.network, job.layers, 'Set activations.crop = "field".')


def prepare(job: Job, again: bool) -> None:
    """A scan that came to its end is forgotten where it is asked for again; one that was interrupted goes on.

    Raises: WrongSpec, for the part of another network or of other data; Fault, StoreFailed.
    """
    if again:
        clear(job.folder)
    check_saved(job)


def plan_of(job: Job) -> ScanPlan:
    """What a job's scan reads and keeps."""
    spec, data = job.spec.activations, job.spec.data
    chosen = None if spec.channels == "all" else tuple(spec.channels)
    labels = tuple(job.source.labels or ()) if spec.label_k else ()
    how = job.spec.model
    return ScanPlan(
        job.layers,
        chosen,
        spec.top_k,
        data.batch,
        data.on_bad,
        data.max_bad,
        how.precision,
        how.xla,
        spec.bottom_k,
        spec.label_k,
        labels,
    )


def _all_winners(
    job: Job, plan: ScanPlan, part: Part, fields: dict[str, ReceptiveField], effective: dict[str, EffectiveFields]
) -> Iterator[Winners]:
    """The strongest of every layer and, where the spec asks for them, the weakest, and the strongest for each label."""
    own_boxes = job.spec.activations.crop == "channel"
    for layer in job.layers:
        name, channels = layer.name, plan.channels_of(layer)
        heaps = {"activations": (channels, part.of(Strongest)[name].heap)}
        if name in part.of(Weakest):
            heaps["weakest"] = (channels, part.of(Weakest)[name].weakest_first())
        if name in part.of(ByLabel):
            heaps["by_label"] = part.of(ByLabel)[name].by_channel(channels)
        for table, (of_heap, heap) in heaps.items():
            winners = _winners(layer, of_heap, heap, fields[name], own_boxes)
            yield replace(winners, effective=effective.get(name), table=table)


def _winners(layer: LayerInfo, channels: np.ndarray, heap: Activations, field: ReceptiveField, own_boxes: bool) -> Winners:
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


def _write_channels(job: Job, winners: list[Winners], part: Part, labels: dict[str, list[list[str | None]]]) -> None:
    columns: dict[str, list[Any]] = {}
    for layer in winners:
        if layer.table != "activations":
            continue
        tops = [top_label(of_channel) for of_channel in labels[layer.layer]]
        values: dict[str, Sequence[Any] | np.ndarray] = {
            "layer": [layer.layer] * len(layer.channels),
            "channel": layer.channels,
            "top_label": [label for label, _ in tops],
            "label_purity": [purity for _, purity in tops],
        }
        for member in part.members[layer.layer].values():
            values |= member.columns(layer.channels)
        for name, column in values.items():
            columns.setdefault(name, []).extend(column)
    write_index(job.folder, "channels", columns)


STAGE = Stage(
    "activations",
    activations,
    table=ActivationsSpec,
    check=check_activations,
    prepare=prepare,
    index=("activations", "weakest", "by_label", "images", "fields", "channels", "skipped"),
    folders=("crops", "mosaics/activations"),
    section=Section("the strongest patches of every channel"),
)
