"""Gradients of targets by layers, summed over positions, for images of the classes that they are about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pipeline.attribution.asked_targets import DifferenceTarget
from pipeline.attribution.explainer import Explainer
from pipeline.attribution.methods.method import AtLayer
from pipeline.attribution.plan import ExplainPlan
from pipeline.attribution.targets import MOST_LIKELY, TRUE_LABEL, Classes, ClassTarget, Target
from pipeline.errors import WrongSpec
from pipeline.models.network import Network
from pipeline.sources.picking import Picked

if TYPE_CHECKING:
    import tensorflow as tf

_BATCH = 16


def summed_gradient(maps: tf.Tensor, gradients: tf.Tensor) -> tf.Tensor:
    """The gain of a score when a channel is raised equally at all positions: float32 (batch, channels)."""
    import tensorflow as tf

    return tf.reduce_sum(gradients, axis=(1, 2))


@dataclass
class TargetGradients:
    """The gradients of one target: by layer, float32 (channels,) for each image."""

    number: int
    title: str
    by_layer: dict[str, list[np.ndarray]] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """The number of images."""
        return len(next(iter(self.by_layer.values()), []))


def target_gradients(
    network: Network, layers: Sequence[str], asked: tuple[Classes, Sequence[Target]], images: Iterable[Picked], most: int
) -> list[TargetGradients]:
    """The gradients of targets by layers, for at most so many images each.

    A class that is asked for by number or name takes the images that are its own: whose label means it or, where the label means
    no class, for which the network predicts it. "predicted" and "label" take all images, each for its own class. So does
    every target that is no class: for it, all images count.

    Raises: WrongSpec, for a layer on which the logits do not depend; UnusableModel.
    """
    classes, targets = asked
    plan = ExplainPlan((), tuple(targets), _BATCH, channels={layer: AtLayer(layer, summed_gradient) for layer in layers})
    try:
        explainer = Explainer.of(network, plan)
    except WrongSpec as error:
        raise type(error)(f"{classes.key}: {error.args[0]}") from None
    fixed = [_asks_for_class(target) for target in targets]
    gradients: dict[str, TargetGradients] = {}

    def full() -> set[int]:
        return {entry.number for entry in gradients.values() if entry.images >= most}

    def needed() -> Iterator[Picked]:
        for picked in images:
            if len(full()) >= len(targets) and (all(fixed) or not any(map(_takes_each, targets))):
                return
            labelled = classes.of_label(picked.image.label)
            if (
                not all(fixed)
                or labelled is None
                or (labelled not in full() and any(target.number(None) == labelled for target in targets))
            ):
                yield picked

    for batch in explainer.batches(needed()):
        explained = explainer.explain(batch)
        for index, picked in enumerate(batch.picked):
            labelled = classes.of_label(picked.image.label)
            for slot in explained.slots[index]:
                number, target = int(explained.classes[index, slot]), targets[slot]
                predicted = int(explained.logits[index].argmax()) if labelled is None and fixed[slot] else labelled
                if fixed[slot] and number != predicted:
                    continue
                entry = gradients.setdefault(target.key(number), TargetGradients(number, target.title(number)))
                if entry.images < most:
                    for layer in layers:
                        entry.by_layer.setdefault(layer, []).append(explained.channels[layer][index, slot])
    return sorted(gradients.values(), key=lambda entry: (entry.number, entry.title))


def _asks_for_class(target: Target) -> bool:
    """Whether it is a class by number or name."""
    of = target.of if isinstance(target, DifferenceTarget) else target
    return isinstance(of, ClassTarget) and not _takes_each(of)


def _takes_each(target: Target) -> bool:
    """Whether it is another class for each image."""
    return isinstance(target, ClassTarget) and target.asked in (MOST_LIKELY, TRUE_LABEL)
