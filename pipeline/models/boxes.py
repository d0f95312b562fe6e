"""Outputs of detectors: which tensors hold the boxes and the class scores, and the evidence before their last nonlinearities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import tensorflow as tf

from pipeline.errors import UnknownName, WrongSpec
from pipeline.models.ending import Ending
from pipeline.models.head import Activation, Head
from pipeline.spec.model import BoxesSpec

_PASSES_ON = ("Identity", "Cast", "EnsureShape", "StopGradient", "PreventGradient", "Snapshot")


class EndingReader(Protocol):
    """Tells how a tensor of a graph was made; see `pipeline.models.output.ending_of_tensor`."""

    def __call__(self, output: tf.Tensor) -> Ending[str]: ...


@dataclass(frozen=True)
class BoxOutput:
    """Where a detector's boxes are.

    boxes, scores: the ends that hold them, which may be one. count: of boxes. start: the first column of the class scores.
    classes: how many there are. spec: `[model.boxes]`.
    """

    boxes: str
    scores: str
    count: int
    start: int
    classes: int
    spec: BoxesSpec

    @property
    def names(self) -> tuple[str, ...]:
        """The ends to read, each once."""
        return tuple(dict.fromkeys((self.boxes, self.scores)))

    def evidence(
        self, boxes: tf.Tensor, scores: tf.Tensor, size: tuple[int, int], ending_of: EndingReader
    ) -> tuple[tf.Tensor, Head]:
        """What the head `boxes` gives, and what it means.

        Args:
            boxes, scores: the ends as they were read, (batch, n, columns); where they are transposed, (batch, columns, n).
            size: height and width of the input, for coordinates in pixels.

        Returns: float32 (batch, n, 5 + classes): y1, x1, y2, x2 in shares of the input, zeros where they are offsets; the
        evidence for an object at all, 0 where the network gives none; that for each class.
        """
        axis = 1 if self.spec.transposed else 2
        of_class, z = columns_before(scores, self.start, self.start + self.classes, ending_of, axis)
        assumed = of_class.name not in ("softmax", "log_softmax") and not of_class.is_probability
        if assumed:
            z = _columns(scores, self.start, self.start + self.classes, axis)
            weighted = ending_of(scores).weighted
            of_class = Activation("sigmoid") if weighted else Activation()
            reason = (
                "class scores straight from weights: a sigmoid each" if weighted else "class scores as the network gives them"
            )
        else:
            reason = f"class scores by a {'hard sigmoid' if of_class.clip else of_class.name}"
        objectness, score = None, tf.zeros_like(z[..., :1])
        if self.spec.objectness:
            objectness, score = columns_before(boxes, 4, 5, ending_of, axis)
            score = -score if objectness.falls and objectness.is_probability else score
            if not objectness.is_probability:
                score = _columns(boxes, 4, 5, axis)
                objectness = Activation("sigmoid") if ending_of(boxes).weighted else Activation()
        z = -z if of_class.falls and not assumed else z
        reason = f"model.boxes: {self.count:,} boxes of {self.classes:,} classes, {reason}"
        head = Head("boxes", of_class, self.classes, reason, assumed, assumed, objectness, self.spec.background, self.has_places)
        corners = _corners(tf.cast(_columns(boxes, 0, 4, axis), tf.float32), self.spec, size)
        return tf.concat([corners, tf.cast(score, tf.float32), tf.cast(z, tf.float32)], axis=-1), head

    @property
    def has_places(self) -> bool:
        """Whether the boxes lie somewhere on the image; offsets from anchors do not say where."""
        return self.spec.format != "offsets"


def find_boxes(rows: Mapping[str, tuple[int, int]], spec: BoxesSpec, where: str) -> BoxOutput:
    """The ends that hold a detector's boxes and class scores: those that are named, else the only ones that can be.

    One end of (n, 4 + 1 + classes) or (n, 4 + classes), or one of (n, 4) and one of (n, classes); each the other way round
    where they are transposed.

    Args:
        rows: of each end that gives a row for every box: how many, and their columns.

    Raises: WrongSpec, UnknownName.
    """
    transposed = {name: (columns, count) for name, (count, columns) in rows.items()}
    rows = transposed if spec.transposed else rows
    listed = ", ".join(f"{name} {count} x {width}" for name, (count, width) in rows.items()) or "none"
    for name in (spec.boxes, spec.scores):
        if name is not None and name not in rows:
            raise UnknownName.among(name, rows, where=f"an output of {where} with a row for every box (model.boxes)")
    fours = [name for name, (_, width) in rows.items() if width == 4 and name != spec.scores]
    wide = [name for name, (_, width) in rows.items() if width > 4]
    boxes = [spec.boxes] if spec.boxes else fours or wide
    if len(boxes) == 1:
        count, width = rows[boxes[0]]
        others = [name for name, (number, _) in rows.items() if number == count and name != boxes[0]]
        scores = [spec.scores] if spec.scores else (others if width == 4 else [boxes[0]])
        if len(scores) == 1 and rows[scores[0]][0] == count:
            if width > count and spec.transposed is None:
                raise WrongSpec(
                    f"{where} gives {count} x {width} numbers in {boxes[0]!r}: {count} boxes of {width} numbers, or, as newer "
                    f"YOLO exports, {width} boxes of {count}. Say which: model.boxes.transposed = true or false."
                )
            return _with_columns(boxes[0], scores[0], rows[scores[0]], spec, where)
    if spec.transposed is None and any(width == 4 for _, width in transposed.values()):
        raise WrongSpec(
            f"the outputs of {where} have no four numbers a box in rows ({listed}), but in columns. If that is where its boxes "
            "are, set model.boxes.transposed = true."
        )
    raise WrongSpec(
        f'model.head = "boxes", but of the outputs of {where} with a row for every box ({listed}) it is not clear which hold the '
        "boxes and which the class scores. Name them: model.boxes.boxes and model.boxes.scores."
    )


def _with_columns(boxes: str, scores: str, shape: tuple[int, int], spec: BoxesSpec, where: str) -> BoxOutput:
    count, width = shape
    if boxes != scores:
        if spec.objectness:
            raise WrongSpec(
                f"model.boxes.objectness = true, but {where} gives its class scores apart, in {scores!r}. Leave it out."
            )
        return BoxOutput(boxes, scores, count, 0, width, spec)
    if spec.objectness is None:
        raise WrongSpec(
            f"{where} gives {width} numbers a box in {boxes!r}: 4 for its place, and {width - 4} classes, or 1 for an object "
            f"at all and {width - 5} classes. Say which: model.boxes.objectness = true or false."
        )
    start = 4 + spec.objectness
    if width <= start:
        raise WrongSpec(f"{where} gives {width} numbers a box in {boxes!r}, which leaves none for classes. See model.boxes.")
    return BoxOutput(boxes, scores, count, start, width - start, spec)


def columns_before(
    tensor: tf.Tensor, start: int, stop: int, ending_of: EndingReader, axis: int = 2
) -> tuple[Activation, tf.Tensor]:
    """The last nonlinearity of some columns of (batch, n, columns), and these columns before it.

    Columns and rows that were put together from several tensors are followed into these, also behind a transposition; where
    they end in several nonlinearities, or in none, the columns are given as they are.

    Args:
        axis: of the columns, 1 for (batch, columns, n).

    Returns: the nonlinearity, and (batch, n, stop - start).
    """
    plain = (Activation(), _columns(tensor, start, stop, axis))
    ending = ending_of(tensor)
    if ending.activation.name or ending.activation.clip:
        evidence = tf.reshape(tensor.graph.get_tensor_by_name(ending.evidence), tf.shape(tensor))
        return ending.activation, _columns(tf.ensure_shape(evidence, tensor.shape), start, stop, axis)
    operation = tensor.op
    while operation.type in _PASSES_ON:
        operation = operation.inputs[0].op
    if operation.type == "Transpose" and _turns(operation):
        return columns_before(operation.inputs[0], start, stop, ending_of, 3 - axis)
    if operation.type != "ConcatV2":
        return plain
    *parts, along = operation.inputs
    number = tf.get_static_value(along)
    if number is None:
        return plain
    if int(number) % 3 != axis:
        read = [columns_before(part, start, stop, ending_of, axis) for part in parts]
    else:
        read, first = [], 0
        for part in parts:
            if part.shape[axis] is None:
                return plain
            last = first + int(part.shape[axis])
            if first < stop and last > start:
                read.append(columns_before(part, max(start, first) - first, min(stop, last) - first, ending_of, axis))
            first = last
    activations = {activation for activation, _ in read}
    if len(activations) != 1 or not any(activation.name or activation.clip for activation in activations):
        return plain
    return read[0][0], tf.concat([value for _, value in read], axis=2 if int(number) % 3 == axis else 1)


def _columns(tensor: tf.Tensor, start: int, stop: int, axis: int) -> tf.Tensor:
    """Some columns of (batch, n, columns); of (batch, columns, n) where their axis is 1. Returns: (batch, n, stop - start)."""
    return tensor[..., start:stop] if axis == 2 else tf.transpose(tensor[:, start:stop], (0, 2, 1))


def _turns(transposition: tf.Operation) -> bool:
    order = tf.get_static_value(transposition.inputs[1])
    return order is not None and order.tolist() == [0, 2, 1]


def _corners(boxes: tf.Tensor, spec: BoxesSpec, size: tuple[int, int]) -> tf.Tensor:
    """Boxes of any format as y1, x1, y2, x2 in shares of the input."""
    if spec.format == "offsets":
        return tf.zeros_like(boxes)
    a, b, c, d = tf.unstack(boxes, axis=-1)
    y1, x1, y2, x2 = {
        "yxyx": lambda: (a, b, c, d),
        "xyxy": lambda: (b, a, d, c),
        "xywh": lambda: (b, a, b + d, a + c),
        "cxcywh": lambda: (b - d / 2, a - c / 2, b + d / 2, a + c / 2),
    }[spec.format]()
    height, width = size if spec.unit == "pixels" else (1, 1)
    return tf.stack([y1 / height, x1 / width, y2 / height, x2 / width], axis=-1)
