"""The stage `gradcam`: explains the images picked, batch by batch; writes pictures, mosaics and the index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from pipeline.attribution import heat
from pipeline.attribution.album import Album
from pipeline.attribution.methods import PIXEL_METHODS, PRODUCT, Explained, Key, check_way, compile_pass
from pipeline.attribution.results import Findings
from pipeline.attribution.sanity.deletion import Curves
from pipeline.attribution.sanity.similarity import Similarities
from pipeline.attribution.sanity.weight_randomisation import Cascade
from pipeline.attribution.targets import Classes, softmax
from pipeline.compiled.graph_walk import last_convolution
from pipeline.errors import UnusableModel, WrongSpec
from pipeline.job import Job
from pipeline.models.network import LayerInfo
from pipeline.models.selection import select_layers
from pipeline.report.pictures import explanations
from pipeline.report.section import Section
from pipeline.sources.picking import Picked, check_picks, count_picks, pick
from pipeline.spec.gradcam import GradcamSpec
from pipeline.stages.stage import Outcome, Stage
from pipeline.store.files import write_bytes
from pipeline.store.tables import write_index


@dataclass(frozen=True)
class Plan:
    """What is to be explained, and how.

    wanted: (method, layer) of every map, in the spec's order; layer None where the method looks at pixels alone.
    keys: those of the compiled pass that the wanted ones are made from.
    """

    layers: tuple[LayerInfo, ...]
    wanted: tuple[Key, ...]
    keys: tuple[Key, ...]
    classes: Classes

    @classmethod
    def of(cls, job: Job) -> Plan:
        """Raises: UnknownLayer; WrongSpec, for a layer without a map; UnusableModel, for a network without logits."""
        spec = job.spec.gradcam
        layers = tuple(select_layers(job.network, spec.layers)) if spec.layers else (last_convolution(job.network),)
        for layer in layers:
            if layer.shape[:2] == (1, 1):
                raise WrongSpec(
                    f"gradcam.layers: {layer.name!r} has no map, but one number a channel. Name one that has, such as "
                    f"{last_convolution(job.network).name!r}."
                )
        wanted: list[Key] = []
        keys: list[Key] = []
        for method in spec.methods:
            own: list[Key] = [(method, None)] if method in PIXEL_METHODS else [(method, layer.name) for layer in layers]
            wanted += own
            keys += [("guided_backprop", None), *(("gradcam", layer.name) for layer in layers)] if method == PRODUCT else own
        return cls(layers, tuple(wanted), tuple(dict.fromkeys(keys)), Classes(job.count_classes(), job.class_names()))


def check(job: Job) -> None:
    """Find what cannot be explained before work starts. Raises: any WrongSpec."""
    spec = job.spec.gradcam
    check_picks(job.source, spec, "gradcam")
    try:
        job.count_classes()
    except UnusableModel as error:
        raise UnusableModel(f"{error.args[0]} Or leave gradcam out of stages; the others need no logits.") from None
    plan = Plan.of(job)
    plan.classes.check(spec.classes, job.source.labels)
    guided = any(method == "guided_backprop" for method, _ in plan.keys)
    check_way(job.network, [layer.name for layer in plan.layers], guided)


def explain(job: Job) -> Outcome:
    """Explain the images picked. Raises: StoreFailed; UnusableData, for an image that cannot be read."""
    spec, plan = job.spec.gradcam, Plan.of(job)
    total = count_picks(job.source, spec)
    batch, slots = min(spec.batch, total), len(spec.classes)
    run = compile_pass(job.network, plan.keys, batch, slots)
    album = Album(job.folder / "mosaics" / "gradcam")
    found = Findings([layer.name for layer in plan.layers], plan.classes, job.fit, run.guide, album)
    curves = Curves.of(job.network, batch) if "curves" in spec.trust else None
    similarities = Similarities(Cascade.of(job.network, plan.keys, batch, slots)) if "randomisation" in spec.trust else None
    with job.reporter.step("gradcam", "images") as advance:
        for several in _in_batches(pick(job.source, job.fit, spec), batch):
            asked = [plan.classes.slots(spec.classes, one.image.label) for one in several]
            images = _filled(np.stack([one.shown for one in several]), batch)
            numbers = _filled(np.array([[0 if slot is None else slot for slot in row] for row in asked], np.int32), batch)
            explained = run(images, numbers)
            chosen = [_chosen(row, explained.classes[place]) for place, row in enumerate(asked)]
            maps = {key: _map_of(key, explained) for key in plan.wanted}
            for place, one in enumerate(several):
                found.classify(one, explained.logits[place])
                chances = softmax(explained.logits[place])
                for slot in chosen[place]:
                    number = int(explained.classes[place, slot])
                    found.explain(one, number, float(chances[number]), {key: maps[key][place, slot] for key in plan.wanted})
            if curves:
                curves.add(several, images, explained, maps, chosen)
            if similarities:
                similarities.add(several, images, explained, maps, chosen, _map_of)
            advance(len(found.seen), total)
    album.close()
    write_index(job.folder, "classification", found.classification)
    write_index(job.folder, "attributions", found.attributions)
    for name, trust in (("curves", curves), ("randomisation", similarities)):
        if trust:
            write_index(job.folder, name, trust.columns)
            write_bytes(job.folder / "mosaics" / "gradcam" / "trust" / f"{name}.png", trust.plot())
    return {
        "images": len(found.seen),
        "maps": len(found.attributions["digest"]),
        "layers": [layer.name for layer in plan.layers],
        "rule": run.guide.rule if run.guide else None,
        "replaced": run.guide.replaced if run.guide else None,
        "told": f"{len(found.seen):,} images explained at {', '.join(layer.name for layer in plan.layers)}",
    }


def _map_of(key: Key, explained: Explained) -> np.ndarray:
    """The maps of one method and layer: (batch, slots, …). Guided-GradCAM is made here from its two factors."""
    method, layer = key
    if method != PRODUCT:
        return explained.maps[key]
    pixels, cams = explained.maps["guided_backprop", None], explained.maps["gradcam", layer]
    height, width = pixels.shape[2:4]
    large = np.stack([[heat.enlarge(cam, height, width) for cam in row] for row in cams])
    return pixels * large[..., np.newaxis]


def _chosen(asked: Sequence[int | None], shown: np.ndarray) -> list[int]:
    """The slots of one image that hold a class, each class once."""
    first: dict[int, int] = {}
    for slot, number in enumerate(asked):
        if number is not None:
            first.setdefault(int(shown[slot]), slot)
    return list(first.values())


def _filled(rows: np.ndarray, batch: int) -> np.ndarray:
    """A batch at its full size: its last row again and again."""
    return np.concatenate([rows, np.repeat(rows[-1:], batch - len(rows), axis=0)])


def _in_batches(picked: Iterator[Picked], size: int) -> Iterator[list[Picked]]:
    while several := list(islice(picked, size)):
        yield several


STAGE = Stage(
    "gradcam",
    explain,
    table=GradcamSpec,
    check=check,
    names_classes=True,
    index=("classification", "attributions", "randomisation", "curves"),
    folders=("mosaics/gradcam",),
    section=Section("explanations: GradCAM, guided backprop and Guided-GradCAM", "explanations", explanations),
)
