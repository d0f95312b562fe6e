"""Objectives of gradient ascent, which can be added and scaled: `0.7 * channel("mixed5", 12) + 0.3 * logit(207)`.

A new kind of term is a class here, an entry in `TERMS`, and a function for Python users below it; its fields are the
keys of `[[patterns.objectives.terms]]`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, ParamSpec

import numpy as np
from pydantic import Field

from pipeline.errors import UnknownLayer, WrongSpec
from pipeline.models.network import LOGITS, LayerInfo

if TYPE_CHECKING:
    import tensorflow as tf

# The types of a spec's keys. Python users may pass other values, which `Objective.check` then rejects.
Index = Annotated[int, Field(ge=0, le=2**53, strict=True)]
Finite = Annotated[float, Field(allow_inf_nan=False)]

P = ParamSpec("P")


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms: one number for an image.

    Objectives of the same `form` differ only in numbers, and share one compiled ascent.
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
        """The objective as Python would read it."""
        (weight, term), *others = self.terms
        words = [f"{'-' if weight < 0 else ''}{_scaled(weight, term)}"]
        return " ".join(words + [f"{'-' if weight < 0 else '+'} {_scaled(weight, term)}" for weight, term in others])

    @property
    def form(self) -> Form:
        """Each term's type and layer: the objective without its numbers."""
        return tuple((type(term), term.layer) for _, term in self.terms)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that its terms measure, each once."""
        return layers_of(self.form)

    def check(self, layers: Mapping[str, LayerInfo], where: str) -> None:
        """Check the objective against a network, before any work is done.

        Args:
            layers: by name, including LOGITS if the network has logits.
            where: the network's name, for the errors.

        Raises: UnknownLayer; WrongSpec, for a channel, position, class or direction that the layer does not have.
        """
        for _, term in self.terms:
            if term.layer not in layers:
                hint = "Name a network with a classifier." if term.layer == LOGITS else "List them: convscope layers SPEC"
                raise UnknownLayer.among(term.layer, set(layers) - {LOGITS}, where=f"in {where}", hint=hint)
            misfit = term.misfit(layers[term.layer].shape)
            if misfit:
                raise WrongSpec(f"the objective {self} does not fit {where}: {misfit}.")


class Arguments(NamedTuple):
    """The numbers of a batch of objectives of one form.

    weights: float32 (batch, terms). numbers: one array a term, the batch first, as the term's `numbers` gives them.
    """

    weights: np.ndarray
    numbers: tuple[np.ndarray, ...]


def stack(objectives: Sequence[Objective]) -> Arguments:
    """The numbers of objectives of one form. Raises: ValueError, for objectives of several forms."""
    forms = {objective.form for objective in objectives}
    if len(forms) != 1:
        raise ValueError(f"{len(forms)} forms of objectives in one batch: {', '.join(map(str, objectives))}.")
    weights = np.array([[weight for weight, _ in objective.terms] for objective in objectives], np.float32)
    columns = zip(*([term.numbers() for _, term in objective.terms] for objective in objectives), strict=True)
    return Arguments(weights, tuple(np.stack(column) for column in columns))


def evaluate(form: Form, maps: Mapping[str, tf.Tensor], arguments: Arguments) -> tf.Tensor:
    """The value of each image's own objective: float32 (batch,).

    Args:
        maps: {layer: float32 (batch, h, w, c)}, LOGITS as (batch, classes) or a map of classes, as `Network.trace` gives them.
        arguments: of the batch, as arrays or tensors.
    """
    import tensorflow as tf

    values = [term.measure(maps[layer], numbers) for (term, layer), numbers in zip(form, arguments.numbers, strict=True)]
    return tf.reduce_sum(arguments.weights * tf.stack(values, axis=1), axis=1)


def layers_of(form: Form) -> tuple[str, ...]:
    """The layers of a form, each once."""
    return tuple(dict.fromkeys(layer for _, layer in form))


# ---- terms


class Term(ABC):
    """A measure of one layer, a frozen dataclass.

    Its fields are the keys of a spec's term and the arguments of the Python function of its name. Its type and layer
    are part of the form; `numbers` is what differs between the images of a batch.
    """

    layer: str

    def __str__(self) -> str:
        """The term as Python would read it; trailing arguments that are None are left out."""
        arguments = [getattr(self, key) for key in keys_of(type(self))]
        while arguments and arguments[-1] is None:
            arguments.pop()
        return f"{kind_of(type(self))}({', '.join(map(_written, arguments))})"

    def numbers(self) -> np.ndarray:
        """The numbers that distinguish it from other terms of its type and layer."""
        return np.zeros(0, np.float32)

    def misfit(self, shape: tuple[int, int, int]) -> str | None:
        """Why it does not fit a layer whose map is (height, width, channels); None where it does."""
        return None

    @staticmethod
    @abstractmethod
    def measure(maps: tf.Tensor, numbers: Any) -> tf.Tensor:
        """(batch, h, w, c) and the numbers of a batch -> float32 (batch,), in the graph."""

    @staticmethod
    def channels(numbers: Any) -> Any | None:
        """The one channel that each of a batch measures, from their numbers; None where a term measures several."""
        return None


Form = tuple[tuple[type[Term], str], ...]


@dataclass(frozen=True)
class Channel(Term):
    """The mean of one channel's map."""

    layer: str
    channel: Index

    def numbers(self) -> np.ndarray:
        return np.array(self.channel, np.int32)

    def misfit(self, shape: tuple[int, int, int]) -> str | None:
        return _out_of_range("channel", self.channel, self.layer, shape[2])

    @staticmethod
    def measure(maps: tf.Tensor, numbers: Any) -> tf.Tensor:
        import tensorflow as tf

        return pick(tf.reduce_mean(maps, axis=[1, 2]), numbers)

    @staticmethod
    def channels(numbers: Any) -> Any:
        return numbers


@dataclass(frozen=True)
class Neuron(Term):
    """One value of one channel's map; without a row or column, the one in the middle."""

    layer: str
    channel: Index
    row: Index | None = None
    col: Index | None = None

    def numbers(self) -> np.ndarray:
        # Only the map knows where its middle is.
        return np.array([-1 if self.row is None else self.row, -1 if self.col is None else self.col, self.channel], np.int32)

    def misfit(self, shape: tuple[int, int, int]) -> str | None:
        return (
            _out_of_range("channel", self.channel, self.layer, shape[2])
            or _out_of_range("row", self.row or 0, self.layer, shape[0])
            or _out_of_range("col", self.col or 0, self.layer, shape[1])
        )

    @staticmethod
    def measure(maps: tf.Tensor, numbers: Any) -> tf.Tensor:
        import tensorflow as tf

        middle = tf.stack([maps.shape[1] // 2, maps.shape[2] // 2, 0])
        return tf.gather_nd(maps, tf.where(numbers < 0, middle, numbers), batch_dims=1)

    @staticmethod
    def channels(numbers: Any) -> Any:
        return numbers[:, 2]


@dataclass(frozen=True)
class Layer(Term):
    """The mean square of a whole layer, as in DeepDream (Mordvintsev, Olah and Tyka, 2015)."""

    layer: str

    @staticmethod
    def measure(maps: tf.Tensor, numbers: Any) -> tf.Tensor:
        import tensorflow as tf

        return tf.reduce_mean(tf.square(maps), axis=[1, 2, 3])


@dataclass(frozen=True)
class Logit(Term):
    """One class or output, before the last nonlinearity; in a map of classes, the mean over its positions."""

    number: Index
    layer: str = field(default=LOGITS, init=False)

    def numbers(self) -> np.ndarray:
        return np.array(self.number, np.int32)

    def misfit(self, shape: tuple[int, int, int]) -> str | None:
        return _out_of_range("class", self.number, "it", shape[2])

    @staticmethod
    def measure(maps: tf.Tensor, numbers: Any) -> tf.Tensor:
        import tensorflow as tf

        return pick(tf.reduce_mean(maps, axis=[1, 2]) if maps.shape.rank == 4 else maps, numbers)


@dataclass(frozen=True)
class Direction(Term):
    """The mean projection of a layer's activations on a direction: one number a channel, of any length but zero."""

    layer: str
    vector: Sequence[Finite]

    def __post_init__(self) -> None:
        object.__setattr__(self, "vector", tuple(float(value) for value in self.vector))

    def numbers(self) -> np.ndarray:
        vector = np.array(self.vector, np.float64)
        return (vector / np.linalg.norm(vector)).astype(np.float32)

    def misfit(self, shape: tuple[int, int, int]) -> str | None:
        if len(self.vector) != shape[2]:
            return f"a direction in {self.layer} has {shape[2]} numbers, not {len(self.vector)}"
        length = float(np.linalg.norm(self.vector))
        return None if np.isfinite(length) and length > 0 else f"a direction in {self.layer} is of length {length:g}"

    @staticmethod
    def measure(maps: tf.Tensor, numbers: Any) -> tf.Tensor:
        import tensorflow as tf

        return tf.reduce_sum(tf.reduce_mean(maps, axis=[1, 2]) * numbers, axis=1)


def pick(values: tf.Tensor, numbers: Any) -> tf.Tensor:
    """One column of each row: (batch, n), (batch,) -> (batch,). The other columns may hold NaN."""
    import tensorflow as tf

    chosen = tf.one_hot(numbers, values.shape[1], on_value=True, off_value=False, dtype=tf.bool)
    return tf.reduce_sum(tf.where(chosen, values, 0.0), axis=1)


def _out_of_range(unit: str, number: int, layer: str, count: int) -> str | None:
    known = f"{layer} has {count} ({'0' if count == 1 else f'0 to {count - 1}'})"
    return None if 0 <= number < count else f"there is no {unit} {number}: {known}"


def _scaled(weight: float, term: Term) -> str:
    return str(term) if abs(weight) == 1 else f"{abs(weight):g} * {term}"


def _written(argument: Any) -> str:
    if isinstance(argument, tuple):
        return f"[{', '.join(f'{value:g}' for value in argument)}]"
    return f'"{argument}"' if isinstance(argument, str) else str(argument)


# ---- the table


def kind_of(term: type[Term]) -> str:
    """The name of a type of term in specs and in Python."""
    return term.__name__.lower()


def keys_of(term: type[Term]) -> dict[str, bool]:
    """The keys of a type of term, and whether each is required."""
    return {key.name: key.default is MISSING for key in fields(term) if key.init}  # type: ignore[arg-type]


def _function(term: Callable[P, Term]) -> Callable[P, Objective]:
    """The function that Python users call: the objective of a term, of weight 1."""

    def objective(*arguments: P.args, **keys: P.kwargs) -> Objective:
        return Objective(((1.0, term(*arguments, **keys)),))

    objective.__doc__ = term.__doc__
    return objective


TERMS: dict[str, type[Term]] = {kind_of(term): term for term in (Channel, Neuron, Layer, Logit, Direction)}

channel = _function(Channel)
neuron = _function(Neuron)
layer = _function(Layer)
logit = _function(Logit)
direction = _function(Direction)
