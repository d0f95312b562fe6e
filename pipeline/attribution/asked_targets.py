"""From `gradcam.targets` to what is explained: classes, outputs with a sign, classes within a region, likeness, directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.attribution.detections import DetectionTarget
from pipeline.attribution.targets import MOST_LIKELY, TRUE_LABEL, Classes, ClassTarget, OutputTarget, Reading, Target
from pipeline.errors import WrongSpec
from pipeline.spec.gradcam import TargetSpec

if TYPE_CHECKING:
    import tensorflow as tf

Asked = int | str | TargetSpec

# The keys of a target's table that make sense for a kind of head, beside `output`.
_KEYS = {
    "softmax": {"minus"},
    "sigmoid": {"minus"},
    "linear": {"sign", "minus"},
    "map": {"region"},
    "embedding": {"image", "example", "direction"},
    "boxes": {"box"},
}


@dataclass(frozen=True, eq=False)
class DifferenceTarget:
    """Why this and not that: the evidence for one class or output less that for another.

    minus: the number of the other.
    """

    of: ClassTarget | OutputTarget
    minus: int

    def number(self, label: str | None) -> int | None:
        """The class or output for an image with this label."""
        return self.of.number(label)

    def score(self, logits: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        """The difference of the two; 0 where both are the same."""
        return self.of.score(logits, numbers) - logits[:, self.minus]

    def reading(self, logits: np.ndarray, number: int) -> Reading:
        """The difference of the evidence, which is no probability."""
        return Reading(output=logits[..., number].astype(np.float64) - logits[..., self.minus])

    def title(self, number: int) -> str:
        """Both, for people."""
        return f"{self.of.title(number)} rather than {self.of.classes.name(self.minus)}"

    def key(self, number: int) -> str:
        """Both, by number."""
        return f"{self.of.key(number)}-rather-than-{self.minus}"


@dataclass(frozen=True, eq=False)
class RegionTarget:
    """A class within a region of a map of classes: the mean of its logit there (Seg-Grad-CAM, Vinogradova et al., 2020).

    of_class: the class, as asked.
    region: float32 (h, w) of the map, 1 within and 0 outside; None for the positions at which the network predicts the class
        in the image that is explained. They stay when a method changes the image.
    words: the region for people, such as " in its own region"; "" for the whole image.
    """

    of_class: ClassTarget
    region: np.ndarray | None
    words: str = ""

    def number(self, label: str | None) -> int | None:
        """The class for an image with this label."""
        return self.of_class.number(label)

    def score(self, logits: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        """The mean logit in the region; 0 where the region is empty."""
        import tensorflow as tf

        if self.region is not None:
            return self.score_in(logits, numbers, tf.constant(self.region))
        own = tf.argmax(logits, axis=-1, output_type=tf.int32) == numbers[:, tf.newaxis, tf.newaxis]
        return self.score_in(logits, numbers, tf.cast(own, tf.float32))

    def score_in(self, logits: tf.Tensor, numbers: tf.Tensor, region: tf.Tensor) -> tf.Tensor:
        """The same in another region, float32 (h, w) or (batch, h, w)."""
        import tensorflow as tf

        of_class = tf.gather(tf.transpose(logits, (0, 3, 1, 2)), numbers, batch_dims=1)
        inside = region * tf.ones_like(of_class)
        return tf.reduce_sum(of_class * inside, axis=[1, 2]) / tf.maximum(tf.reduce_sum(inside, axis=[1, 2]), 1.0)

    def held(self, logits: np.ndarray, number: int) -> RegionTarget:
        """The same in the positions at which the logits of one image, float (h, w, classes), predict the class."""
        return replace(self, region=(logits.argmax(axis=-1) == number).astype(np.float32))

    def reading(self, logits: np.ndarray, number: int) -> Reading:
        """The mean probability of the class in the region; 0 where that is empty."""
        probabilities = self.of_class.classes.head.probabilities(logits)
        assert probabilities is not None
        region = logits.argmax(axis=-1) == number if self.region is None else np.broadcast_to(self.region, logits.shape[:3])
        sums = (probabilities[..., number] * region).sum(axis=(1, 2))
        return Reading(sums / np.maximum(region.sum(axis=(1, 2)), 1))

    def title(self, number: int) -> str:
        """The class and the region."""
        return f"{self.of_class.title(number)}{self.words}"

    def key(self, number: int) -> str:
        """The class and the region, fit for a file's name."""
        return f"{number}{self.words.replace(' ', '-').replace('/', '-')}"


@dataclass(frozen=True, eq=False)
class VectorTarget:
    """The cosine similarity of an embedding to a vector: another image's, or a direction.

    position: among the targets of the job. words: for people.
    """

    position: int
    vector: np.ndarray
    words: str

    def number(self, label: str | None) -> int | None:
        """Its place, whatever the label."""
        return self.position

    def score(self, logits: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        """The cosine of the angle between the two."""
        import tensorflow as tf

        unit = tf.constant(self.vector / np.linalg.norm(self.vector), tf.float32)
        return tf.linalg.matvec(tf.math.l2_normalize(logits, axis=-1), unit)

    def relevance(self, logits: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        """The contribution of each number of the embedding to the cosine, with the embedding's length held fixed."""
        import tensorflow as tf

        return tf.math.l2_normalize(logits, axis=-1) * tf.constant(self.vector / np.linalg.norm(self.vector), tf.float32)

    def reading(self, logits: np.ndarray, number: int) -> Reading:
        """The same, in float64."""
        vectors = logits.astype(np.float64)
        lengths = np.maximum(np.linalg.norm(vectors, axis=-1) * np.linalg.norm(self.vector), 1e-12)
        return Reading(output=vectors @ self.vector / lengths)

    def title(self, number: int) -> str:
        """The similarity that is explained, in words."""
        return self.words

    def key(self, number: int) -> str:
        """Its position."""
        return f"target-{self.position}"


def check_targets(classes: Classes, asked: Sequence[Asked], labels: Sequence[str] | None) -> None:
    """Find targets that the network does not have before work starts.

    Args:
        labels: the data set's, where it tells them in advance.

    Raises: WrongSpec, UnknownName.
    """
    kind = classes.head.kind
    for target in asked:
        keys = target.model_fields_set - {"output"} if isinstance(target, TargetSpec) else set()
        wrong = sorted(keys - _KEYS.get(kind, set()))
        if wrong:
            raise WrongSpec(f"{classes.key}: {wrong[0]!r} is not for a network whose head is {kind!r}; see model.head.")
        if kind == "embedding" and not keys:
            raise WrongSpec(
                f"{classes.key}: the network gives an embedding of {classes.count} numbers, which predicts no class. Name an "
                'image to be like, targets = [{ image = "other.png" }] or [{ example = 0 }], or a direction; or set model.head.'
            )
        if isinstance(target, TargetSpec) and target.direction is not None and len(target.direction) != classes.count:
            raise WrongSpec(f"{classes.key}: a direction has {classes.count} numbers here, not {len(target.direction)}.")
        if isinstance(target, TargetSpec) and target.box is not None and not classes.head.has_places:
            raise WrongSpec(f'{classes.key}: "box" is a place, and model.boxes.format = "offsets" gives none. Leave it out.')
        if kind == "linear" and _output_of(target) == TRUE_LABEL:
            raise WrongSpec(f'{classes.key}: "label" is a class, and a linear head has none. Name outputs, or set model.head.')
        if isinstance(target, TargetSpec) and target.minus is not None:
            classes.find(target.minus)
    classes.check([_output_of(target) for target in asked if kind != "embedding"], labels)


def targets_of(
    classes: Classes, asked: Sequence[Asked], embed: Callable[[TargetSpec], np.ndarray], map_size: tuple[int, int]
) -> tuple[Target, ...]:
    """What to explain for everything that is asked for.

    Args:
        embed: the vector of the image that a target names.
        map_size: height and width of a map of classes.

    Raises: WrongSpec, UnknownName; MissingInput, UnusableData, for images and masks.
    """
    targets: list[Target] = []
    for position, target in enumerate(asked):
        spec = target if isinstance(target, TargetSpec) else None
        if classes.head.kind == "embedding":
            assert spec is not None
            vector = embed(spec) if spec.direction is None else np.array(spec.direction)
            targets.append(VectorTarget(position, vector.astype(np.float64), spec.words))
        elif classes.head.kind == "map":
            region = spec.region if spec and spec.region is not None else "predicted" if target == MOST_LIKELY else "image"
            mask, words = _region(region, map_size, classes.key)
            targets.append(RegionTarget(ClassTarget(classes, _output_of(target)), mask, words))
        elif classes.head.kind == "boxes":
            targets.append(DetectionTarget(ClassTarget(classes, _output_of(target)), spec.box if spec else None))
        elif classes.head.kind == "linear":
            output = _output_of(target)
            numbers = range(classes.count) if output == MOST_LIKELY else [classes.find(output)]
            several = [OutputTarget(classes, number, spec.sign if spec else 1) for number in numbers]
            targets += [_less(target, spec, classes) for target in several]
        else:
            targets.append(_less(ClassTarget(classes, _output_of(target)), spec, classes))
    return tuple(targets)


def _less(target: ClassTarget | OutputTarget, spec: TargetSpec | None, classes: Classes) -> Target:
    return target if spec is None or spec.minus is None else DifferenceTarget(target, classes.find(spec.minus))


def _output_of(asked: Asked) -> int | str:
    return asked.output if isinstance(asked, TargetSpec) else asked


def _region(region: str | Sequence[float], size: tuple[int, int], key: str) -> tuple[np.ndarray | None, str]:
    """The mask of a region, and its words."""
    import cv2

    from pipeline.sources.picking import read_picture

    if region == "predicted":
        return None, " in its own region"
    if region == "image":
        return np.ones(size, np.float32), ""
    if isinstance(region, str):
        picture = read_picture(region)[..., :3].max(axis=-1)
        mask = (cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA) >= 128).astype(np.float32)
        words = f" in {region.replace(chr(92), '/').rpartition('/')[2]}"
    else:
        edges = [round(share * side) for share, side in zip(region, (*size, *size), strict=True)]
        mask = np.zeros(size, np.float32)
        mask[edges[0] : edges[2], edges[1] : edges[3]] = 1
        words = f" in {' '.join(f'{share:g}' for share in region)}"
    if not mask.any():
        raise WrongSpec(f"{key}: the region{words} holds no position of the map of {size[0]} x {size[1]}. Enlarge it.")
    return mask, words
