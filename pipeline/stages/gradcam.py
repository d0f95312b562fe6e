"""The stage `gradcam`: explains the images picked, batch by batch; writes pictures, mosaics and the index."""

from __future__ import annotations

from dataclasses import replace

from pipeline.attribution.methods import METHODS
from pipeline.attribution.methods.method import MethodSettings
from pipeline.attribution.pictures import ExplanationPictures
from pipeline.attribution.plan import ExplainPlan
from pipeline.attribution.targets import Classes
from pipeline.errors import UnusableModel, WrongSpec
from pipeline.job import Job
from pipeline.models.network import LayerInfo
from pipeline.models.selection import select_layers
from pipeline.report.pictures import explanations
from pipeline.report.section import Section
from pipeline.sources.picking import check_picks, count_picks, pick
from pipeline.spec.gradcam import GradcamSpec
from pipeline.stages.stage import Outcome, Stage
from pipeline.store.files import write_bytes
from pipeline.store.tables import write_index


def check(job: Job) -> None:
    """Find what cannot be explained before work starts. Raises: any WrongSpec."""
    from pipeline.attribution.explanation_graph import check_explanations

    spec = job.spec.gradcam
    check_picks(job.source, spec, "gradcam")
    try:
        job.count_classes()
    except UnusableModel as error:
        raise UnusableModel(f"{error.args[0]} Or leave gradcam out of stages; the others need no logits.") from None
    layers = [layer.name for layer in _layers(job)]
    _classes(job).check(spec.classes, job.source.labels)
    check_explanations(job.network, layers, guided=any(METHODS[name].is_guided for name in spec.methods))


def explain(job: Job) -> Outcome:
    """Explain the images picked. Raises: StoreFailed; UnusableData, for an image that cannot be read."""
    from pipeline.attribution.explainer import Explainer
    from pipeline.attribution.results import ExplanationResults
    from pipeline.attribution.sanity import CHECKS

    spec, classes = job.spec.gradcam, _classes(job)
    layers = [layer.name for layer in _layers(job)]
    total = count_picks(job.source, spec)
    plan = ExplainPlan.of([METHODS[name] for name in spec.methods], layers, classes.targets(spec.classes), min(spec.batch, total))
    plan = replace(plan, settings=MethodSettings(spec.steps), with_weights="randomisation" in spec.sanity)
    explainer = Explainer.of(job.network, plan)
    folder = job.folder / "mosaics" / "gradcam"
    results = ExplanationResults(classes, job.fit, explainer.graph.guide, ExplanationPictures(folder, layers, job.fit))
    checks = {name: make(explainer) for name, make in CHECKS.items() if name in spec.sanity}
    with job.reporter.step("gradcam", "images") as advance:
        for batch in explainer.batches(pick(job.source, job.fit, spec)):
            explained = explainer.explain(batch)
            results.add(explained)
            for sanity in checks.values():
                sanity.add(explained)
            advance(len(results.keys), total)
    results.write(job.folder)
    for name, sanity in checks.items():
        write_index(job.folder, name, sanity.columns)
        write_bytes(folder / "trust" / f"{name}.png", sanity.plot())
    guide = explainer.graph.guide
    return {
        "images": len(results.keys),
        "maps": len(results.attributions["digest"]),
        "layers": layers,
        "methods": {name: METHODS[name].title for name in spec.methods},
        "rule": guide.rule if guide else None,
        "replaced": guide.replaced if guide else None,
        "told": f"{len(results.keys):,} images explained at {', '.join(layers)}",
    }


def _classes(job: Job) -> Classes:
    return Classes(job.count_classes(), job.class_names())


def _layers(job: Job) -> list[LayerInfo]:
    """Raises: UnknownLayer; WrongSpec, for a layer without a map; UnusableModel, where no convolution leads to the logits."""
    patterns = job.spec.gradcam.layers
    layers = select_layers(job.network, patterns) if patterns else [job.last_convolution]
    for layer in layers:
        if layer.shape[:2] == (1, 1):
            raise WrongSpec(
                f"gradcam.layers: {layer.name!r} has no map, but one number a channel. Name one that has, such as "
                f"{job.last_convolution.name!r}."
            )
    return layers


STAGE = Stage(
    "gradcam",
    explain,
    table=GradcamSpec,
    check=check,
    names_classes=True,
    index=("classification", "attributions", "randomisation", "curves"),
    folders=("mosaics/gradcam",),
    section=Section(f"explanations: {', '.join(method.title for method in METHODS.values())}", "explanations", explanations),
)
