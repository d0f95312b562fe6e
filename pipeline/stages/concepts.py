"""The stage `concepts`: what each channel's responses have in common, in words, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.activations.distribution import Distribution
from pipeline.activations.heap_members import Strongest
from pipeline.activations.member import without_nan
from pipeline.activations.part_file import WHOLE
from pipeline.activations.plan import ScanPlan
from pipeline.activations.scan_state import ScanState
from pipeline.concepts.claims import (
    Agreement,
    ClaimRule,
    best_of,
    claim_columns,
    decide_names,
    nearest_concepts,
    permutations_of,
    share_that_fits,
    strongest_images,
    winner_vectors,
)
from pipeline.concepts.dissection import DETECTS, Dissection, Overlaps
from pipeline.concepts.embedder import Embedder
from pipeline.concepts.embeddings import (
    Concepts,
    check_width,
    concept_matrix,
    finite,
    label_means,
    normalised,
    of_keys,
    read_vectors,
    read_words,
)
from pipeline.concepts.label_counts import LabelCounts, bins_for, grid_of
from pipeline.concepts.masks import grid_points, open_masks
from pipeline.concepts.quality import clarity, polysemanticity, redundancy
from pipeline.concepts.similarity import Measure, similarity
from pipeline.drawing.pixels import decode_png
from pipeline.errors import MissingInput, WrongSpec
from pipeline.fields import FieldCache, solve_fields
from pipeline.fields.map_regions import MapGrid
from pipeline.geometry import interpolation
from pipeline.inputs import open_inputs
from pipeline.job import Job
from pipeline.models.labels import count_classes
from pipeline.models.network import EMBEDDING, LOGITS, Feed, Network, feed_of, unknown_layer
from pipeline.patches.mosaics import name_mosaics
from pipeline.report.job_reader import JobReader
from pipeline.report.section import Section
from pipeline.scrambling import sampled
from pipeline.sources.fit import Fit
from pipeline.spec.concepts import ConceptsSpec, EmbeddingsSpec
from pipeline.stages.stage import Outcome, Stage
from pipeline.store.tables import INDEX, write_index

if TYPE_CHECKING:
    from pipeline.activations.part import Part
    from pipeline.models.keras.hub_encoder import TextImageEncoder

_CHUNK = 1024  # images that are counted together
_Overlaps = dict[str, tuple[Overlaps, Overlaps]]  # by layer, with an image's own masks and with those of another


def run(job: Job) -> Outcome:
    """Write index/concepts.parquet. Raises: MissingInput, WrongSpec, UnusableData, StoreFailed."""
    plan, spec = ScanPlan.of(job), job.spec.concepts
    part = ScanState.read(job).whole()
    if part is None:
        raise MissingInput(f"{job.folder} holds no finished scan of these data. Run the stage activations first.")
    labels = tuple(next(iter(part.of(Distribution).values())).settled().labels.tolist())
    given = spec.embeddings
    examples = np.setdiff1d(np.flatnonzero(_chosen(job)), [row.example for row in part.skipped])
    if not len(examples):
        raise MissingInput("no image of the data set can be read, so no concept can be compared with any channel.")
    by_responses = given is not None or (spec.labels and len(labels) > 1)  # masks and crops are looked at on their own
    counts, sample = _pass(job, plan, part, labels) if by_responses else ({}, _Sample(np.array([]), np.array([]), {}))
    embedded = _embedded(job, given, sample, labels) if given else None
    with_masks, names, dissected = _dissected(job, plan, examples)
    columns: dict[str, list[Any]] = {name: [] for name in INDEX["concepts"].names}
    rule = ClaimRule(spec.top_k, spec.chance, spec.fits)
    for layer in job.layers:
        agreements = [
            *(_from_masks(names, *dissected[layer.name]) if layer.name in dissected else ()),
            *(_from_embeddings(given.measures, embedded, sample, layer.name) if given and embedded else ()),
            *(_from_labels(counts[layer.name], sample, layer.name) if layer.name in counts else ()),
        ]
        for column, values in claim_columns(layer.name, plan.channels_of(layer), agreements, rule).items():
            columns[column] += values
    decide_names(columns, rule)
    write_index(job.folder, "concepts", columns)
    write_index(job.folder, "embeddings", _channel_vectors(job, sample, embedded))
    _name_mosaics(job)
    write_index(job.folder, "quality", _quality(job, plan) if spec.quality else {name: [] for name in INDEX["quality"].names})
    rows = zip(columns["layer"], columns["channel"], columns["named"], strict=True)
    named = len({(layer, channel) for layer, channel, is_name in rows if is_name})
    total = sum(len(plan.channels_of(layer)) for layer in job.layers)
    return {
        "images": len(examples),
        "with_masks": with_masks,
        "named": named,
        "summary": f"{named:,} of {total:,} channels have a name; of these, chance would give {spec.chance:.0%} at most",
    }


def check(job: Job) -> None:
    """Raises: WrongSpec, UnknownLayer, MissingInput, UnusableModel, UnusableData."""
    if "activations" not in job.spec.stages and not (job.folder / WHOLE).exists():
        raise WrongSpec('the stage "concepts" needs the scan. Add "activations" to stages.')
    if job.spec.concepts.masks is not None:
        open_masks(job.spec.concepts.masks.source, job.spec.concepts.masks.names)
    given = job.spec.concepts.embeddings
    if job.spec.concepts.quality and feed_of(job.network) != Feed():
        raise WrongSpec("concepts.quality looks at crops, RGB of 8 bits, and the network takes other images. Leave it out.")
    if job.spec.concepts.quality and (given is None or given.images is not None):
        check_width(job.layers[-1].channels, f"{job.layers[-1].name}, the job's last layer,")
    if given is None:
        return
    if given.texts is not None:
        texts = read_vectors(given.texts, "text")[1]
    elif not (_name_concepts(given, job.source.labels) or given.encoder or (given.layer and job.spec.concepts.quality)):
        raise WrongSpec(
            "concepts.embeddings names no texts, and the data set no labels to be concepts. Name concepts.embeddings.texts."
        )
    if given.images is not None:
        read_vectors(given.images, "key")
    elif given.encoder is not None:
        _encoder(job, given)
        if given.words is not None:
            read_words(given.words)
    elif given.layer is not None:
        inputs = job.prepared[Embedder] = _embedder(job, given)
        if given.layer not in [LOGITS, *(layer.name for layer in inputs.network.layers())]:
            raise unknown_layer(inputs.network, given.layer)
        widths = {layer.name: layer.channels for layer in inputs.network.layers()}
        width = widths.get(given.layer) or count_classes(inputs.network)
        check_width(width, f"{given.layer} of {inputs.network.name}")
        if given.texts is not None and texts.shape[1] != width:
            raise WrongSpec(
                f"{given.layer} of {inputs.network.name} gives {width:,} numbers, and the embeddings in {given.texts!r} have "
                f"{texts.shape[1]:,}. Both must come from one model."
            )


@dataclass(frozen=True, eq=False)
class _Sample:
    """The images that are chosen by their numbers, in their order, with every channel's responses to them.

    keys: str (images,); codes: int64 (images,), of their labels, -1 for none; responses: float32 (images, channels) by layer.
    """

    keys: np.ndarray
    codes: np.ndarray
    responses: Mapping[str, np.ndarray]


def _pass(job: Job, plan: ScanPlan, part: Part, labels: tuple[str, ...]) -> tuple[dict[str, LabelCounts], _Sample]:
    """One pass over the data: for every layer the counts by label, where there are labels, and the sample."""
    from pipeline.activations.scan import stream_responses

    counts = _empty_counts(job, plan, part, labels) if job.spec.concepts.labels and len(labels) > 1 else {}
    codes = {label: code for code, label in enumerate(labels)}
    total, chosen = len(job.source), _chosen(job)
    kept: list[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]] = []
    with job.reporter.step("concepts", "images") as advance:
        for batch in stream_responses(job.network, job.source, plan, _CHUNK):
            numbers = np.array([codes.get(label, -1) for label in batch.labels], np.int64)
            counts = {layer: of_layer.update(batch.responses[layer], numbers) for layer, of_layer in counts.items()}
            mask = chosen[batch.examples]
            kept.append((batch.keys[mask], numbers[mask], {layer: values[mask] for layer, values in batch.responses.items()}))
            advance(int(batch.examples[-1]) + 1, total)
    keys, numbers, responses = zip(*kept, strict=True)
    sampled = {layer: np.concatenate([of_chunk[layer] for of_chunk in responses]) for layer in responses[0]}
    return counts, _Sample(np.concatenate(keys), np.concatenate(numbers), sampled)


def _chosen(job: Job) -> np.ndarray:
    """Which examples are in the sample: bool (examples,)."""
    return sampled(len(job.source), job.spec.concepts.images)


def _empty_counts(job: Job, plan: ScanPlan, part: Part, labels: tuple[str, ...]) -> dict[str, LabelCounts]:
    """Counts of nothing for every layer, over grids from the scan."""
    bins, strongest = bins_for(len(labels), sum(len(plan.channels_of(layer)) for layer in job.layers)), part.of(Strongest)
    return {
        layer: LabelCounts.empty(grid_of(member.settled().sample, strongest[layer].heap.keys[:, 0], bins), labels)
        for layer, member in part.of(Distribution).items()
    }


def _from_labels(counts: LabelCounts, sample: _Sample, layer: str) -> Iterator[Agreement]:
    """How well each channel's response tells each label, over all images; by chance, over the sample."""
    responses = sample.responses[layer]
    precisions, areas = [], []
    for order in permutations_of(len(responses), responses.shape[1]):
        permuted = LabelCounts.empty(counts.edges, counts.labels).update(responses, sample.codes[order])
        precisions.append(best_of(permuted.average_precision()))
        areas.append(best_of(permuted.auc()))
    applies = sample.codes[:, np.newaxis] == np.arange(len(counts.labels))
    fits = share_that_fits(applies, strongest_images(responses))
    yield Agreement("labels", "average_precision", counts.labels, counts.average_precision(), np.concatenate(precisions), fits)
    yield Agreement("labels", "auc", counts.labels, counts.auc(), np.concatenate(areas), fits)


def _encoder(job: Job, given: EmbeddingsSpec) -> TextImageEncoder:
    """The encoder that the spec names, opened once, and ready to embed the job's images."""
    from pipeline.models.keras.hub_encoder import TextImageEncoder

    if TextImageEncoder not in job.prepared:
        encoder = job.prepared[TextImageEncoder] = TextImageEncoder.open(str(given.encoder))
        inputs = open_inputs(job.spec, network=encoder.network)
        job.prepared[Embedder] = Embedder(inputs.network, inputs.source)
    encoder = job.prepared[TextImageEncoder]
    return encoder


def _embedder(job: Job, given: EmbeddingsSpec) -> Embedder:
    if given.encoder is not None:
        _encoder(job, given)
        embedder: Embedder = job.prepared[Embedder]
        return embedder
    model = given.network()
    if model is None:
        return Embedder(job.of_image, job.source)
    inputs = open_inputs(job.spec.model_copy(update={"model": model}), network=job.prepared.get(Network))
    return Embedder(inputs.network, inputs.source)


@dataclass(frozen=True, eq=False)
class _Embedded:
    """The concepts, the sampled images' vectors, float64 (images, width), and the cosines: float64 (images, concepts)."""

    concepts: Concepts
    vectors: np.ndarray
    similarities: np.ndarray


def _name_concepts(given: EmbeddingsSpec, labels: Sequence[str] | None) -> bool:
    """Whether there are concepts; without them a layer embeds crops alone, and an encoder what `search --text` looks for."""
    return given.texts is not None or given.words is not None or bool(labels)


def _embedded(job: Job, given: EmbeddingsSpec, sample: _Sample, labels: Sequence[str]) -> _Embedded | None:
    """None where nothing needs the images' vectors."""
    if not _name_concepts(given, labels):
        use = "quality" if given.encoder is None else "searching by text"
        job.reporter.say(f"concepts.embeddings: no texts and no labels, so these name no channel; they serve {use} alone.")
        if given.encoder is None:
            return None
    if given.images is not None:
        vectors = of_keys(given.images, sample.keys.tolist())
    else:
        embedder = job.prepared.get(Embedder) or _embedder(job, given)
        with job.reporter.step("embeddings", "images") as advance:
            embeds = embedder.vectors(given.layer or EMBEDDING, _chosen(job), job.spec.data.batch, advance)
            vectors = finite(embeds, job.reporter.say)
    if given.encoder is not None:
        words = read_words(given.words) if given.words is not None else list(labels)
        texts = [given.prompt.replace("{}", word) for word in words]
        concepts = Concepts(tuple(words), _encoder(job, given).texts(texts) if texts else vectors[:0])
    elif given.texts is None:
        concepts = label_means(vectors, sample.codes, labels)
    else:
        texts, of_texts = read_vectors(given.texts, "text")
        concepts = Concepts(tuple(texts), of_texts)
    names = {"images": given.images or given.layer or given.encoder or "", "concepts": given.texts or given.words or "labels"}
    return _Embedded(concepts, vectors, concept_matrix(vectors, concepts, names))


def _channel_vectors(job: Job, sample: _Sample, embedded: _Embedded | None) -> dict[str, list[Any]]:
    """The columns of index/embeddings.parquet: what a text is compared with, where an encoder embeds texts."""
    columns: dict[str, list[Any]] = {name: [] for name in INDEX["embeddings"].names}
    given = job.spec.concepts.embeddings
    if embedded is not None and given is not None and given.encoder is not None:
        for layer in job.layers:
            channels = ScanPlan.of(job).channels_of(layer)
            vectors = winner_vectors(embedded.vectors, strongest_images(sample.responses[layer.name]))
            columns["layer"] += [layer.name] * len(channels)
            columns["channel"] += channels.tolist()
            columns["embedding"] += vectors.tolist()
    return columns


def _from_embeddings(measures: Sequence[Measure], embedded: _Embedded, sample: _Sample, layer: str) -> Iterator[Agreement]:
    """How similar each channel's responses are to each concept, over the sample; by chance, with its images permuted."""
    concepts, matrix = embedded.concepts, embedded.similarities
    if not concepts.names:
        return
    responses = sample.responses[layer].astype(np.float64)
    known = np.isfinite(responses)
    lowest = responses.min(axis=0, initial=np.finfo(np.float32).max, where=known)
    responses = np.where(known, responses, lowest)
    fits = share_that_fits(nearest_concepts(matrix), strongest_images(responses))
    for measure in measures:
        orders = permutations_of(*responses.shape)
        by_chance = np.concatenate([best_of(similarity(measure, matrix, responses[order], responses)) for order in orders])
        yield Agreement("embeddings", measure, concepts.names, similarity(measure, matrix, responses), by_chance, fits)


def _name_mosaics(job: Job) -> None:
    """Write the names into the mosaics that the stage `activations` has left."""
    reader = JobReader(job.folder)
    with job.reporter.step("names on mosaics", "layers") as advance:
        for done, layer in enumerate(job.layers, start=1):
            statistics, rows = reader.rows("channels", layer.name), reader.rows("mosaics", layer.name)
            tied = {row["channel"] for row in statistics.select(["channel", "ties"]).to_pylist() if row["ties"]}
            named = {
                number: (row["concept"], f"{row['measure'].replace('_', ' ')} {row['value']:.2g}")
                for number, row in reader.names(layer.name).items()
            }
            names = {number: (*named.get(number, ("", "")), number in tied) for number in rows["channel"].to_pylist()}
            name_mosaics(job.folder, layer.name, job.spec.activations.top_k, rows, names)
            advance(done, len(job.layers))


def _quality(job: Job, plan: ScanPlan) -> dict[str, list[Any]]:
    """The columns of index/quality.parquet, from the crops of each channel's winners."""
    given = job.spec.concepts.embeddings
    own = given is None or given.images is not None
    embedder = Embedder(job.of_image, job.source) if own or given is None else job.prepared.get(Embedder) or _embedder(job, given)
    layer_of = job.layers[-1].name if own or given is None else given.layer or EMBEDDING
    fit = Fit(embedder.network.input_shape[0], embedder.network.input_shape[1], job.fit.mode)
    columns: dict[str, list[Any]] = {name: [] for name in INDEX["quality"].names}
    reader = JobReader(job.folder)
    with job.reporter.step("quality", "layers") as advance:
        for done, layer in enumerate(job.layers, start=1):
            table = reader.pictures("crops", layer.name, ("channel", "image"))
            rows = [] if table is None else table.to_pylist()
            pictures = (decode_png(row["image"]["bytes"]) for row in rows)
            vectors = finite(embedder.of_pictures(layer_of, pictures, fit, job.spec.data.batch), job.reporter.say)
            of_rows, numbers = np.array([row["channel"] for row in rows], np.int64), plan.channels_of(layer)
            winners = [normalised(vectors[of_rows == number]) if number in of_rows else np.zeros((0, 1)) for number in numbers]
            values, nearest = redundancy(winners)
            columns["layer"] += [layer.name] * len(numbers)
            columns["channel"] += numbers.tolist()
            columns["clarity"] += without_nan(np.array([clarity(of_channel) for of_channel in winners]))
            columns["polysemanticity"] += without_nan(np.array([polysemanticity(of_channel) for of_channel in winners]))
            columns["redundancy"] += without_nan(values)
            columns["alike"] += [None if position < 0 else int(numbers[position]) for position in nearest]
            advance(done, len(job.layers))
    return columns


def _dissected(job: Job, plan: ScanPlan, examples: np.ndarray) -> tuple[int, tuple[str, ...], _Overlaps]:
    """How many images have masks, the concepts, and by layer the overlaps with own masks and with those of other images."""
    given = job.spec.concepts.masks
    if given is None:
        return 0, (), {}
    masks, (height, width, _) = open_masks(given.source, given.names), job.network.input_shape
    fields = solve_fields(job.network, job.layers, FieldCache.of_job(job))
    matrices = {}
    for layer in job.layers:
        grid = MapGrid.of(fields[layer.name], height, width)
        sides = zip((height, width), layer.shape[:2], grid.origin, grid.stride, strict=True)
        rows, cols = (
            interpolation((grid_points(side, given.step) - origin) / stride - 0.5, units) for side, units, origin, stride in sides
        )
        matrices[layer.name] = rows, cols
    channels = {layer.name: plan.channels_of(layer) for layer in job.layers}
    dissection = Dissection(job.of_image, job.source, job.fit, masks, examples, given.step, channels, matrices)
    with job.reporter.step("masks", "images") as advance:
        count, overlaps = dissection.run(advance)
    if count < 2:
        raise WrongSpec(
            f"{count} of {len(examples):,} images have a mask in {given.source!r}. Its files must be named as the images."
        )
    areas = next(iter(overlaps.values()))[0].concepts
    absent = [name for name, area in zip(masks.names, areas, strict=True) if not area]
    if len(absent) == len(masks.names):
        raise WrongSpec(
            f"the masks in {given.source!r} hold none of the {len(absent)} concepts that are named. The numbers in masks must be "
            "those of the names, and 0 where there is no concept."
        )
    if absent:
        job.reporter.say(
            f"concepts.masks: no image has {', '.join(absent[:5])}{' …' if len(absent) > 5 else ''} ({len(absent)} in all)"
        )
    return count, masks.names, overlaps


def _from_masks(names: tuple[str, ...], own: Overlaps, permuted: Overlaps) -> Iterator[Agreement]:
    yield Agreement("masks", "iou", names, own.iou(), best_of(permuted.iou()), own.inside(), DETECTS)


STAGE = Stage(
    "concepts",
    run,
    table=ConceptsSpec,
    check=check,
    reads=("activations",),
    index=("concepts", "quality", "embeddings"),
    section=Section("names of channels"),
)
