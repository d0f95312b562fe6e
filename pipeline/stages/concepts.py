"""The stage `concepts`: what each channel's responses have in common, in words, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.activations.distribution import Distribution, scrambled
from pipeline.activations.heap_members import Strongest
from pipeline.activations.part_file import WHOLE
from pipeline.activations.plan import ScanPlan
from pipeline.activations.scan_state import ScanState
from pipeline.concepts.claims import Agreement, ClaimRule, best_of, claim_columns, permutations_of
from pipeline.concepts.label_counts import LabelCounts, bins_for, grid_of
from pipeline.errors import MissingInput, WrongSpec
from pipeline.job import Job
from pipeline.report.section import Section
from pipeline.spec.concepts import ConceptsSpec
from pipeline.stages.stage import Outcome, Stage
from pipeline.store.tables import INDEX, write_index

if TYPE_CHECKING:
    from pipeline.activations.part import Part
    from pipeline.activations.scan import BatchResponses

_CHUNK = 1024  # images that are counted together


def run(job: Job) -> Outcome:
    """Write index/concepts.parquet. Raises: MissingInput, WrongSpec, UnusableData, StoreFailed."""
    plan, spec = ScanPlan.of(job), job.spec.concepts
    channels = {layer.name: plan.channels_of(layer) for layer in job.layers}
    counts, sample = _pass(job, plan)
    columns: dict[str, list[Any]] = {name: [] for name in INDEX["concepts"].names}
    rule = ClaimRule(spec.top_k, spec.chance)
    for layer, numbers in channels.items():
        agreements = list(_from_labels(counts[layer], sample, layer)) if layer in counts else []
        for name, values in claim_columns(layer, numbers, agreements, rule).items():
            columns[name] += values
    write_index(job.folder, "concepts", columns)
    rows = zip(columns["layer"], columns["channel"], columns["named"], strict=True)
    named = len({(layer, channel) for layer, channel, is_name in rows if is_name})
    total = sum(map(len, channels.values()))
    return {"images": len(sample.keys), "named": named, "summary": f"{named:,} of {total:,} channels have a name"}


def check(job: Job) -> None:
    """Raises: WrongSpec, MissingInput."""
    if "activations" not in job.spec.stages and not (job.folder / WHOLE).exists():
        raise WrongSpec('the stage "concepts" needs the scan. Add "activations" to stages.')


@dataclass(frozen=True, eq=False)
class _Sample:
    """The images that are chosen by their numbers, in their order, with every channel's responses to them.

    keys: str (images,); codes: int64 (images,), of their labels, -1 for none; responses: float32 (images, channels) by layer.
    """

    keys: np.ndarray
    codes: np.ndarray
    responses: Mapping[str, np.ndarray]


def _pass(job: Job, plan: ScanPlan) -> tuple[dict[str, LabelCounts], _Sample]:
    """One pass over the data: for every layer the counts by label, where there are labels, and the sample."""
    from pipeline.activations.scan import stream_responses

    counts = _empty_counts(job, plan)
    labels: tuple[str, ...] = next((of_layer.labels for of_layer in counts.values()), ())
    codes = {label: code for code, label in enumerate(labels)}
    total, limit = len(job.source), job.spec.concepts.images
    chosen = np.zeros(total, bool)
    chosen[np.argsort(scrambled(np.arange(total)), kind="stable")[:limit]] = True
    kept: list[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]] = []
    with job.reporter.step("concepts", "images") as advance:
        for batch in _chunks(stream_responses(job.network, job.source, plan)):
            numbers = np.array([codes.get(label, -1) for label in batch.labels], np.int64)
            counts = {layer: of_layer.update(batch.responses[layer], numbers) for layer, of_layer in counts.items()}
            mask = chosen[batch.examples]
            kept.append((batch.keys[mask], numbers[mask], {layer: values[mask] for layer, values in batch.responses.items()}))
            advance(int(batch.examples[-1]) + 1, total)
    if not kept:
        raise MissingInput("no image of the data set can be read, so no concept can be compared with any channel.")
    keys, numbers, responses = zip(*kept, strict=True)
    sampled = {layer: np.concatenate([of_chunk[layer] for of_chunk in responses]) for layer in responses[0]}
    return counts, _Sample(np.concatenate(keys), np.concatenate(numbers), sampled)


def _chunks(batches: Iterator[BatchResponses]) -> Iterator[BatchResponses]:
    """Batches joined to so many images, since counting a few takes as long as counting many."""
    waiting: list[BatchResponses] = []
    for batch in batches:
        waiting.append(batch)
        if sum(len(one.examples) for one in waiting) >= _CHUNK:
            yield _joined(waiting)
            waiting = []
    if sum(len(one.examples) for one in waiting):
        yield _joined(waiting)


def _joined(batches: list[BatchResponses]) -> BatchResponses:
    from pipeline.activations.scan import BatchResponses

    examples, keys, labels = (
        np.concatenate([getattr(batch, name) for batch in batches]) for name in ("examples", "keys", "labels")
    )
    responses = {layer: np.concatenate([batch.responses[layer] for batch in batches]) for layer in batches[0].responses}
    return BatchResponses(examples, keys, labels, responses)


def _empty_counts(job: Job, plan: ScanPlan) -> dict[str, LabelCounts]:
    """Counts of nothing for every layer, over grids from the scan; none where there are not two labels, or none are asked for."""
    part = _scanned(job)
    members = {layer: member.settled() for layer, member in part.of(Distribution).items()}
    labels = next(iter(members.values())).labels.tolist()
    if not job.spec.concepts.labels or len(labels) < 2:
        return {}
    bins = bins_for(len(labels), sum(len(plan.channels_of(layer)) for layer in job.layers))
    strongest = part.of(Strongest)
    return {
        layer: LabelCounts.empty(grid_of(member.sample, strongest[layer].heap.keys[:, 0], bins), labels)
        for layer, member in members.items()
    }


def _scanned(job: Job) -> Part:
    part = ScanState.read(job).whole()
    if part is None:
        raise MissingInput(f"{job.folder} holds no finished scan of these data. Run the stage activations first.")
    return part


def _from_labels(counts: LabelCounts, sample: _Sample, layer: str) -> Iterator[Agreement]:
    """How well each channel's response tells each label, over all images; by chance, over the sample."""
    responses = sample.responses[layer]
    precisions, areas = [], []
    for order in permutations_of(len(responses), responses.shape[1]):
        permuted = LabelCounts.empty(counts.edges, counts.labels).update(responses, sample.codes[order])
        precisions.append(best_of(permuted.average_precision()))
        areas.append(best_of(permuted.auc()))
    yield Agreement("labels", "average_precision", counts.labels, counts.average_precision(), np.concatenate(precisions))
    yield Agreement("labels", "auc", counts.labels, counts.auc(), np.concatenate(areas))


STAGE = Stage(
    "concepts",
    run,
    table=ConceptsSpec,
    check=check,
    reads=("activations",),
    index=("concepts",),
    section=Section("names of channels"),
)
