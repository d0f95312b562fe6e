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

    boxes, scores: the ends that hold them, which may be one. start: the first column of the class scores.
    classes: how many there are. spec: `[model.boxes]`.
    """

    boxes: str
    scores: str
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
            boxes, scores: the ends as they were read, (batch, n, columns).
            size: height and width of the input, for coordinates in pixels.

        Returns: float32 (batch, n, 5 + classes): y1, x1, y2, x2 in shares of the input, zeros where they are offsets; the
        evidence for an object at all, 0 where the network gives none; that for each class.
        """
        of_class, z = columns_before(scores, self.start, self.start + self.classes, ending_of)
        assumed = of_class.name not in ("softmax", "log_softmax") and not of_class.is_probability
        if assumed:
            z = scores[..., self.start : self.start + self.classes]
            weighted = ending_of(scores).weighted
            of_class = Activation("sigmoid") if weighted else Activation()
            reason = (
                "class scores straight from weights: a sigmoid each" if weighted else "class scores as the network gives them"
            )
        else:
            reason = f"class scores by a {'hard sigmoid' if of_class.clip else of_class.name}"
        objectness, own = None, tf.zeros_like(z[..., :1])
        if self.spec.objectness:
            objectness, own = columns_before(boxes, 4, 5, ending_of)
            own = -own if objectness.falls and objectness.is_probability else own
            if not objectness.is_probability:
                own = boxes[..., 4:5]
                objectness = Activation("sigmoid") if ending_of(boxes).weighted else Activation()
        z = -z if of_class.falls and not assumed else z
        reason = f"model.boxes: {reason}"
        head = Head("boxes", of_class, self.classes, reason, assumed, assumed, objectness, self.spec.background, self.has_places)
        corners = _corners(tf.cast(boxes[..., :4], tf.float32), self.spec, size)
        return tf.concat([corners, tf.cast(own, tf.float32), tf.cast(z, tf.float32)], axis=-1), head

    @property
    def has_places(self) -> bool:
        """Whether the boxes lie somewhere on the image; offsets from anchors do not say where."""
        return self.spec.format != "offsets"


def find_boxes(rows: Mapping[str, tuple[int, int]], spec: BoxesSpec, where: str) -> BoxOutput:
    """The ends that hold a detector's boxes and class scores: those that are named, else the only ones that can be.

    One end of (n, 4 + 1 + classes) or (n, 4 + classes), or one of (n, 4) and one of (n, classes).

    Args:
        rows: of each end that gives a row for every box: how many, and their columns.

    Raises: WrongSpec, UnknownName.
    """
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
            return _with_columns(boxes[0], scores[0], rows[scores[0]][1], spec, where)
    raise WrongSpec(
        f'model.head = "boxes", but of the outputs of {where} with a row for every box ({listed}) it is not clear which hold the '
        "boxes and which the class scores. Name them: model.boxes.boxes and model.boxes.scores."
    )


def _with_columns(boxes: str, scores: str, width: int, spec: BoxesSpec, where: str) -> BoxOutput:
    if boxes != scores:
        if spec.objectness:
            raise WrongSpec(
                f"model.boxes.objectness = true, but {where} gives its class scores apart, in {scores!r}. Leave it out."
            )
        return BoxOutput(boxes, scores, 0, width, spec)
    if spec.objectness is None:
        raise WrongSpec(
            f"{where} gives {width} numbers a box in {boxes!r}: 4 for its place, and {width - 4} classes, or 1 for an object "
            f"at all and {width - 5} classes. Say which: model.boxes.objectness = true or false."
        )
    start = 4 + spec.objectness
    if width <= start:
        raise WrongSpec(f"{where} gives {width} numbers a box in {boxes!r}, which leaves none for classes. See model.boxes.")
    return BoxOutput(boxes, scores, start, width - start, spec)


def columns_before(tensor: tf.Tensor, start: int, stop: int, ending_of: EndingReader) -> tuple[Activation, tf.Tensor]:
    """The last nonlinearity of some columns of (batch, n, columns), and these columns before it.

    Columns and rows that were put together from several tensors are followed into these; where they end in several
    nonlinearities, or in none, the columns are given as they are.
    """
    plain = (Activation(), tensor[..., start:stop])
    ending = ending_of(tensor)
    if ending.activation.name or ending.activation.clip:
        evidence = tensor.graph.get_tensor_by_name(ending.evidence)
        return ending.activation, tf.reshape(evidence, tf.shape(tensor))[..., start:stop]
    operation = tensor.op
    while operation.type in _PASSES_ON:
        operation = operation.inputs[0].op
    if operation.type != "ConcatV2":
        return plain
    *parts, axis = operation.inputs
    number = tf.get_static_value(axis)
    if number is None:
        return plain
    if int(number) in (1, -2):
        read = [columns_before(part, start, stop, ending_of) for part in parts]
        along = 1
    else:
        read, along, first = [], -1, 0
        for part in parts:
            if part.shape[-1] is None:
                return plain
            last = first + int(part.shape[-1])
            if first < stop and last > start:
                read.append(columns_before(part, max(start, first) - first, min(stop, last) - first, ending_of))
            first = last
    activations = {activation for activation, _ in read}
    if len(activations) != 1 or not any(activation.name or activation.clip for activation in activations):
        return plain
    return read[0][0], tf.concat([value for _, value in read], axis=along)


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
