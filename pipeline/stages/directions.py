"""The stage `directions`: directions in the space of a layer's channels, each set of them a layer for a later job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.attribution.job_targets import check_job_targets, classes_of, targets_of_job
from pipeline.directions.concept_vectors import FEWEST, Counterexamples, EmbeddedImages, embed, set_size
from pipeline.directions.fitting import SetPlan, check_size, fit_directions, require_scikit_learn, unsettled
from pipeline.directions.results import direction_columns
from pipeline.directions.sampling import BATCH, SamplePlan, VectorSample, sample_vectors, vectors_at
from pipeline.directions.splitting import TwoClusters, split_set, two_clusters
from pipeline.directions.tcav import compare_scores
from pipeline.errors import UnknownName, WrongSpec
from pipeline.job import Job
from pipeline.models.network import LayerInfo
from pipeline.models.selection import select_among
from pipeline.progress import counted
from pipeline.report.pictures import direction_sets
from pipeline.report.section import Section
from pipeline.scrambling import scrambled
from pipeline.sources.picking import Picked, check_files, pick_readable, read_picked
from pipeline.sources.readable import ReadableImages
from pipeline.sources.registry import open_source
from pipeline.sources.source import Source
from pipeline.spec.directions import DirectionsSpec, ImageSetSpec
from pipeline.stages.stage import Outcome, Stage
from pipeline.store.columns import append_row
from pipeline.store.direction_sets import FOLDER, DirectionSet
from pipeline.store.files import file_name
from pipeline.store.tables import INDEX, read_index, write_index

if TYPE_CHECKING:
    from pipeline.attribution.layer_gradients import TargetGradients

_TRAINED = ("topk", "jumprelu")
_TARGETS = "directions.targets"
_ABOUT_CONCEPTS = ("concepts", "against", "runs", "images", "targets")  # keys that no training depends on
_UNSETTLED = 0.02  # of a vector's strongest response: further off the least squares, the stage says so
_LOOKED_AT = 10_000  # examples, in which those of a label or a class are looked for


def run(job: Job) -> Outcome:
    """Sample vectors, find directions in them, and write directions/ and index/directions.parquet.

    Raises: WrongSpec, for a sample that is too small for a method; StoreFailed.
    """
    spec, layers = job.spec.directions, chosen_layers(job)
    plan = SamplePlan(spec.vectors, spec.per_image, spec.seed)
    samples: dict[str, VectorSample] = {}
    if spec.methods or spec.split:
        with job.reporter.step("directions: sample", "images") as advance:
            samples = sample_vectors(job.network, layers, job.readable, plan, advance)
    columns: dict[str, list[Any]] = {name: [] for name in INDEX["directions"].names}
    sets: list[DirectionSet] = []
    number = len(layers) * len(spec.methods)
    with job.reporter.step("directions", "sets") as advance:
        for layer in layers:
            for name in spec.methods:
                advance(len(sets), number, f"{name} of {layer.name}")
                sets.append(_found(job, SetPlan(layer.name, name, job.digests["model"], spec.seed), samples[layer.name]))
                path = sets[-1].save(job.folder)
                for column, values in direction_columns(sets[-1], samples[layer.name].vectors, path).items():
                    columns[column].extend(values)
            split = _split(job, layer) if spec.split else []
            if split:
                sets.append(split_set(layer.name, split, job.digests["model"]))
                path = sets[-1].save(job.folder)
                for column, values in direction_columns(sets[-1], samples[layer.name].vectors, path, split).items():
                    columns[column].extend(values)
        advance(number, number)
    concepts = _concepts(job, layers)
    for directions, vectors in concepts.sets:
        sets.append(directions)
        for column, values in direction_columns(directions, vectors, directions.save(job.folder)).items():
            columns[column].extend(values)
    for name, table in {"directions": columns, "concept_vectors": concepts.vectors, "tcav": concepts.scores}.items():
        write_index(job.folder, name, table)
    kept = {job.folder / path for path in columns["path"]}
    for file in [*(job.folder / FOLDER).glob("*.npz"), *(job.folder / "parts" / "directions").glob("*.npz")]:
        if file not in kept:
            file.unlink()
    taken = {name: len(sample.vectors) for name, sample in samples.items()}
    count = f"{counted(len(columns['layer']), 'direction')} in {counted(len(sets), 'set')}"
    return {
        "layers": [directions.layer for directions in sets],
        "vectors": taken,
        "nans": {name: sample.left_out for name, sample in samples.items() if sample.left_out},
        **concepts.outcome,
        "summary": "; ".join([f"{count} of up to {max(taken.values()):,} vectors" if taken else count, *concepts.words]),
    }


@dataclass(frozen=True, eq=False)
class _ConceptResults:
    """The concept vectors of a job with what their images' vectors were, the columns of both tables, and what run.json says."""

    sets: list[tuple[DirectionSet, np.ndarray]] = field(default_factory=list)
    vectors: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in INDEX["concept_vectors"].names})
    scores: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in INDEX["tcav"].names})
    outcome: Outcome = field(default_factory=dict)
    words: list[str] = field(default_factory=list)


def _concepts(job: Job, layers: Sequence[LayerInfo]) -> _ConceptResults:
    """Concept vectors of every layer, and the tests of what depends on them."""
    spec, results = job.spec.directions, _ConceptResults()
    if not spec.concepts:
        return results
    sets = {name: _embedded(job, layers, given, (name, spec.images)) for name, given in spec.concepts.items()}
    against = None if spec.against is None else ImageSetSpec(source=spec.against)
    title = "the data set" if against is None else "counterexamples"
    pool = _embedded(job, layers, against, (title, 2 * spec.runs * spec.images))
    size = set_size(sets, pool, spec.images)
    sets = {name: images.first(size) for name, images in sets.items()}
    others = Counterexamples(pool, size, spec.runs, spec.seed)
    tested, left_out = _tested(job, layers)
    tests = len(layers) * len(sets) * len(tested)
    with job.reporter.step("concept vectors", "sets") as advance:
        for layer in layers:
            at_random = [others.vectors_of(others.random_set(number), layer.name) for number in range(spec.runs)]
            by_chance = np.stack([identity.vectors for identity in at_random])
            for name, images in sets.items():
                advance(len(results.sets), len(layers) * len(sets), f"{name} at {layer.name}")
                runs = others.vectors_of(images, layer.name)
                directions = runs.mean_set(layer.name, name, job.digests["model"])
                results.sets.append((directions, np.concatenate([images.vectors[layer.name], pool.vectors[layer.name]])))
                about = (directions.layer, layer.name, name)
                sources = spec.concepts[name].words, spec.against or job.spec.data.source
                accuracies = runs.accuracies.mean(), np.mean([identity.accuracies for identity in at_random])
                path = f"{FOLDER}/{file_name(directions.layer)}.npz"
                append_row(results.vectors, (*about, *sources, size, spec.runs, *accuracies, runs.agreement, path))
                for logits, target in tested:
                    gradients = np.stack(target.by_layer[layer.name])
                    test = compare_scores(gradients, runs.vectors, by_chance, tests)
                    identity = (logits, target.number, target.title, len(gradients), test.scores.mean(), test.random.mean())
                    verdict = (test.p, test.corrected, test.chance, test.significant)
                    append_row(results.scores, (*about, *identity, test.scores.tolist(), test.random.tolist(), *verdict))
    significant = sum(results.scores["significant"])
    results.outcome.update(concepts=list(sets), concept_images=size, left_out=left_out)
    results.words.append(f"{counted(len(results.sets), 'concept vector')} of {size} images each")
    if spec.targets:
        results.words.append(f"{significant} of {tests} tests significant")
    return results


def _tested(job: Job, layers: Sequence[LayerInfo]) -> tuple[list[tuple[str | None, TargetGradients]], list[str]]:
    """What is tested, by output, and what has too few images for it, in words."""
    from pipeline.attribution.layer_gradients import target_gradients

    spec, left_out = job.spec.directions, list[str]()
    tested: list[tuple[str | None, TargetGradients]] = []
    for output, of_output in job.outputs().items() if spec.targets else ():
        classes = classes_of(of_output, _TARGETS)
        targets = targets_of_job(of_output, classes, spec.targets)
        images = pick_readable(job.source, job.fit, _order(len(job.source), spec.seed)[:_LOOKED_AT], job.passed_over)
        names = [layer.name for layer in layers]
        with job.reporter.step("concepts: gradients", "images") as advance:
            total = min(len(job.source), _LOOKED_AT)
            counted = _counting(images, lambda done, total=total: advance(done, total))  # type: ignore[misc]
            for target in target_gradients(of_output.network, names, (classes, targets), counted, spec.images):
                if target.images < FEWEST:
                    left_out.append(f"{target.title}: {target.images} images")
                else:
                    tested.append((output, target))
    if left_out:
        job.reporter.say(f"directions.targets: no test of {'; '.join(left_out[:5])} (a test needs {FEWEST}).")
    if spec.targets and not tested:
        raise WrongSpec(
            f"{_TARGETS}: none has {FEWEST} images of its own among the {min(len(job.source), _LOOKED_AT):,} looked at. Name "
            'other targets, or "predicted" for the classes that the network gives the images.'
        )
    return tested, left_out


def _counting(images: Iterable[Picked], advance: Callable[[int], None]) -> Iterator[Picked]:
    for done, image in enumerate(images):
        advance(done)
        yield image


def _order(count: int, seed: int) -> np.ndarray:
    """Examples in the order of their scrambled numbers."""
    return np.argsort(scrambled(scrambled(np.array([seed]))[0] ^ np.arange(count, dtype=np.uint64)), kind="stable")


def _embedded(job: Job, layers: Sequence[LayerInfo], given: ImageSetSpec | None, which: tuple[str, int]) -> EmbeddedImages:
    """The first images of a set, in the order of their scrambled numbers, as layers see them.

    Args:
        which: the set's title, and the most images to take of it.
    """
    title, most = which
    with job.reporter.step(f"images of {title}", "images") as advance:
        count, images = _images_of(job, given)
        total = min(count, most)
        return embed(job.of_image, layers, islice(images, most), lambda done: advance(done, total))


def _images_of(job: Job, given: ImageSetSpec | None) -> tuple[int, Iterator[np.ndarray]]:
    """The images of a set, as the network is given them, without its other inputs; and how many they are at most."""
    if given is not None and given.files:
        return len(given.files), (read_picked(path, job.source.decoder, job.fit) for path in given.files)
    source = job.source if given is None or given.source is None else _opened(job, given.source)
    order, label = _order(len(source), job.spec.directions.seed), None if given is None else given.label
    if label is not None:
        order = order[:_LOOKED_AT]
    return len(order), _images_with(ReadableImages(source, job.fit, job.passed_over), order, label, job.network.input_shape[2])


def _images_with(images: ReadableImages, order: np.ndarray, label: str | None, bands: int) -> Iterator[np.ndarray]:
    """The first bands of images in some order, of those with a label where one is given."""
    for first in range(0, len(order), BATCH):
        batch = [int(example) for example in order[first : first + BATCH]]
        read = {image.example: image for image in images.of(batch)}
        yield from (
            read[example].given[..., :bands] for example in batch if example in read and label in (None, read[example].label)
        )


def _opened(job: Job, named: str) -> Source:
    """A set's own source, whole images. Raises: any WrongSpec."""
    table = {"source": named, "image": None, "label": None, "labels": None, "limit": None, "window": None}
    return open_source(job.spec.data.model_copy(update=table), job.fit, True, job.network.input_shape[2])


def _found(job: Job, asked: SetPlan, sample: VectorSample) -> DirectionSet:
    if asked.method not in _TRAINED:
        directions = fit_directions(asked, sample.vectors)
        off = unsettled(directions, sample.vectors) if asked.method == "nmf" else 0.0
        if off > _UNSETTLED:
            job.reporter.say(
                f"directions: {directions.layer}: components are so alike that responses are {off:.0%} off the least squares for "
                "one vector in twenty. Name fewer, or another method."
            )
        return directions
    from pipeline.ascent.checkpoint import Checkpoint
    from pipeline.directions.autoencoder import Training, train_directions

    spec = job.spec.directions
    parts = job.folder / "parts" / "directions"
    checkpoint = Checkpoint(parts / f"{training_key(job, asked)}.npz", spec.checkpoint)
    with job.reporter.step(f"{asked.name} of {asked.layer}", "steps") as advance:
        return train_directions(
            asked,
            sample.vectors,
            Training(spec.sparsity, spec.steps),
            checkpoint,
            lambda steps, loss: advance(steps, spec.steps, f"loss {loss:.4g}"),
        )


def _split(job: Job, layer: LayerInfo) -> list[TwoClusters]:
    """The channels of a layer whose winners fall into two clusters that lie furthest apart, by channel; none without any."""
    table = read_index(job.folder, "activations").select(["layer", "channel", "rank", "example", "row", "col"]).to_pylist()
    winners = [row for row in table if row["layer"] == layer.name]
    at: dict[int, list[int]] = {}
    for row in winners:
        at.setdefault(row["example"], []).append(row["row"] * layer.shape[1] + row["col"])
    vectors = vectors_at(job.network, layer, job.readable, {example: sorted(set(own)) for example, own in at.items()})
    by_channel: dict[int, dict[int, np.ndarray]] = {}
    for row in winners:
        vector = vectors.get((row["example"], row["row"] * layer.shape[1] + row["col"]))
        if vector is not None:
            by_channel.setdefault(row["channel"], {})[row["rank"]] = vector
    clusters = [two_clusters(channel, own, job.spec.directions.seed) for channel, own in by_channel.items()]
    furthest = sorted((pair for pair in clusters if pair is not None), key=lambda pair: (-pair.separation, pair.channel))
    return sorted(furthest[: job.spec.directions.split], key=lambda pair: pair.channel)


def training_key(job: Job, asked: SetPlan) -> str:
    """The name of a training's checkpoint: of another network, other data or another spec it is another one."""
    from pipeline.sources.records import digest_of

    table = job.spec.directions.model_dump(mode="json", exclude={"layers", "methods", "checkpoint", *_ABOUT_CONCEPTS})
    return digest_of(job.digests, asked.layer, asked.name, table)


def chosen_layers(job: Job) -> list[LayerInfo]:
    """The layers whose directions are found. Raises: UnknownLayer."""
    return select_among(job.layers, job.spec.directions.layers, "directions.layers")


def check(job: Job) -> None:
    """Raises: WrongSpec, UnknownLayer; UnusableModel, without scikit-learn."""
    spec = job.spec.directions
    for layer in chosen_layers(job):
        if layer.channels < 2:
            raise WrongSpec(f"directions.layers: {layer.name!r} has one channel, and so one direction. Name other layers.")
        if layer.base is not None:
            raise WrongSpec(f"directions.layers: {layer.name!r} are directions themselves. Name {layer.base!r}.")
    for name in spec.methods:
        asked = SetPlan("", name, "")
        if asked.method in _TRAINED and spec.sparsity > asked.count:
            raise WrongSpec(f"directions.sparsity = {spec.sparsity}, but {name!r} has {asked.count} directions. Lower it.")
    if not (spec.methods or spec.split or spec.concepts):
        raise WrongSpec(
            "directions: there is nothing to find. Name methods, split, or sets of images: [directions.concepts.NAME]."
        )
    if not spec.concepts and (spec.targets or spec.against is not None):
        key = _TARGETS if spec.targets else "directions.against"
        raise WrongSpec(f"{key} is about concepts. Name a set of images, [directions.concepts.NAME], or leave it out.")
    for name, given in spec.concepts.items():
        check_files(given.files, f"directions.concepts.{name}")
        if given.label is not None and job.source.labels is not None and given.label not in job.source.labels:
            raise UnknownName.among(given.label, job.source.labels, where=f"a label of the data (directions.concepts.{name})")
        _check_source(job, given.source, f"directions.concepts.{name}.source")
    _check_source(job, spec.against, "directions.against")
    for output in job.outputs().values() if spec.targets else ():
        from pipeline.attribution.explanation_graph import check_explanations

        check_job_targets(output, classes_of(output, _TARGETS), spec.targets)
        check_explanations(output.network, [layer.name for layer in chosen_layers(job)])
    if spec.split and "activations" not in job.spec.stages:
        raise WrongSpec('directions.split takes the winners of channels apart: add "activations" to stages, or leave it out.')
    plan = SamplePlan(spec.vectors, spec.per_image, spec.seed)
    for layer in chosen_layers(job):
        for name in spec.methods:
            check_size(SetPlan(layer.name, name, ""), plan.size(layer, len(job.source)), layer.channels)
    require_scikit_learn()


def _check_source(job: Job, named: str | None, key: str) -> None:
    """Raises: any WrongSpec, in words of the key."""
    try:
        _ = None if named is None else _opened(job, named)
    except WrongSpec as error:
        raise type(error)(str(error.args[0]).replace("data.source", key)) from None


STAGE = Stage(
    "directions",
    run,
    table=DirectionsSpec,
    check=check,
    reads=("activations",),  # whose winners `split` takes apart
    index=("directions", "concept_vectors", "tcav"),
    folders=(FOLDER,),
    section=Section("directions in the space of a layer's channels", {"directions": direction_sets}),
)
