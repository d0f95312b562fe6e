"""Heads: what the numbers mean that a network ends in, by one rule for all kinds of networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.errors import WrongSpec
from pipeline.spec.model import BoxesSpec, ModelSpec

HeadKind = Literal["softmax", "sigmoid", "linear", "embedding", "map", "boxes"]
BOX_COLUMNS = 5  # before the classes, for each box: y1, x1, y2, x2 and the evidence for an object at all


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities: float (…, classes) to float64 of the same shape, at temperature 1."""
    values = logits.astype(np.float64)
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


FORMULAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": softmax,
    "log_softmax": lambda z: np.log(softmax(z)),
    "sigmoid": lambda z: 0.5 * (1 + np.tanh(z / 2)),
    "tanh": np.tanh,
    "softplus": lambda z: np.logaddexp(0, z),
    "softsign": lambda z: z / (1 + np.abs(z)),
    "elu": lambda z: np.where(z < 0, np.expm1(z), z),
    "relu": lambda z: np.maximum(z, 0),
    "exp": np.exp,
    "": lambda z: z,
}
_RANGES = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}  # of functions with f(-z) as far below the middle as f(z) is above it


@dataclass(frozen=True)
class Activation:
    """From the evidence to the network's output: `scale * f(z) + offset`, f by its name, "" for none.

    Where that falls as z rises, as in 1 - sigmoid(z), the evidence is -z: more of it always gives a higher output.

    clip: where f is a clip, its bounds, and the slope and the shift of the line that it cuts off.
    """

    name: str = ""
    scale: float = 1.0
    offset: float = 0.0
    clip: tuple[float, float, float, float] | None = None

    def __call__(self, evidence: np.ndarray) -> np.ndarray:
        """float (…, outputs) to float64 of the same shape."""
        values = -evidence.astype(np.float64) if self.falls else evidence.astype(np.float64)
        if self.clip:
            low, high, slope, shift = self.clip
            return self.scale * np.clip(slope * values + shift, low, high) + self.offset
        return self.scale * FORMULAS[self.name](values) + self.offset

    @property
    def is_probability(self) -> bool:
        """Whether it is a sigmoid of whatever formula: from 0 to 1, with f(-z) = 1 - f(z)."""
        if self.clip:
            low, high, _, shift = self.clip
            if not np.isclose(shift, (low + high) / 2):
                return False
        elif self.name not in _RANGES:
            return False
        else:
            low, high = _RANGES[self.name]
        ends = sorted((self.scale * low + self.offset, self.scale * high + self.offset))
        return bool(np.allclose(ends, (0, 1), atol=1e-6))

    @property
    def falls(self) -> bool:
        """Whether the output falls as the value before the nonlinearity rises, so that the evidence is its negative."""
        return self.scale * (self.clip[2] if self.clip else 1.0) < 0


@dataclass(frozen=True)
class Head:
    """What a network's outputs mean.

    kind: "softmax", one class of several; "sigmoid", a probability each, where one output stands for two classes, 0 and 1;
        "linear", numbers that are no probabilities; "embedding", a vector that means something beside others alone;
        "map", classes at every position; "boxes", classes of every box that a detector draws.
    activation: from the evidence to the outputs.
    outputs: how many numbers the network gives, for each position of a map.
    reason: why it is this kind, in words. assumed: whether the network leaves that open.
    is_output: whether the evidence is made from the output itself, not from what stands before its last nonlinearity.
    of_probabilities: whether that output is a probability already: the evidence is then its logarithm, or that of its odds.
    objectness: of boxes: from the evidence for an object at all to its probability, where the network gives that.
    background: of boxes: the class that is no object. has_places: whether the boxes lie somewhere on the image.
    """

    kind: HeadKind
    activation: Activation
    outputs: int
    reason: str
    assumed: bool = False
    is_output: bool = False
    objectness: Activation | None = None
    background: int | None = None
    has_places: bool = True
    of_probabilities: bool = False

    @property
    def classes(self) -> int:
        """How many numbers the evidence has: one an output, but two where one output tells two classes apart."""
        return 2 if self.is_binary else self.outputs

    @property
    def is_binary(self) -> bool:
        """Whether one output tells two classes apart: the evidence is then -z for class 0, and z for class 1."""
        return self.outputs == 1 and self.kind in ("sigmoid", "map")

    def probabilities(self, evidence: np.ndarray) -> np.ndarray | None:
        """float (…, classes) to float64 of the same shape, at the network's own temperature; None where there are none."""
        if self.kind not in ("softmax", "sigmoid", "map"):
            return None
        if self.activation.is_probability:
            return self.activation(evidence)
        return softmax(evidence)

    @property
    def gives_probabilities(self) -> bool:
        """Whether the scores of boxes are probabilities, and not numbers of the network's own."""
        return self.activation.is_probability or self.activation.name in ("softmax", "log_softmax")

    def box_scores(self, evidence: np.ndarray) -> np.ndarray:
        """How sure a detector is of each class of each box: float (…, boxes, 5 + classes) to float64 (…, boxes, classes).

        The class's probability, times that of an object at all where the network gives it.
        """
        z = evidence[..., BOX_COLUMNS:]
        scores = softmax(z) if self.activation.name in ("softmax", "log_softmax") else self.activation(z)
        if self.objectness is not None:
            scores = scores * self.objectness(evidence[..., BOX_COLUMNS - 1 : BOX_COLUMNS])
        return scores

    @property
    def why(self) -> str:
        """The reason, and whether it is an assumption."""
        return f"{'assumed: ' if self.assumed else ''}{self.reason}"

    def __str__(self) -> str:
        """The kind and why, as `check` and `run` print them."""
        return f"{self.kind} ({self.why})"


def describe(kind: str, probability: float | None, output: float | None) -> str:
    """What a network says of one class or output, for people: "93.1%", "0.93 (sigmoid)", "output 3.2", "similarity 0.71"."""
    if probability is None:
        return f"{'similarity' if kind == 'embedding' else 'output'} {output:.4g}"
    return f"{probability:.1%}" if kind == "softmax" else f"{probability:.2f} ({kind})"


# Class scores, of however many classes.
SOFTMAX = Head("softmax", Activation("softmax"), 0, "")

# What a loss that a model was compiled with says of outputs that end in no nonlinearity, by the names that Keras uses.
LOSSES: dict[str, HeadKind] = {
    "categorical_crossentropy": "softmax",
    "sparse_categorical_crossentropy": "softmax",
    "categorical_focal_crossentropy": "softmax",
    "kl_divergence": "softmax",
    "binary_crossentropy": "sigmoid",
    "binary_focal_crossentropy": "sigmoid",
    "mean_squared_error": "linear",
    "mse": "linear",
    "mean_absolute_error": "linear",
    "mae": "linear",
    "mean_absolute_percentage_error": "linear",
    "mape": "linear",
    "mean_squared_logarithmic_error": "linear",
    "msle": "linear",
    "huber": "linear",
    "huber_loss": "linear",
    "log_cosh": "linear",
    "logcosh": "linear",
    "poisson": "linear",
    "cosine_similarity": "embedding",
}


@dataclass(frozen=True)
class OutputSpec:
    """What is known of a network's output beside its graph.

    logits: the layer that gives the logits, needed where the network ends in several; None for the one it ends in.
    head: `model.head`. classes_named: whether `model.labels` names the classes.
    boxes: `[model.boxes]`.
    loss: what the model was compiled with, a key of `LOSSES`; None where that is not known.
    classifier: why the network is known to tell classes apart, in words; "" where it is not.
    """

    logits: str | None = None
    head: Literal["auto"] | HeadKind = "auto"
    classes_named: bool = False
    loss: str | None = None
    classifier: str = ""
    boxes: BoxesSpec | None = None

    @classmethod
    def of(cls, spec: ModelSpec, loss: str | None = None, classifier: str = "") -> OutputSpec:
        """What a job's `[model]` says, and what its family knows."""
        return cls(spec.logits, spec.head, spec.labels is not None, loss, classifier, spec.boxes)


@dataclass(frozen=True)
class OutputEnd:
    """What a network's graph shows of its output.

    activation, last, weighted, squashed: as of `pipeline.models.ending.Ending`.
    outputs: numbers for each image, or for each position of a map.
    gives: of numbers without a last nonlinearity, as measured: "classes", probabilities that sum to 1; "each", numbers from 0
        to 1; "" for any others, and where that was not looked at.
    is_picture: whether a map has the size and the channels of the image that the network takes.
    """

    activation: Activation
    last: str
    weighted: bool
    outputs: int
    is_map: bool = False
    squashed: str = ""
    gives: Literal["", "classes", "each"] = ""
    is_picture: bool = False

    @property
    def is_softmax(self) -> bool:
        """Whether it ends in a softmax that chooses among several classes, of which more evidence gives more."""
        activation = self.activation
        return (
            activation.name in ("softmax", "log_softmax") and self.outputs > 1 and activation.scale > 0 and activation.offset == 0
        )

    @property
    def gives_probabilities(self) -> bool:
        """Whether its numbers are probabilities that no last nonlinearity gave, such as the mean of several softmaxes."""
        return self.gives == "classes" or (self.gives == "each" and bool(self.squashed))

    @property
    def tells_classes(self) -> bool:
        """Whether its last nonlinearity says that its numbers are of classes."""
        return self.is_softmax or self.activation.is_probability

    def __str__(self) -> str:
        """Such as: a tanh; 3 numbers straight from weights; 128 numbers after Mul."""
        name = "hard sigmoid" if self.activation.clip else self.activation.name
        if name:
            return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
        numbers = "one number" if self.outputs == 1 else f"{self.outputs} numbers"
        return f"{numbers} straight from weights" if self.weighted else f"{numbers} after {self.last or 'the image'}"


def decide(end: OutputEnd, spec: OutputSpec, where: str) -> Head:
    """What a network's output means: as the job says, else by its last nonlinearity, else by what is known, else assumed.

    Raises: WrongSpec, for a `model.head` that the output cannot have.
    """
    if spec.head != "auto":
        return _named(end, spec.head, where)
    count, ends = end.outputs, f"the network ends in {end}"
    regresses = bool(spec.loss) and LOSSES[str(spec.loss)] == "linear"
    compiled = f"{ends}, and was compiled with the loss {spec.loss}"
    if end.is_map:
        if end.gives_probabilities:
            return _of_probabilities("map", end, f"{ends} at every position")
        ends += " at every position" + (
            '; if that is a picture and no map of classes, set model.head = "embedding"' * end.is_picture
        )
        return Head("map", _at_positions(end), count, ends, assumed=end.is_picture or not end.tells_classes)
    if end.is_softmax:
        return Head("softmax", end.activation, count, ends)
    if end.activation.is_probability:
        meaning = "classes 0 and 1 by one output" if count == 1 else f"a probability for each of {count} outputs"
        doubt = f'; for the regression that its loss {spec.loss} may mean, set model.head = "linear"' if regresses else ""
        return Head("sigmoid", end.activation, count, f"{ends}: {meaning}{doubt}", assumed=regresses)
    if end.activation.name == "softmax" and count == 1:
        reason = "a softmax of one number is 1 for every image; if that number tells two classes apart, set model.head"
        return Head("linear", Activation(), count, reason, assumed=True)
    if end.activation.name and (end.activation.name != "relu" or count == 1):
        return Head("linear", end.activation, count, ends)
    if regresses:
        return Head("linear", end.activation, count, compiled)
    if end.gives_probabilities:
        return _of_probabilities("softmax" if end.gives == "classes" else "sigmoid", end, ends)
    if spec.loss:
        return _without_nonlinearity(LOSSES[spec.loss], count, compiled)
    if spec.classifier:
        return _without_nonlinearity("softmax", count, spec.classifier)
    if spec.classes_named and count > 1:
        return _without_nonlinearity("softmax", count, f"{ends}, for which model.labels has names")
    if end.activation.name == "relu" or not end.weighted:
        return _without_nonlinearity("embedding", count, f"{ends}; for classes or a regression set model.head", True)
    if count == 1:
        return _without_nonlinearity("linear", count, f'{ends}; if it tells two classes apart, set model.head = "sigmoid"', True)
    return _without_nonlinearity("softmax", count, f"{ends}; for several labels an image, or a regression, set model.head", True)


def _named(end: OutputEnd, kind: HeadKind, where: str) -> Head:
    """The head that a job names, held against the network's end."""
    if (kind == "map") != end.is_map and kind != "embedding":
        shape = "numbers at every position of a map" if end.is_map else "one vector an image, not a map"
        fitting = '"map" or "embedding"' if end.is_map else '"softmax", "sigmoid", "linear" or "embedding"'
        raise WrongSpec(
            f"model.head = {kind!r}, but {where} gives {shape}. Write {fitting}, or name another output: model.logits."
        )
    if end.gives_probabilities and kind in ("softmax", "sigmoid", "map"):
        if kind == "softmax" and end.gives == "each":
            raise WrongSpec(
                f'model.head = "softmax", but {where} ends in {end}, each from 0 to 1, which do not sum to 1. Write "sigmoid", '
                '"linear" or "embedding", or name the layer of the class scores: model.logits.'
            )
        return _of_probabilities(kind, end, "model.head", asked=True)
    squashed = end.activation.name not in ("", "relu") and not (end.outputs == 1 and end.activation.name == "softmax")
    if (kind == "softmax" and squashed and not end.is_softmax) or (
        kind == "sigmoid" and squashed and not end.activation.is_probability
    ):
        raise WrongSpec(f'model.head = {kind!r}, but {where} ends in {end}. Leave it "auto", or write "linear".')
    if kind == "map":
        return Head(kind, _at_positions(end), end.outputs, "model.head")
    if kind in ("softmax", "sigmoid") and not end.tells_classes:
        return _without_nonlinearity(kind, end.outputs, "model.head")
    if kind == "embedding":
        return _without_nonlinearity(kind, end.outputs, "model.head")
    return Head(kind, end.activation, end.outputs, "model.head")


def _without_nonlinearity(kind: HeadKind, count: int, reason: str, assumed: bool = False) -> Head:
    """The head of numbers that end in no nonlinearity that counts: they are the evidence, and classes bring their own."""
    activation = Activation(kind if kind in ("softmax", "sigmoid") else "")
    return Head(kind, activation, count, reason, assumed, is_output=True)


def _of_probabilities(kind: HeadKind, end: OutputEnd, reason: str, asked: bool = False) -> Head:
    """The head of an output that is probabilities by what it was measured to give."""
    name = "softmax" if kind == "softmax" or (kind == "map" and end.gives == "classes") else "sigmoid"
    meaning = "which sum to 1: probabilities" if end.gives == "classes" else "each from 0 to 1: taken for a probability each"
    reason = reason if asked else f"{reason}, {meaning}"
    assumed = not asked and (end.gives == "each" or not end.squashed)
    return Head(kind, Activation(name), end.outputs, reason, assumed, is_output=True, of_probabilities=True)


def _at_positions(end: OutputEnd) -> Activation:
    return end.activation if end.tells_classes else Activation("sigmoid" if end.outputs == 1 else "softmax")
