"""Detections: what a detector's boxes and class scores say of an image, and one detection as a target."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.attribution.targets import ClassTarget, Reading
from pipeline.models.head import BOX_COLUMNS, Activation, Head

if TYPE_CHECKING:
    import tensorflow as tf

_SAME = 0.5  # overlap from which two boxes of one class are one object, as in non-maximum suppression


@dataclass(frozen=True)
class Detection:
    """One box with its likeliest class.

    evidence: the class's, before the last nonlinearity, with that for an object at all. box: y1, x1, y2, x2 in shares of the
    input, None where that is not known. probability: of the class, where the head gives any; else `output`.
    """

    number: int
    evidence: float
    probability: float | None
    output: float | None
    box: list[float] | None


def detected(logits: np.ndarray, head: Head, most: int) -> Iterator[Detection]:
    """The strongest detections of an image, strongest first, without weaker boxes of the same object and class.

    Args:
        logits: float32 (boxes, 5 + classes), as `Network.trace` gives them for the head `boxes`.
    """
    scores = head.box_scores(logits)
    if head.background is not None:
        scores[:, head.background] = -np.inf
    classes = scores.argmax(axis=-1)
    best = scores[np.arange(len(scores)), classes]
    for _ in range(min(most, len(best))):
        row = int(best.argmax())
        if not np.isfinite(best[row]):
            return
        number, score = int(classes[row]), float(best[row])
        box = logits[row, :4].astype(np.float64)
        evidence = float(logits[row, BOX_COLUMNS + number] + logits[row, BOX_COLUMNS - 1])
        known = head.gives_probabilities
        yield Detection(
            number, evidence, score if known else None, None if known else score, box.tolist() if head.has_places else None
        )
        best[(overlaps(logits[:, :4], box) >= _SAME) & (classes == number)] = -np.inf
        best[row] = -np.inf


def overlaps(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (…, 4) with one, float64 (…,); 0 for boxes without an area."""
    boxes = boxes.astype(np.float64)
    sides = np.maximum(np.minimum(boxes[..., 2:], box[2:]) - np.maximum(boxes[..., :2], box[:2]), 0)
    inside = sides.prod(axis=-1)
    areas = np.maximum(boxes[..., 2:] - boxes[..., :2], 0).prod(axis=-1) + np.maximum(box[2:] - box[:2], 0).prod() - inside
    return np.where(areas > 0, inside / np.where(areas > 0, areas, 1), 0.0)


@dataclass(frozen=True, eq=False)
class DetectionTarget:
    """The score of one detection, found by class and place: its evidence times the overlap of its box with the one named.

    The detection is the one for which class score times overlap is highest (the similarity of D-RISE, Petsiuk et al., 2021,
    but with the evidence before the nonlinearity in place of the probability). Without a box it is the class's strongest, of
    which the overlap is 1.

    of_class: the class, as asked. box: float (4,), y1, x1, y2, x2 in shares of the input.
    """

    of_class: ClassTarget
    box: tuple[float, float, float, float] | None = None

    def number(self, label: str | None) -> int | None:
        """The class for an image with this label."""
        return self.of_class.number(label)

    def score(self, logits: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        """The evidence of the chosen detection, times its overlap; 0 where no box overlaps the one named."""
        import tensorflow as tf

        evidence, overlap, row = self._chosen(logits, numbers)
        return tf.gather(evidence * overlap, row, axis=1, batch_dims=1)

    def relevance(self, logits: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        """The contribution of each logit to the score, with the overlap held fixed: a box is no evidence that adds up to it."""
        import tensorflow as tf

        _, overlap, row = self._chosen(logits, numbers)
        share = tf.one_hot(row, logits.shape[1], dtype=logits.dtype) * overlap
        columns = tf.one_hot(numbers + BOX_COLUMNS, logits.shape[2], dtype=logits.dtype)
        columns += tf.one_hot(BOX_COLUMNS - 1, logits.shape[2], dtype=logits.dtype)
        return logits * share[..., tf.newaxis] * columns[:, tf.newaxis]

    def _chosen(self, logits: tf.Tensor, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The evidence and the overlap of every detection, float32 (batch, boxes), and the row of the chosen, (batch,)."""
        import tensorflow as tf

        scores = tf.gather(box_scores(logits, self.of_class.classes.head), numbers, axis=2, batch_dims=1)
        overlap = tf.ones_like(scores) if self.box is None else _overlap(logits[..., :4], self.box)
        row = tf.argmax(tf.stop_gradient(scores * overlap), axis=1)
        evidence = tf.gather(logits[..., BOX_COLUMNS:], numbers, axis=2, batch_dims=1) + logits[..., BOX_COLUMNS - 1]
        return evidence, overlap, row

    def reading(self, logits: np.ndarray, number: int) -> Reading:
        """The class score of the chosen detection, times its overlap."""
        head = self.of_class.classes.head
        scores = head.box_scores(logits)[..., number]
        overlap = 1.0 if self.box is None else overlaps(logits[..., :4], np.array(self.box))
        best = (scores * overlap).max(axis=-1)
        return Reading(probability=best) if head.gives_probabilities else Reading(output=best)

    def title(self, number: int) -> str:
        """The class, and the box where one is named."""
        return self.of_class.title(number) + ("" if self.box is None else f" at {' '.join(f'{edge:g}' for edge in self.box)}")

    def key(self, number: int) -> str:
        """The class and the box, fit for a file's name."""
        return str(number) + ("" if self.box is None else f"-at-{'-'.join(f'{edge:g}' for edge in self.box)}")


def box_scores(logits: tf.Tensor, head: Head) -> tf.Tensor:
    """`Head.box_scores` in TensorFlow: (batch, boxes, 5 + classes) to (batch, boxes, classes)."""
    import tensorflow as tf

    z = logits[..., BOX_COLUMNS:]
    scores = tf.nn.softmax(z) if head.activation.name in ("softmax", "log_softmax") else _probability(z, head.activation)
    if head.objectness is not None:
        scores *= _probability(logits[..., BOX_COLUMNS - 1 : BOX_COLUMNS], head.objectness)
    return scores


def strongest(logits: tf.Tensor, head: Head) -> tf.Tensor:
    """The class of each image's strongest detection, in the graph: int32 (batch,)."""
    import tensorflow as tf

    best = tf.reduce_max(box_scores(logits, head), axis=1)
    if head.background is not None:
        best = tf.where(tf.range(best.shape[-1]) == head.background, best.dtype.min, best)
    return tf.argmax(best, axis=1, output_type=tf.int32)


def _probability(evidence: tf.Tensor, activation: Activation) -> tf.Tensor:
    """A sigmoid of any formula, of evidence for which more is always more; other numbers as they are."""
    import tensorflow as tf

    if not activation.is_probability:
        return evidence
    if activation.clip:
        low, high, slope, _ = activation.clip
        return tf.clip_by_value(abs(slope) / (high - low) * evidence + 0.5, 0.0, 1.0)
    return tf.sigmoid(evidence) if activation.name == "sigmoid" else (tf.tanh(evidence) + 1) / 2


def _overlap(boxes: tf.Tensor, box: tuple[float, float, float, float]) -> tf.Tensor:
    """`overlaps` in TensorFlow, for boxes (batch, n, 4)."""
    import tensorflow as tf

    edges = tf.constant(box, boxes.dtype)
    sides = tf.nn.relu(tf.minimum(boxes[..., 2:], edges[2:]) - tf.maximum(boxes[..., :2], edges[:2]))
    inside = sides[..., 0] * sides[..., 1]
    extents = tf.nn.relu(boxes[..., 2:] - boxes[..., :2])
    return tf.math.divide_no_nan(inside, extents[..., 0] * extents[..., 1] + (box[2] - box[0]) * (box[3] - box[1]) - inside)
