"""The stage `directions`: directions in the space of a layer's channels, each set of them a layer for a later job."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.directions.fitting import SetPlan, fit_directions, require_scikit_learn
from pipeline.directions.results import direction_columns
from pipeline.directions.sampling import SamplePlan, VectorSample, sample_vectors, vectors_at
from pipeline.directions.splitting import TwoClusters, split_set, two_clusters
from pipeline.errors import WrongSpec
from pipeline.job import Job
from pipeline.models.network import LayerInfo
from pipeline.models.selection import select_among
from pipeline.report.pictures import direction_sets
from pipeline.report.section import Section
from pipeline.spec.directions import DirectionsSpec
from pipeline.stages.stage import Outcome, Stage
from pipeline.store.direction_sets import FOLDER, DirectionSet
from pipeline.store.tables import INDEX, read_index, write_index

_TRAINED = ("topk", "jumprelu")


def run(job: Job) -> Outcome:
    """Sample vectors, find directions in them, and write directions/ and index/directions.parquet.

    Raises: WrongSpec, for a sample that is too small for a method; StoreFailed.
    """
    spec, layers = job.spec.directions, chosen_layers(job)
    plan = SamplePlan(spec.vectors, spec.per_image, spec.seed)
    with job.reporter.step("directions: sample", "images") as advance:
        samples = sample_vectors(job.network, layers, (job.source, job.fit), plan, advance)
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
    write_index(job.folder, "directions", columns)
    kept = {job.folder / path for path in columns["path"]}
    for file in [*(job.folder / FOLDER).glob("*.npz"), *(job.folder / "parts" / "directions").glob("*.npz")]:
        if file not in kept:
            file.unlink()
    vectors = {name: len(sample.vectors) for name, sample in samples.items()}
    return {
        "layers": [directions.layer for directions in sets],
        "vectors": vectors,
        "nans": {name: sample.left_out for name, sample in samples.items() if sample.left_out},
        "summary": f"{len(columns['layer']):,} directions in {len(sets)} sets of up to {max(vectors.values()):,} vectors",
    }


def _found(job: Job, asked: SetPlan, sample: VectorSample) -> DirectionSet:
    if asked.method not in _TRAINED:
        return fit_directions(asked, sample.vectors)
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
    vectors = vectors_at(job.network, layer, (job.source, job.fit), {example: sorted(set(own)) for example, own in at.items()})
    by_channel: dict[int, dict[int, np.ndarray]] = {}
    for row in winners:
        vector = vectors.get((row["example"], row["row"] * layer.shape[1] + row["col"]))
        if vector is not None:
            by_channel.setdefault(row["channel"], {})[row["rank"]] = vector
    clusters = [two_clusters(channel, own, job.spec.directions.seed) for channel, own in by_channel.items()]
    furthest = sorted((one for one in clusters if one is not None), key=lambda one: (-one.separation, one.channel))
    return sorted(furthest[: job.spec.directions.split], key=lambda one: one.channel)


def training_key(job: Job, asked: SetPlan) -> str:
    """The name of a training's checkpoint: of another network, other data or another spec it is another one."""
    from pipeline.sources.records import digest_of

    table = job.spec.directions.model_dump(mode="json", exclude={"layers", "methods", "checkpoint"})
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
    if spec.split and "activations" not in job.spec.stages:
        raise WrongSpec('directions.split takes the winners of channels apart: add "activations" to stages, or leave it out.')
    require_scikit_learn()


STAGE = Stage(
    "directions",
    run,
    table=DirectionsSpec,
    check=check,
    reads=("activations",),  # whose winners `split` takes apart
    index=("directions",),
    folders=(FOLDER,),
    section=Section("directions in the space of a layer's channels", {"directions": direction_sets}),
)
