"""Explainer: the maps of some methods for batches of images, from one traced graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import tensorflow as tf

from pipeline.attribution.baselines import baseline
from pipeline.attribution.explanation_graph import Answer, ExplanationGraph, GraphPasses, trace_explanations
from pipeline.attribution.heat import merge, one_side
from pipeline.attribution.methods.method import LayerOutput, Quantity
from pipeline.attribution.own_regions import of_own_region
from pipeline.attribution.plan import MERGED, ExplainPlan, MapKey
from pipeline.models.network import Network, feed_of
from pipeline.sources.picking import Picked


@dataclass(frozen=True)
class ImageBatch:
    """Some images that are explained together.

    images: (count, height, width, bands), as the network is given them.
    asked: the class of each target for each image; None for a target that the image does not have.
    """

    picked: Sequence[Picked]
    images: np.ndarray
    asked: Sequence[Sequence[int | None]]


@dataclass(frozen=True)
class Explained:
    """The explanations of one batch.

    logits: float32 (count, classes of the network).
    classes: int (count, targets): those explained.
    slots: for each image the targets that count: each class once, none that the image does not have, and none where a
        logit is NaN or above all numbers.
    maps: float32 (count, targets, …) by method and layer.
    gaps: by method, float64 (count, targets): the share of a score for which a map does not account, where the method knows it.
    sums: float64 (count, targets, 2) by method and layer: of what speaks for the target, and, negative, of what speaks against
        it, before either is left out of the map.
    channels: float32 (count, targets, channels) by layer, where the plan asks for them.
    nowhere: for each image the targets that it does not have because the network predicts their class at no position.
    regions: int (count, targets, cells): those that targets take from the image; None where they take none.
    broken: bool (count, targets) by method and layer: the maps that held NaN or infinity. They are zeros, and count for nothing.
    """

    batch: ImageBatch
    logits: np.ndarray
    classes: np.ndarray
    slots: Sequence[Sequence[int]]
    maps: dict[MapKey, np.ndarray]
    gaps: Mapping[str, np.ndarray] = field(default_factory=dict)
    sums: Mapping[MapKey, np.ndarray] = field(default_factory=dict)
    channels: Mapping[str, np.ndarray] = field(default_factory=dict)
    nowhere: Sequence[Sequence[int]] = ()
    regions: np.ndarray | None = None
    broken: Mapping[MapKey, np.ndarray] = field(default_factory=dict)

    def maps_of(self, index: int, slot: int) -> dict[MapKey, np.ndarray]:
        """The maps of one target of one image, by method and layer: those that are numbers everywhere."""
        return {key: values[index, slot] for key, values in self.maps.items() if self.is_whole(key, index, slot)}

    def is_whole(self, key: MapKey, index: int, slot: int) -> bool:
        """Whether a map was numbers everywhere, for one target of one image."""
        return key not in self.broken or not self.broken[key][index, slot]

    @property
    def asked(self) -> np.ndarray:
        """What was explained, as it is asked of the graph once the images are changed: see `ExplanationGraph`."""
        classes = self.classes[..., np.newaxis]
        return classes if self.regions is None else np.concatenate([classes, self.regions], axis=2)


@dataclass(frozen=True)
class Explainer:
    """Explains batches of images by the methods of a plan.

    run: one pass of `graph`, as it is or with other weights.
    bands: of the images, behind which lie the network's other inputs; 0 where there are no others.
    """

    plan: ExplainPlan
    graph: ExplanationGraph
    run: GraphPasses
    bands: int = 0

    @classmethod
    def of(cls, network: Network, plan: ExplainPlan) -> Explainer:
        """Trace a network, once. Raises: as `trace_explanations`."""
        graph = trace_explanations(network, plan)
        return cls(plan, graph, graph.run, feed_of(network).bands)

    def batches(self, picked: Iterable[Picked]) -> Iterator[ImageBatch]:
        """Images in batches of the plan's size, with what is to be explained of each."""
        images = iter(picked)
        while several := list(islice(images, self.plan.batch)):
            asked = [[target.number(image.image.label) for target in self.plan.targets] for image in several]
            yield ImageBatch(several, np.stack([image.given for image in several]), asked)

    def explain(self, batch: ImageBatch) -> Explained:
        """The maps of a batch."""
        asked = np.array([[0 if number is None else number for number in row] for row in batch.asked], np.int32)
        evidence = BatchEvidence(self, batch.images, asked)
        several = [
            [] if unusable(evidence.logits[index]).any() else self._distinct(row, evidence.asked[index, :, 0])
            for index, row in enumerate(batch.asked)
        ]
        nowhere = [[slot for slot in row if self._is_nowhere(slot, evidence.asked[index])] for index, row in enumerate(several)]
        slots = [[slot for slot in row if slot not in absent] for row, absent in zip(several, nowhere, strict=True)]
        signed = self._signed(evidence)
        sums = {key: _sums(values) for key, values in signed.items()}
        maps = self._finished(signed)
        channels = {layer: evidence.of(quantity) for layer, quantity in self.plan.channels.items()}
        broken = {key: _is_broken(values) for key, values in signed.items()}
        for name, layers in self.plan.to_merge.items():
            broken[name, MERGED] = np.any([broken[name, layer] for layer in layers], axis=0)
        return Explained(
            batch,
            evidence.logits,
            evidence.asked[..., 0],
            slots,
            maps,
            gaps=evidence.gaps,
            sums=sums,
            channels=channels,
            nowhere=nowhere,
            regions=evidence.asked[..., 1:],
            broken=broken,
        )

    def maps(self, images: np.ndarray, asked: np.ndarray) -> dict[MapKey, np.ndarray]:
        """The maps of images, uint8 (count, height, width, 3), for given classes, int (count, targets), or as of `answer`."""
        return self._finished(self._signed(BatchEvidence(self, images, asked)))

    def logits(self, images: np.ndarray) -> np.ndarray:
        """The logits of any number of images: uint8 (n, height, width, 3) to float32 (n, classes)."""
        return self.answer(images, np.zeros((len(images), len(self.plan.targets)), np.int32), ()).logits

    def answer(self, images: np.ndarray, asked: np.ndarray, quantities: Sequence[Quantity]) -> Answer:
        """Run the graph on any number of images, in batches; the last is filled up with its last image again and again.

        asked: as of `GraphPasses`.
        """
        size, answers = self.plan.batch, []
        for start in range(0, len(images), size):
            missing = max(0, start + size - len(images))
            pixels, numbers = (
                np.concatenate([rows[start : start + size], np.repeat(rows[-1:], missing, axis=0)]) for rows in (images, asked)
            )
            answers.append(self.run(pixels, numbers, quantities))
        return Answer.joined(answers, len(images))

    def with_run(self, run: GraphPasses) -> Explainer:
        """The same methods for the graph with other weights."""
        return replace(self, run=run)

    def _distinct(self, asked: Sequence[int | None], explained: np.ndarray) -> list[int]:
        """The targets that one image has, each once."""
        first: dict[str, int] = {}
        for slot, (target, number) in enumerate(zip(self.plan.targets, asked, strict=True)):
            if number is not None:
                first.setdefault(target.key(int(explained[slot])), slot)
        return list(first.values())

    def _is_nowhere(self, slot: int, asked: np.ndarray) -> bool:
        """Whether a target counts in the image's own region, and that is empty; asked: of one image."""
        return of_own_region(self.plan.targets[slot]) is not None and not asked[slot, 1:].any()

    def _signed(self, evidence: BatchEvidence) -> dict[MapKey, np.ndarray]:
        return {(method.name, layer): method.explain(evidence, layer) for method, layer in self.plan.methods}

    def _finished(self, signed: Mapping[MapKey, np.ndarray]) -> dict[MapKey, np.ndarray]:
        """The maps with what `gradcam.evidence` leaves of them, and the merged ones; zeros in the place of broken ones."""
        whole = {key: _where(~_is_broken(values), values) for key, values in signed.items()}
        maps = {
            (method.name, layer): one_side(whole[method.name, layer], self.plan.sides if method.draws == "heat" else "both")
            for method, layer in self.plan.methods
        }
        for name, layers in self.plan.to_merge.items():
            rows = zip(*(maps[name, layer] for layer in layers), strict=True)
            maps[name, MERGED] = np.stack([[merge(several) for several in zip(*row, strict=True)] for row in rows])
        return maps


def unusable(logits: np.ndarray) -> np.ndarray:
    """Which logits no class can be read from: NaN and infinity. The logarithm of a probability of zero is below all numbers."""
    return np.isnan(logits) | (logits == np.inf)


def _is_broken(values: np.ndarray) -> np.ndarray:
    """Which maps hold NaN or infinity: bool (count, targets)."""
    return ~np.isfinite(values).all(axis=tuple(range(2, values.ndim)))


def _where(which: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The maps of those images and targets, and zeros for all others."""
    return values if which.all() else np.where(which.reshape(*which.shape, *[1] * (values.ndim - 2)), values, np.float32(0))


def _sums(values: np.ndarray) -> np.ndarray:
    """float64 (count, targets, 2): of the numbers above zero, and of those below."""
    axes = tuple(range(2, values.ndim))
    return np.stack([part(values, 0).sum(axis=axes, dtype=np.float64) for part in (np.maximum, np.minimum)], axis=-1)


class BatchEvidence:
    """The evidence in one batch: what methods ask is answered from one pass for all of them, and from others on request."""

    def __init__(
        self, explainer: Explainer, images: np.ndarray, asked: np.ndarray, quantities: Sequence[Quantity] | None = None
    ) -> None:
        """Run one pass.

        Args:
            images: (count, height, width, bands) in 0 to 255.
            asked: as of `Explainer.answer`; PREDICTED for the class with the highest logit.
            quantities: what will be asked for; None for all that the plan needs.
        """
        self._explainer = explainer
        self._answer = explainer.answer(images, asked, explainer.plan.quantities if quantities is None else quantities)
        self.images = images.astype(np.float32)
        self.bands = explainer.bands or images.shape[-1]
        self.logits, self.asked = self._answer.logits, self._answer.asked
        self.score = self._answer.scores
        self.settings = explainer.plan.settings
        self.gaps: dict[str, np.ndarray] = {}
        self._pairs: tf.Tensor | None = None  # images, each with the baseline in its place

    def of(self, quantity: Quantity) -> np.ndarray:
        """A quantity for the images as they are: float32 (count, targets, …)."""
        return self._answer.values[quantity]

    def at(self, quantity: Quantity, images: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores and a quantity for other images; see `Evidence.at`."""
        answer = self._explainer.answer(images, asked, (quantity,))
        return answer.scores, answer.values[quantity]

    def scores(self, images: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """The targets' scores alone; see `Evidence.scores`."""
        return self._explainer.answer(images, asked, ()).scores

    def with_images(self, images: np.ndarray, quantities: tuple[Quantity, ...]) -> BatchEvidence:
        """The same batch with other images; see `Evidence.with_images`."""
        return BatchEvidence(self._explainer, images, self.asked, quantities)

    def behind(self, numbers: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """The targets' scores behind masks; see `Evidence.behind`."""
        size = self._explainer.plan.batch
        if self._pairs is None:
            empty = [baseline(image, self.settings.baseline, self.bands) for image in self.images]
            self._pairs = tf.constant(np.stack([self.images, np.stack(empty)], axis=1))
        scores = []
        for start in range(0, len(masks), size):
            rows, several = numbers[start : start + size], masks[start : start + size]
            missing = size - len(rows)
            rows, several = np.pad(rows, (0, missing)), np.pad(several, ((0, missing), (0, 0), (0, 0)))
            scores.append(self._explainer.run.behind(self._pairs, rows, several, self.asked[rows])[: size - missing])
        return np.concatenate(scores)

    def without_channels(self, layer: str, number: int, channels: np.ndarray) -> np.ndarray:
        """The scores of one image without each of some channels; see `Evidence.without_channels`."""
        run, size = self._explainer.run, self._explainer.plan.batch
        output = self.of(LayerOutput(layer))[number]
        images, asked = (np.repeat(rows[number : number + 1], size, axis=0) for rows in (self.images, self.asked))
        scores = []
        for start in range(0, len(channels), size):
            several = channels[start : start + size]
            outputs = np.moveaxis(np.repeat(output[np.newaxis], size, axis=0), run.graph.channel_axes[layer], -1)
            outputs[np.arange(len(several)), ..., several] = 0
            changed = np.moveaxis(outputs, -1, run.graph.channel_axes[layer])
            scores.append(run.scores_from(layer, changed, images, asked)[: len(several)])
        return np.concatenate(scores)
