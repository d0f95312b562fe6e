"""The stage `gradcam`: explains the images picked, batch by batch; writes pictures, mosaics and the index."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.attribution.job_targets import check_job_targets, classes_of, targets_of_job
from pipeline.attribution.methods import METHODS, method_named
from pipeline.attribution.methods.expected_gradients import EXPECTED_GRADIENTS
from pipeline.attribution.methods.method import MethodSettings
from pipeline.attribution.methods.relevance import relevance
from pipeline.attribution.plan import MERGED, ExplainPlan
from pipeline.attribution.targets import Classes, TargetOfOutput
from pipeline.errors import UnusableData, UnusableModel, WrongSpec, require_module
from pipeline.job import Job
from pipeline.models.network import LOGITS, TOKENS, LayerInfo, UnreadableLayer
from pipeline.models.selection import select_layers
from pipeline.progress import counted
from pipeline.report.evidence import evidence
from pipeline.report.pictures import checks, explanations
from pipeline.report.section import Section
from pipeline.sources.picking import Picked, check_picks, count_picks, pick, pick_readable
from pipeline.spec.gradcam import GradcamSpec, ObjectsSpec
from pipeline.stages.stage import Outcome, Stage
from pipeline.store.files import file_name, write_bytes
from pipeline.store.tables import write_index

if TYPE_CHECKING:
    from pipeline.attribution.explainer import Explained
    from pipeline.attribution.map_files import MapFiles
    from pipeline.attribution.objects import ObjectMask

_PARTS = "parts/gradcam"
_FEWEST = 5  # images of which all having one best class is odd


def check(job: Job) -> None:
    """Find what cannot be explained before work starts. Raises: any WrongSpec."""
    check_picks(job.source, job.spec.gradcam, "gradcam")
    if "clusters" in job.spec.gradcam.aggregate:
        require_module("sklearn", 'gradcam.aggregate = "clusters" needs scikit-learn', WrongSpec)
    try:
        outputs = job.outputs()
        for output in outputs.values():
            output.count_classes()
    except UnusableModel as error:
        raise UnusableModel(f"{error.args[0]} Or leave gradcam out of stages; the others need no logits.") from None
    for output in outputs.values():
        _check_output(output)


def _check_output(job: Job) -> None:
    from pipeline.attribution.explanation_graph import check_explanations

    spec = job.spec.gradcam
    layers = [layer.name for layer in _layers(job)]
    for through in spec.through:
        (layer,) = select_layers(job.network, [through.layer])[:1]
        if through.channel >= layer.channels:
            last = layer.channels - 1
            raise WrongSpec(f"gradcam.through: {through.layer!r} has no channel {through.channel}; they run from 0 to {last}.")
    check_job_targets(job, classes_of(job), spec.targets)
    _objects(job, classes_of(job))
    needs = [quantity for name in spec.methods for quantity in method_named(name).needs("")]
    check_explanations(job.network, [*layers, *(through.layer for through in spec.through)], needs)


def explain(job: Job) -> Outcome:
    """Explain the images picked, each output of the network in turn.

    Where the maps are to be stored, finished batches stay in parts/gradcam until all are done; a stage that was interrupted
    goes on after them.

    Raises: StoreFailed; UnusableData, for an image that cannot be read.
    """
    from pipeline.attribution.explained_parts import remove_parts
    from pipeline.attribution.map_files import MapFiles, remove_maps
    from pipeline.attribution.pictures import ExplanationPictures

    spec = job.spec.gradcam
    columns: dict[str, dict[str, list[Any]]] = {}
    outcomes: dict[str | None, Outcome] = {}
    ExplanationPictures.clear(job.folder / "mosaics" / "gradcam")
    plans = {name: _plan(output, name) for name, output in job.outputs().items()}
    keys = [key for plan in plans.values() for key in plan.keys]
    with MapFiles(job.folder, keys) if spec.arrays else contextlib.nullcontext() as maps:
        for name, output in job.outputs().items():
            outcomes[name], tables = _explain_output(output, name, plans[name], maps)
            for table, rows in tables.items():
                whole = columns.setdefault(table, {column: [] for column in rows})
                for column, values in rows.items():
                    whole[column] += values
    if not spec.arrays:
        remove_maps(job.folder)
    for table, whole in columns.items():
        write_index(job.folder, table, whole)
    remove_parts(job.folder / _PARTS)
    return _joined(outcomes)


def _joined(outcomes: Mapping[str | None, Outcome]) -> Outcome:
    """The entry of run.json: that of the one output; of several, what they share, and each by its name."""
    first = next(iter(outcomes.values()))
    if None in outcomes:
        return first
    layers = list(dict.fromkeys(layer for outcome in outcomes.values() for layer in outcome["layers"]))
    return {
        **first,
        "maps": sum(outcome["maps"] for outcome in outcomes.values()),
        "layers": layers,
        "warnings": [f"{name}: {warning}" for name, outcome in outcomes.items() for warning in outcome["warnings"]],
        "outputs": {
            name: {key: outcome[key] for key in outcome if key not in ("summary", "methods")}
            for name, outcome in outcomes.items()
        },
        "summary": (
            f"{counted(first['images'], 'image')} explained at {', '.join(layers)}, "
            f"for the outputs {', '.join(map(str, outcomes))}"
        ),
    }


def _plan(job: Job, name: str | None) -> ExplainPlan:
    """The targets, layers and methods by which one output is explained."""
    from pipeline.attribution.aggregates.channels import evidence_at

    spec, layers = job.spec.gradcam, [layer.name for layer in _layers(job)]
    targets = targets_of_job(job, classes_of(job), spec.targets)
    targets = targets if name is None else tuple(TargetOfOutput(target, name) for target in targets)
    batch = min(spec.batch, count_picks(job.source, spec))
    methods = [method_named(method) for method in spec.methods]
    plan = ExplainPlan.of(methods, layers, targets, batch)
    references = _references(job) if any(EXPECTED_GRADIENTS.name in name for name in spec.methods) else None
    settings = MethodSettings(
        spec.steps,
        spec.baseline,
        spec.samples or 0,
        spec.noise,
        spec.patch,
        spec.segments,
        spec.channels or 0,
        references,
    )
    weights = not {"randomisation", "independent"}.isdisjoint(spec.sanity)
    through = [
        (relevance(name, through.layer, through.channel), f"{through.layer}:{through.channel}")
        for name in spec.methods
        if name.startswith("lrp_")
        for through in spec.through
    ]
    plan = replace(plan, methods=(*plan.methods, *through))
    channels = {layer: evidence_at(layer) for layer in layers} if "channels" in spec.aggregate else {}
    return replace(plan, settings=settings, with_weights=weights, sides=spec.evidence, merged=spec.merge, channels=channels)


def _references(job: Job) -> np.ndarray:
    """Images of the data set at random, the same ones every time; those that cannot be read are passed over."""
    order = np.random.default_rng(0).permutation(len(job.source))
    picked = pick_readable(job.source, job.fit, order, job.passed_over)
    images = [image.given for image in islice(picked, job.spec.gradcam.references)]
    if not images:
        raise UnusableData("expected gradients start from images of the data set, of which none can be read. Mend the data.")
    return np.stack(images).astype(np.float32)


def _explain_output(
    job: Job, name: str | None, plan: ExplainPlan, maps: MapFiles | None
) -> tuple[Outcome, dict[str, dict[str, list[Any]]]]:
    """Explain one output. Returns: its entry in run.json, and the columns of the tables by name."""
    from pipeline.attribution.aggregates import AGGREGATES
    from pipeline.attribution.aggregates.clusters import suspicions
    from pipeline.attribution.aggregates.subjects import Subjects
    from pipeline.attribution.explained_parts import ExplainedParts
    from pipeline.attribution.explainer import Explainer
    from pipeline.attribution.gaps import gaps_of
    from pipeline.attribution.pictures import ExplanationPictures
    from pipeline.attribution.results import ExplainedOutput, ExplanationResults, spread_evenly
    from pipeline.attribution.sanity import CHECKS, SanityCheck
    from pipeline.attribution.sanity.metrics import MapMetrics, verdict

    spec, classes = job.spec.gradcam, classes_of(job)
    layers = [layer.name for layer in _layers(job)]
    total = count_picks(job.source, spec)
    explainer = Explainer.of(job.network, plan)
    whole = job.folder / "mosaics" / "gradcam"
    below = "" if name is None else file_name(name)
    folder = whole / below if below else whole
    rows = [*layers, MERGED] if plan.to_merge else layers
    pictures = ExplanationPictures(folder, rows, job.fit, bands=job.shown_bands, sides=spec.evidence)
    most = total if spec.pictures == "all" else spec.pictures
    output = ExplainedOutput(classes, plan.targets, name, spread_evenly(most, total))
    results = ExplanationResults(output, job.fit, explainer.graph.guide, pictures, maps)
    subjects = Subjects(plan.targets, name)
    aggregates = {table: make(subjects) for table, make in (AGGREGATES[key] for key in spec.aggregate)}
    metrics = MapMetrics(explainer, _objects(job, classes))
    checks: dict[str, SanityCheck] = {
        key: metrics if key == "metrics" else make(explainer) for key, make in CHECKS.items() if key in spec.sanity
    }
    parts = ExplainedParts(job.folder / _PARTS, _depends(job, name)) if spec.arrays else None
    warnings = _warnings_of_layers(job)
    for warning in warnings:
        job.reporter.say(f"warning: {warning}")
    # A batch is drawn and indexed while the network has the next.
    with job.reporter.step("gradcam", "images") as advance, ThreadPoolExecutor(1, "drawing") as drawing:
        drawn, done = drawing.submit(lambda: None), 0
        for batch in explainer.batches(pick(job.source, job.fit, spec, passed_over=job.passed_over)):
            explained = parts.explain(explainer, batch) if parts else explainer.explain(batch)
            if not done:
                warnings += _warnings_of_classes(job, explained, classes)
            drawn.result()
            drawn = drawing.submit(results.add, explained)
            for sanity in checks.values():
                sanity.add(explained)
            for aggregate in aggregates.values():
                aggregate.add(explained)
            done += len(batch.picked)
            advance(done, total)
        drawn.result()
    pictures.close()
    tables = {"classification": results.classification, "attributions": results.attributions}
    for key, sanity in checks.items():
        tables[key] = sanity.columns
        write_bytes(whole / "trust" / f"{f'{below}-' if below else ''}{key}.png", sanity.plot())
    tables |= {table: aggregate.columns() for table, aggregate in aggregates.items()}
    suspicious = suspicions(tables["evidence_clusters"]) if "evidence_clusters" in tables else []
    for line in suspicious:
        job.reporter.say(line)
    trust = verdict(tables["metrics"]) if tables.get("metrics", {}).get("value") else []
    for line in trust:
        job.reporter.say(line)
    if metrics.without_object:
        job.reporter.say(
            f"gradcam.objects: pointing and energy_inside leave out {len(metrics.without_object):,} of "
            f"{counted(len(results.keys), 'image')}, such as {next(iter(metrics.without_object))!r}: no object, or none that the "
            "network was shown."
        )
    guide = explainer.graph.guide
    gaps, missed = gaps_of(results.attributions, spec, job.spec.model.inputs)
    blanks = results.blanks.sentences()
    for line in [*missed, *blanks]:
        job.reporter.say(line)
    if results.nans:
        nans = counted(results.nans, "logit")
        job.reporter.say(f"NaN or infinity: {nans}. Images that have any are neither classified nor explained.")
    return {
        "images": len(results.keys),
        "drawn": results.drawn,
        "maps": len(results.attributions["digest"]),
        "layers": layers,
        "methods": {key: method_named(key).title for key in spec.methods},
        "warnings": warnings,
        "rule": guide.rule if guide else None,
        "replaced": guide.replaced if guide else None,
        **({"gaps": gaps} if gaps else {}),
        **({"blanks": blanks} if blanks else {}),
        **({"trust": trust} if trust else {}),
        **({"suspicions": suspicious} if suspicious else {}),
        **({"without_object": len(metrics.without_object)} if spec.objects else {}),
        **({"nans": {LOGITS: results.nans}} if results.nans else {}),
        "summary": f"{counted(len(results.keys), 'image')} explained at {', '.join(layers)}",
    }, tables


def _depends(job: Job, output: str | None) -> list[Any]:
    """The settings and weights that the maps of one output depend on, beside the images."""
    spec = job.spec.gradcam.model_dump(mode="json", exclude={"pictures", "sanity", "arrays"})
    head = {key: setting.value for key, setting in job.network.settings.items()}
    return [job.digests, job.file_digests, spec, output, head]


def _warnings_of_classes(job: Job, first: Explained, classes: Classes) -> list[str]:
    """Warnings about the classes of the first batch, which are printed at once."""
    if classes.head.kind not in ("softmax", "sigmoid"):
        return []
    best, labels = first.logits.argmax(axis=1), {picked.image.label for picked in first.batch.picked}
    # Images of one label may well have one class; that it is not the label's own is as odd as one class for all labels.
    labelled = classes.of_label(next(iter(labels))) if len(labels) == 1 else None
    if (
        len(best) < _FEWEST
        or len(set(best.tolist())) > 1
        or (len(labels) == 1 and labelled in (None, best[0]) and None not in labels)
    ):
        return []
    warning = (
        f"the best class of all {len(best)} images of the first batch is {classes.name(int(best[0]))!r}. If that cannot be "
        f"right, the pixels are prepared otherwise than in training; model.preprocess is {job.network.settings['preprocess']}."
    )
    job.reporter.say(f"warning: {warning}")
    return [warning]


def _warnings_of_layers(job: Job) -> list[str]:
    """Warns where the default layer is only a stem because the token layers behind it cannot be looked at."""
    if job.spec.gradcam.layers:
        return []
    every = job.network.every_layer()
    last = next(number for number, layer in enumerate(every) if layer.name == job.default_layer.name)
    tokens = [layer.name for layer in every[last:] if isinstance(layer, UnreadableLayer) and layer.reason.startswith(TOKENS)]
    if len(tokens) <= last:
        return []
    return [
        f"GradCAM explains {every[last].name!r}, the last layer with a map, before {len(tokens)} layers of tokens, {tokens[0]!r} "
        f"to {tokens[-1]!r}, whose work it does not show. Name another layer in gradcam.layers, or explain all of the network: "
        'gradcam.methods = "integrated_gradients".'
    ]


def _objects(job: Job, classes: Classes) -> ObjectMask | None:
    """Where the objects are that `gradcam.objects` names. Raises: MissingInput, UnusableData, UnknownName, WrongSpec."""
    from pipeline.attribution import objects
    from pipeline.concepts.masks import on_grid, open_objects

    spec, fit = job.spec.gradcam.objects, job.fit
    if spec is None:
        return None
    if spec.source is None:
        return _objects_of_column(job, spec)
    if objects.find_objects(spec.source) == "boxes":
        by_class = classes.head.kind in ("softmax", "sigmoid", "map", "boxes")
        return objects.boxes_by_key(objects.read_boxes(spec.source), fit, classes.of_label if by_class else None)
    masks = open_objects(spec.source)

    def mask(picked: Picked, number: int) -> np.ndarray | None:
        read = masks.read(picked.image)
        if not read:
            return None
        return on_grid(read[0], picked.image, fit, 1, picked.source_size).reshape(fit.height, fit.width) > 0

    return mask


def _objects_of_column(job: Job, spec: ObjectsSpec) -> ObjectMask:
    from pipeline.attribution import objects
    from pipeline.sources.companions import Companions

    source: Any = job.source.source if isinstance(job.source, Companions) else job.source
    if not hasattr(source, "column"):
        raise WrongSpec("gradcam.objects: images in memory have no columns. Give a table of boxes, objects.source.")
    column = source.column(spec.column)
    form, unit = ("yxyx", "share") if getattr(column, "is_box", False) else (spec.format, spec.unit)
    if form is None or (spec.format, spec.unit) not in ((None, None), (form, unit)):
        says = (
            "are y1, x1, y2, x2 in shares of the image, as tfds defines them: leave format and unit out"
            if form
            else ('need objects.format, such as "yxyx", and objects.unit, "pixels" or "share"')
        )
        raise WrongSpec(f"gradcam.objects: the boxes of the column {spec.column!r} {says}.")

    def read(example: int) -> np.ndarray | None:
        values: np.ndarray | None = column.value(source.record_of(example))
        return values

    return objects.boxes_by_example(read, objects.BoxColumn(str(spec.column), form, unit == "share"), job.fit)


def _layers(job: Job) -> list[LayerInfo]:
    """Raises: UnknownLayer; WrongSpec, for a layer without a map; UnusableModel, where no convolution leads to the logits."""
    patterns = job.spec.gradcam.layers
    layers = select_layers(job.network, patterns) if patterns else [job.default_layer]
    for layer in layers:
        if layer.shape[:2] == (1, 1):
            raise WrongSpec(
                f"gradcam.layers: {layer.name!r} has no map, but one number a channel. Name one that has, such as "
                f"{job.default_layer.name!r}."
            )
    return layers


STAGE = Stage(
    "gradcam",
    explain,
    table=GradcamSpec,
    check=check,
    names_classes=True,
    index=(
        "classification",
        "attributions",
        "randomisation",
        "independent",
        "curves",
        "metrics",
        "evidence",
        "evidence_places",
        "evidence_clusters",
    ),
    folders=("mosaics/gradcam", "maps"),
    section=Section(
        f"explanations: {', '.join(method.title for method in METHODS.values())}",
        {"explanations": explanations, "checks": checks, "evidence": evidence},
    ),
)
