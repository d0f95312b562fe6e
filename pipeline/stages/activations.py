"""The main job: every channel's strongest responses, the receptive fields, the patches, and their index."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from pipeline.activations.channel_statistics import Statistics
from pipeline.activations.channel_table import channel_columns
from pipeline.activations.heap_members import ByLabel, Strongest, Weakest
from pipeline.activations.neighbours import neighbour_columns
from pipeline.activations.part import Part
from pipeline.activations.plan import ScanPlan
from pipeline.activations.scan_state import ScanState, clear, settle
from pipeline.engines.registry import scan_job
from pipeline.errors import WrongSpec
from pipeline.fields import FieldCache, field_columns, solve_fields
from pipeline.hardware import emulates_bfloat16, release_memory, watch_gpu
from pipeline.job import Job
from pipeline.models.selection import layer_columns
from pipeline.patches import PatchOptions, Winners, winners_of, write_patches
from pipeline.progress import counted
from pipeline.report.pictures import fields_of, labels_of
from pipeline.report.section import Section
from pipeline.spec.activations import ActivationsSpec
from pipeline.stages.stage import Outcome, Stage
from pipeline.store.card import write_card
from pipeline.store.tables import write_index
from recfield import ReceptiveField

if TYPE_CHECKING:
    from pipeline.fields.effective import EffectiveFields


def run(job: Job) -> Outcome:
    """The main job: scan, receptive fields, patches, mosaics and their index."""
    from pipeline.fields.effective import effective_fields
    from pipeline.fields.map_regions import MapRegions, region_layers

    spec, plan = job.spec.activations, ScanPlan.of(job)
    began = time.monotonic()
    if plan.precision == "bfloat16" and job.options.engine == "local" and emulates_bfloat16():
        job.reporter.say(
            "warning: this CPU has neither AVX-512 BF16 nor AMX: the scan takes longer in bfloat16 than in float32. "
            "Leave out model.precision."
        )
    with job.reporter.step("scan", "images") as advance, watch_gpu(job.options.engine == "local") as gpu:
        part, times = scan_job(job.prepared.pop(ScanState, None) or ScanState.read(job), plan, advance)
    release_memory()
    scanned = time.monotonic()
    channels = {layer.name: plan.channels_of(layer) for layer in job.layers}
    job.reporter.say(f"receptive fields of {counted(len(job.layers), 'layer')}")
    with ThreadPoolExecutor(1) as beside:
        neighbours = beside.submit(neighbour_columns, part, channels)  # in the time that the probes leave cores
        fields = solve_fields(job.network, job.layers, FieldCache.of_job(job) if spec.crop != "channel" else None)
    release_memory()
    solved = time.monotonic()
    effective = effective_fields(job.network, job.layers, fields) if spec.crop == "effective" else {}
    by_map = (
        region_layers(job.layers, fields, job.network.input_shape[:2], spec.crop == "map") if spec.crop in ("auto", "map") else []
    )
    winners = list(_winners(job, part, fields, effective))
    options = PatchOptions(
        fit=job.fit,
        whole=spec.crop == "image",
        crop_size=spec.crop_size,
        maps=MapRegions(job.network, by_map, fields) if by_map else None,
        network=job.network.name,
        data=_data_name(job.spec.data.source),
        images=part.seen,
        named="concepts" in job.spec.stages,
        step=job.reporter.step,
        save_every=job.options.save_every,
    )
    labels = write_patches(winners, job.source, job.folder, options)
    write_card(job.folder, job.spec.name, [layer.name for layer in job.layers])
    write_index(job.folder, "fields", field_columns(job.layers, fields))
    write_index(job.folder, "layers", layer_columns(job.network, {layer.name for layer in job.layers}))
    write_index(job.folder, "channels", channel_columns(part, channels, labels))
    write_index(job.folder, "neighbours", neighbours.result())
    write_index(job.folder, "skipped", part.skipped_columns())
    settle(job, part)
    return {
        "images": part.seen,
        "skipped": len(part.skipped),
        "nans": {name: int(nans.sum()) for name, member in part.of(Strongest).items() if (nans := member.heap.nans).any()},
        "precision": plan.precision,
        "images_per_second": round(times.images / max(scanned - began, 1e-9), 1),
        "scan_seconds": {name: round(getattr(times, name), 2) for name in ("data", "network", "heaps", "writing")},
        "fields_seconds": round(solved - scanned, 2),
        "writing_seconds": round(time.monotonic() - solved, 2),
        "gpu_busy": gpu.busy,
        "probes": max((field.probes for field in fields.values()), default=0),
        "rounding_leaks": [name for name, field in fields.items() if field.leaks],
        "by_map": [layer.name for layer in by_map],
        "effective": {name: {"found": fields_of.solved, "without": fields_of.without} for name, fields_of in effective.items()},
        "asleep_channels": {name: list(field.dead_channels) for name, field in fields.items() if field.dead_channels},
    }


def check(job: Job) -> None:
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
    if spec.rank == "relevance":
        _check_relevance(job)
    if spec.crop == "effective":
        from pipeline.compiled.energy import check_gradients

        check_gradients(job.network, job.layers, 'Set activations.crop = "field".')


def _check_relevance(job: Job) -> None:
    from pipeline.compiled.layer_relevance import check_relevance

    head = job.head()
    if head.kind not in ("softmax", "sigmoid"):
        raise WrongSpec(
            f'activations.rank = "relevance" needs classes, and {job.network.name} has the head {head.kind!r}. Leave rank out.'
        )
    check_relevance(job.network, [layer.name for layer in job.layers])


def prepare(job: Job, again: bool) -> None:
    """A finished scan that is asked for again is removed; one that was interrupted is continued.

    Raises: WrongSpec, for the part of another network or of other data; Fault, StoreFailed.
    """
    if again:
        clear(job.folder)
        job.prepared.pop(ScanState, None)
    state = job.prepared.get(ScanState) or ScanState.read(job)
    state.check()
    job.prepared[ScanState] = state


def _winners(
    job: Job, part: Part, fields: Mapping[str, ReceptiveField], effective: Mapping[str, EffectiveFields]
) -> Iterator[Winners]:
    """The winners of every layer: the strongest and, where the spec asks for them, the weakest and those of each label."""
    plan, own_boxes = ScanPlan.of(job), job.spec.activations.crop == "channel"
    for layer in job.layers:
        name, channels = layer.name, plan.channels_of(layer)
        strongest, statistics = part.of(Strongest)[name], part.of(Statistics)[name]
        heaps = {"activations": (channels, strongest.heap.fired(statistics.low))}
        if name in part.of(Weakest):
            heaps["weakest"] = (channels, part.of(Weakest)[name].weakest_first())
        if name in part.of(ByLabel):
            of_heap, heap = part.of(ByLabel)[name].by_channel(channels)
            heaps["by_label"] = (of_heap, heap.fired(np.repeat(statistics.low, len(of_heap) // len(channels))))
        for table, (of_heap, heap) in heaps.items():
            winners = winners_of(name, of_heap, heap, fields[name], own_boxes)
            yield replace(
                winners,
                effective=effective.get(name),
                table=table,
                inactive=statistics.dead if table == "activations" else None,
                ties=strongest.ties(statistics.low) if table == "activations" else None,
            )


def _data_name(source: str) -> str:
    """A data set as headings name it: without the folders above it."""
    kind, _, rest = source.partition(":")
    return PurePath(rest).name or rest if kind not in ("tfds", "hub") else rest


STAGE = Stage(
    "activations",
    run,
    table=ActivationsSpec,
    check=check,
    prepare=prepare,
    index=("activations", "weakest", "by_label", "images", "mosaics", "fields", "layers", "channels", "neighbours", "skipped"),
    folders=("crops", "mosaics/activations"),
    section=Section("the strongest patches of every channel", {"labels": labels_of, "fields": fields_of}),
)
