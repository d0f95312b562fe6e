"""Detectors for the survey of heads: every layout and format of boxes, and what they mean by their definitions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Detector:
    """How a detector gives its boxes.

    layout: "rows", one output with a row for every box; "columns", the same with a column for every box; "levels", two
        outputs of the same kind one behind the other; "pair", boxes and class scores apart; "pair of columns".
    format, unit, objectness: as of `[model.boxes]`. nonlinearity: of the class scores.
    """

    layout: str
    format: str
    unit: str
    objectness: bool
    nonlinearity: str
    classes: int = 3

    @property
    def table(self) -> dict[str, Any]:
        """`[model.boxes]`."""
        table: dict[str, Any] = {"format": self.format}
        table |= {} if self.format == "offsets" else {"unit": self.unit}
        table |= {} if self.layout.startswith("pair") else {"objectness": self.objectness}
        return table | ({"transposed": True} if "columns" in self.layout else {})

    def scores(self, evidence: np.ndarray) -> np.ndarray:
        """How sure it is of each class of each box, by definition: float (..., 5 + classes) to (..., classes)."""
        z = evidence[..., 5:].astype(np.float64)
        powers = np.exp(z)
        scores = powers / powers.sum(-1, keepdims=True) if self.nonlinearity == "softmax" else 1 / (1 + np.exp(-z))
        return scores / (1 + np.exp(-evidence[..., 4:5])) if self.objectness else scores


DETECTORS = {
    "boxes in rows, YOLO": Detector("rows", "cxcywh", "pixels", True, "sigmoid"),
    "boxes in columns, YOLO": Detector("columns", "cxcywh", "pixels", False, "sigmoid"),
    "boxes of two levels": Detector("levels", "xywh", "share", False, "sigmoid"),
    "boxes and scores": Detector("pair", "yxyx", "share", False, "softmax"),
    "boxes and scores in columns": Detector("pair of columns", "xyxy", "pixels", False, "sigmoid"),
    "offsets and scores": Detector("pair", "offsets", "share", False, "softmax"),
}


def detector_of(form: Detector, maps: Any, side: int) -> tuple[list[Any], Callable[[Any], Any]]:
    """The outputs of a detector over a map, and the function from that map to its evidence, in TensorFlow.

    Args:
        side: of the image, in pixels.
    """
    import keras

    layers = keras.layers
    columns = 4 + form.objectness + form.classes
    last = layers.Conv2D(columns, 1, name="boxes_and_scores")
    rows = int(np.prod(maps.shape[1:3]))
    raw = layers.Reshape((rows, columns))(last(maps))
    last.kernel.assign(3 * last.kernel)
    squash = layers.Activation(form.nonlinearity)

    def one(x: Any) -> Any:
        return layers.Concatenate()([x[..., :4], squash(x[..., 4:])])

    if form.layout.startswith("pair"):
        outputs = [layers.Identity()(raw[..., :4]), squash(raw[..., 4:])]
    elif form.layout == "levels":
        outputs = [layers.Concatenate(axis=1)([one(raw[:, :40]), one(raw[:, 40:])])]
    else:
        outputs = [one(raw)]
    outputs = [layers.Permute((2, 1))(y) for y in outputs] if "columns" in form.layout else outputs

    def evidence(values: Any) -> Any:
        import tensorflow as tf

        z = tf.reshape(tf.tensordot(values, tf.reshape(last.kernel, (-1, columns)), 1) + last.bias, (-1, rows, columns))
        a, b, c, d = (z[..., number : number + 1] for number in range(4))
        corners = {
            "yxyx": [a, b, c, d],
            "xyxy": [b, a, d, c],
            "xywh": [b, a, b + d, a + c],
            "cxcywh": [b - d / 2, a - c / 2, b + d / 2, a + c / 2],
            "offsets": [tf.zeros_like(a)] * 4,
        }[form.format]
        corners = [edge / (side if form.unit == "pixels" else 1) for edge in corners]
        thing = z[..., 4:5] if form.objectness else tf.zeros_like(a)
        return tf.concat([*corners, thing, z[..., 4 + form.objectness :]], axis=-1)

    return outputs, evidence
