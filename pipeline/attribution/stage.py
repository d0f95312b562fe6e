"""The stage `gradcam`: explains the images picked, batch by batch; writes pictures, mosaics and the index."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from pipeline.attribution import heat, pictures
from pipeline.attribution.album import Album
from pipeline.attribution.classes import Classes, softmax, top
from pipeline.attribution.curves import Curves
from pipeline.attribution.passes import CAMS, PIXEL_METHODS, PRODUCT, Explained, Key, check_way, compile_pass
from pipeline.attribution.randomisation import Cascade, Similarities
from pipeline.attribution.wiring import last_convolution
from pipeline.errors import UnusableModel, WrongSpec
from pipeline.job import Job, Receipt
from pipeline.models.network import LayerInfo
from pipeline.models.selection import select_layers
from pipeline.sources.picking import Picked, check_picks, count_picks, pick
from pipeline.sources.source import Box
from pipeline.store.files import write_bytes
from pipeline.store.tables import INDEX, write_index

_SHOWN = 5  # of the likeliest classes, in the index


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


def explain(job: Job) -> Receipt:
    """Explain the images picked. Raises: StoreFailed; UnusableData, for an image that cannot be read."""
    spec, plan = job.spec.gradcam, Plan.of(job)
    total = count_picks(job.source, spec)
    batch, slots = min(spec.batch, total), len(spec.classes)
    run = compile_pass(job.network, plan.keys, batch, slots)
    album = Album(job.folder / "mosaics" / "gradcam")
    found = _Found()
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
                found.classify(one, explained.logits[place], plan.classes)
                for slot in chosen[place]:
                    _explain(job, plan, one, explained, maps, place, slot, run.guide, album, found)
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


class _Found:
    """The rows of the index, column by column."""

    def __init__(self) -> None:
        self.classification: dict[str, list[Any]] = {field.name: [] for field in INDEX["classification"]}
        self.attributions: dict[str, list[Any]] = {field.name: [] for field in INDEX["attributions"]}
        self.seen: list[str] = []

    def classify(self, one: Picked, logits: np.ndarray, classes: Classes) -> None:
        chances = softmax(logits)
        self.seen.append(one.image.key)
        for rank, number in enumerate(top(logits, _SHOWN)):
            what = (number, classes.name(number), logits[number], chances[number])
            row = (one.example, one.image.key, one.image.label, rank, *what)
            for name, value in zip(self.classification, row, strict=True):
                self.classification[name].append(value)

    def add(self, **row: Any) -> None:
        for name in self.attributions:
            self.attributions[name].append(row[name])


def _explain(
    job: Job,
    plan: Plan,
    one: Picked,
    explained: Explained,
    maps: dict[Key, np.ndarray],
    place: int,
    slot: int,
    guide: Any,
    album: Album,
    found: _Found,
) -> None:
    """Draw and index one image and class."""
    number = int(explained.classes[place, slot])
    chance = float(softmax(explained.logits[place])[number])
    name = plan.classes.name(number)
    region = one.image.region
    image = one.image.pixels[region.y1 : region.y2, region.x1 : region.x2]
    drawn: dict[Key, pictures.Panel] = {}
    for method, layer in plan.wanted:
        values = maps[method, layer][place, slot]
        where = heat.focus(values, job.fit.height, job.fit.width)
        source = job.fit.to_source(where.box, region)
        picture = pictures.overlay(values, image, job.fit)
        peak = where.peak if method in CAMS else None
        title = pictures.TITLES[method] if peak is None else f"{pictures.TITLES[method]}, 0 to {peak:.2g}"
        drawn[method, layer] = pictures.Panel(title, picture)
        caption = f"{name}  {chance:.1%}  {pictures.TITLES[method]}"
        path = album.single(one, number, method, layer, pictures.captioned(picture, caption, peak))
        guided = method in ("guided_backprop", PRODUCT)
        found.add(
            example=one.example,
            key=one.image.key,
            label=one.image.label,
            method=method,
            layer=layer,
            **{"class": number, "name": name, "probability": chance},
            digest=hashlib.sha256(np.ascontiguousarray(values, np.float32).tobytes()).hexdigest()[:16],
            peak=where.peak,
            row=where.row,
            col=where.col,
            map_height=values.shape[0],
            map_width=values.shape[1],
            **_edges("", where.box),
            **_edges("src_", source),
            rule=guide.rule if guided else None,
            replaced=guide.replaced if guided else None,
            picture=str(path),
        )
    for shown in plan.layers:
        keys = [key for key in plan.wanted if key[1] in (None, shown.name)]
        panels = [pictures.Panel("image", pictures.plain(image)), *(drawn[key] for key in keys)]
        album.row(one, number, shown.name, panels, f"{name}  {chance:.1%}")


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


def _edges(prefix: str, box: Box) -> dict[str, int]:
    return {f"{prefix}{edge}": getattr(box, edge) for edge in ("y1", "x1", "y2", "x2")}
