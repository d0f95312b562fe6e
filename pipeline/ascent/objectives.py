"""Objectives: what an ascent raises. They add, subtract and scale: `0.7 * channel("mixed5", 12) + 0.3 * logit(207)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from pipeline.errors import UnknownLayer, WrongSpec
from pipeline.models.network import LOGITS, LayerInfo


def channel(layer: str, channel: int) -> Objective:
    """The mean of one channel's map."""
    return Objective(((1.0, Channel(layer, channel)),))


def neuron(layer: str, channel: int, row: int | None = None, col: int | None = None) -> Objective:
    """One value of one channel's map; without a place, the one in the middle."""
    return Objective(((1.0, Neuron(layer, channel, row, col)),))


def layer(layer: str) -> Objective:
    """The mean square of a whole layer, as in DeepDream (Mordvintsev, Olah and Tyka, 2015)."""
    return Objective(((1.0, Layer(layer)),))


def logit(number: int) -> Objective:
    """One class, before any softmax."""
    return Objective(((1.0, Logit(number)),))


def direction(layer: str, vector: Sequence[float]) -> Objective:
    """The mean projection of a layer's activations on a direction: one number a channel, of any length but zero."""
    return Objective(((1.0, Direction(layer, tuple(float(value) for value in vector))),))


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms, one number for an image.

    Objectives of the same `form` differ in numbers alone, and climb together in one compiled ascent.
    """

    terms: tuple[tuple[float, Term], ...]

    def __add__(self, other: Objective) -> Objective:
        return Objective(self.terms + other.terms)

    def __sub__(self, other: Objective) -> Objective:
        return self + -1 * other

    def __neg__(self) -> Objective:
        return -1 * self

    def __mul__(self, factor: float) -> Objective:
        return Objective(tuple((factor * weight, term) for weight, term in self.terms))

    __rmul__ = __mul__

    def __str__(self) -> str:
        first, *others = ((weight, term) for weight, term in self.terms)
        sign = "-" if first[0] < 0 else ""
        words = [
            f"{sign}{_scaled(*first)}",
            *(f"{'-' if weight < 0 else '+'} {_scaled(weight, term)}" for weight, term in others),
        ]
        return " ".join(words)

    @property
    def form(self) -> Form:
        """Each term's kind and layer: what is left of it without its numbers."""
        return tuple((type(term), term.layer) for _, term in self.terms)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers it looks at, each once."""
        return tuple(dict.fromkeys(term.layer for _, term in self.terms))

    def check(self, layers: Mapping[str, LayerInfo], where: str) -> None:
        """Hold it against a network before any work is done.

        Args:
            layers: by name; where there are logits, LOGITS among them.
            where: the network's name, for the errors.

        Raises: UnknownLayer; WrongSpec, for a channel, place, class or direction that the layer does not have.
        """
        for _, term in self.terms:
            if term.layer not in layers:
                hint = "Name a network with a classifier." if term.layer == LOGITS else "List them: convscope layers SPEC"
                raise UnknownLayer.among(term.layer, set(layers) - {LOGITS}, where=f"in {where}", hint=hint)
            wrong = term.wrong(layers[term.layer].shape)
            if wrong:
                raise WrongSpec(f"the objective {self} does not fit {where}: {wrong}.")


class Arguments(NamedTuple):
    """The numbers of a batch of objectives of one form.

    weights: float32 (batch, terms). numbers: one array a term, the batch first; what it is, its kind knows.
    """

    weights: np.ndarray
    numbers: tuple[np.ndarray, ...]


def stack(objectives: Sequence[Objective]) -> Arguments:
    """The numbers of objectives that share a form. Raises: ValueError where they do not."""
    forms = {objective.form for objective in objectives}
    if len(forms) != 1:
        raise ValueError(f"{len(forms)} forms of objectives in one batch: {', '.join(map(str, objectives))}.")
    weights = np.array([[weight for weight, _ in objective.terms] for objective in objectives], np.float32)
    columns = zip(*([term.numbers() for _, term in objective.terms] for objective in objectives), strict=True)
    return Arguments(weights, tuple(np.stack(column) for column in columns))


def evaluate(form: Form, maps: Mapping[str, tf.Tensor], arguments: Arguments) -> tf.Tensor:
    """The value of each image's own objective: float32 (batch,).

    Args:
        maps: {layer: float32 (batch, h, w, c)}, LOGITS as (batch, classes), as `Network.trace` gives them.
        arguments: of the batch, as arrays or tensors.
    """
    values = [kind.measure(maps[layer], numbers) for (kind, layer), numbers in zip(form, arguments.numbers, strict=True)]
    return tf.reduce_sum(arguments.weights * tf.stack(values, axis=1), axis=1)


# ---- terms


class Term(Protocol):
    """One kind of measure of one layer. Its numbers are what differs between images; its kind and layer are its form."""

    @property
    def layer(self) -> str: ...

    def numbers(self) -> np.ndarray:
        """What tells it from others of its kind."""

    def wrong(self, shape: tuple[int, int, int]) -> str | None:
        """Why it does not fit a layer whose map is (height, width, channels)."""

    @staticmethod
    def measure(maps: tf.Tensor, numbers: Any) -> tf.Tensor:
        """(batch, h, w, c) and the numbers of a batch -> float32 (batch,)."""


Form = tuple[tuple[type[Term], str], ...]


@dataclass(frozen=True)
class Channel:
    """The mean of one channel's map."""

    layer: str
    channel: int

    def __str__(self) -> str:
        return f'channel("{self.layer}", {self.channel})'

    def numbers(self) -> np.ndarray:
        return np.array(self.channel, np.int32)

    def wrong(self, shape: tuple[int, int, int]) -> str | None:
        return _out_of_range("channel", self.channel, self.layer, shape[2])

    @staticmethod
    def measure(maps: tf.Tensor, numbers: Any) -> tf.Tensor:
        return pick(tf.reduce_mean(maps, axis=[1, 2]), numbers)

    @staticmethod
    def channels(numbers: Any) -> Any:
        """The channel of each of a batch, from its numbers."""
        return numbers


@dataclass(frozen=True)
class Neuron:
    """One value of one channel's map."""

    layer: str
    channel: int
    row: int | None = None
    col: int | None = None

    def __str__(self) -> str:
        place = "" if self.row is None and self.col is None else f", {self.row}, {self.col}"
        return f'neuron("{self.layer}", {self.channel}{place})'

    def numbers(self) -> np.ndarray:
        # Where the middle is, the map knows.
        return np.array([-1 if self.row is None else self.row, -1 if self.col is None else self.col, self.channel], np.int32)

    def wrong(self, shape: tuple[int, int, int]) -> str | None:
        return (
            _out_of_range("channel", self.channel, self.layer, shape[2])
            or _out_of_range("row", self.row or 0, self.layer, shape[0])
            or _out_of_range("col", self.col or 0, self.layer, shape[1])
        )

    @staticmethod
    def measure(maps: tf.Tensor, numbers: Any) -> tf.Tensor:
        middle = tf.stack([maps.shape[1] // 2, maps.shape[2] // 2, 0])
        return tf.gather_nd(maps, tf.where(numbers < 0, middle, numbers), batch_dims=1)

    @staticmethod
    def channels(numbers: Any) -> Any:
        """The channel of each of a batch, from its numbers."""
        return numbers[:, 2]


@dataclass(frozen=True)
class Layer:
    """The mean square of a whole layer."""

    layer: str

    def __str__(self) -> str:
        return f'layer("{self.layer}")'

    def numbers(self) -> np.ndarray:
        return np.zeros(0, np.float32)

    def wrong(self, shape: tuple[int, int, int]) -> str | None:
        return None

    @staticmethod
    def measure(maps: tf.Tensor, numbers: Any) -> tf.Tensor:
        return tf.reduce_mean(tf.square(maps), axis=[1, 2, 3])


@dataclass(frozen=True)
class Logit:
    """One class, before any softmax."""

    number: int
    layer: ClassVar[str] = LOGITS

    def __str__(self) -> str:
        return f"logit({self.number})"

    def numbers(self) -> np.ndarray:
        return np.array(self.number, np.int32)

    def wrong(self, shape: tuple[int, int, int]) -> str | None:
        return _out_of_range("class", self.number, "it", shape[2])

    @staticmethod
    def measure(maps: tf.Tensor, numbers: Any) -> tf.Tensor:
        return pick(maps, numbers)


@dataclass(frozen=True)
class Direction:
    """The mean projection of a layer's activations on a direction."""

    layer: str
    vector: tuple[float, ...]

    def __str__(self) -> str:
        return f'direction("{self.layer}", [{", ".join(f"{value:g}" for value in self.vector)}])'

    def numbers(self) -> np.ndarray:
        vector = np.array(self.vector, np.float64)
        return (vector / np.linalg.norm(vector)).astype(np.float32)

    def wrong(self, shape: tuple[int, int, int]) -> str | None:
        if len(self.vector) != shape[2]:
            return f"a direction in {self.layer} has {shape[2]} numbers, not {len(self.vector)}"
        length = float(np.linalg.norm(self.vector))
        return None if np.isfinite(length) and length > 0 else f"a direction in {self.layer} is of length {length:g}"

    @staticmethod
    def measure(maps: tf.Tensor, numbers: Any) -> tf.Tensor:
        return tf.reduce_sum(tf.reduce_mean(maps, axis=[1, 2]) * numbers, axis=1)


def pick(values: tf.Tensor, numbers: Any) -> tf.Tensor:
    """One column of each row: (batch, n), (batch,) -> (batch,). What stands in the others, NaN even, does not count."""
    chosen = tf.one_hot(numbers, values.shape[1], on_value=True, off_value=False, dtype=tf.bool)
    return tf.reduce_sum(tf.where(chosen, values, 0.0), axis=1)


def _out_of_range(what: str, number: int, layer: str, count: int) -> str | None:
    known = f"{layer} has {count} ({'0' if count == 1 else f'0 to {count - 1}'})"
    return None if 0 <= number < count else f"there is no {what} {number}: {known}"


def _scaled(weight: float, term: Term) -> str:
    return str(term) if abs(weight) == 1 else f"{abs(weight):g} * {term}"
