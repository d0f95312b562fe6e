"""Targets: what of a network's output is explained, and the names of its classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipeline.errors import UnknownName, WrongSpec
from pipeline.models.head import SOFTMAX, Head

if TYPE_CHECKING:
    import tensorflow as tf

PREDICTED = -1  # instead of a class: the one with the highest logit
MOST_LIKELY = "predicted"  # in gradcam.targets
TRUE_LABEL = "label"


@dataclass(frozen=True, eq=False)
class Reading:
    """What the network says of a target, as people read it, for some images.

    probability: float64 (images,), where the head gives any. output: float64 (images,), where it gives none.
    """

    probability: np.ndarray | None = None
    output: np.ndarray | None = None

    @property
    def value(self) -> np.ndarray:
        """The one of the two that there is."""
        value = self.output if self.probability is None else self.probability
        assert value is not None
        return value


class Target(Protocol):
    """What is explained: a number that the network gives for each image, and of which gradients are taken."""

    def number(self, label: str | None) -> int | None:
        """The output that it is for an image with this label: a number, PREDICTED, or None where the image has no such target."""

    def score(self, logits: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        """The number to differentiate, in the graph: float32 logits (batch, …) and int32 (batch,) to float32 (batch,)."""

    def reading(self, logits: np.ndarray, number: int) -> Reading:
        """The network's answer at the output of this number: float (images, …) logits."""

    def title(self, number: int) -> str:
        """The target for people: a class by its name."""

    def key(self, number: int) -> str:
        """The part of its files' names that identifies it, the same for targets that ask the same."""


@dataclass(frozen=True)
class Classes:
    """The classes of a network by number and name.

    names: one a logit; None where nothing names them.
    head: what the logits mean.
    key: of the spec, by which classes are asked for; for messages.
    """

    count: int
    names: tuple[str, ...] | None
    head: Head = SOFTMAX
    key: str = "gradcam.targets"

    def name(self, number: int) -> str:
        """A class for people: its name, or its number where it has none."""
        return self.names[number] if self.names else str(number)

    def of_label(self, label: str | None) -> int | None:
        """The class that a data set's label means: of the same name, or, where classes have none, of that number."""
        if label is None:
            return None
        if self.names:
            numbers = [number for number, name in enumerate(self.names) if _plain(name) == _plain(label)]
            return numbers[0] if len(numbers) == 1 else None
        return int(label) if re.fullmatch(r"\d+", label) and int(label) < self.count else None

    def find(self, named: int | str) -> int:
        """The number of a class given by number or name. Raises: WrongSpec, UnknownName."""
        if isinstance(named, int):
            if named >= self.count:
                raise WrongSpec(f"{self.key}: there is no class {named}; they run from 0 to {self.count - 1}.")
            return named
        names = self.names or ()
        numbers = [number for number, name in enumerate(names) if _plain(name) == _plain(named)]
        if len(numbers) > 1:
            raise WrongSpec(f"{self.key}: {named!r} is the name of classes {', '.join(map(str, numbers))}. Name one by number.")
        if not numbers:
            hint = "" if names else "The classes have no names: set model.labels, or give numbers."
            known = [*names, MOST_LIKELY, TRUE_LABEL]
            raise UnknownName.among(named, known, where=f"a class of the network ({self.key})", hint=hint)
        return numbers[0]

    def check(self, asked: Sequence[int | str], labels: Sequence[str] | None) -> None:
        """Find classes that are not there before work starts.

        Args:
            labels: the data set's, where it tells them in advance.

        Raises: WrongSpec, UnknownName.
        """
        for named in asked:
            if named not in (MOST_LIKELY, TRUE_LABEL):
                self.find(named)
        if TRUE_LABEL in asked and labels is not None and all(self.of_label(label) is None for label in labels):
            raise WrongSpec(
                f'{self.key} = "label", but no label of the data ({", ".join(labels[:3])}, …) is one of the '
                f"{self.count} classes ({', '.join(self.name(number) for number in range(min(3, self.count)))}, …). "
                'Name a file of class names that fits in model.labels, or leave "label" out.'
            )


@dataclass(frozen=True)
class ClassTarget:
    """The evidence for one class: its logit. `asked` is "predicted", "label" (the image's own), a number or a name."""

    classes: Classes
    asked: int | str

    def number(self, label: str | None) -> int | None:
        """The class for an image with this label; None for a label that is no class. Raises: WrongSpec, UnknownName."""
        if self.asked == MOST_LIKELY:
            return PREDICTED
        return self.classes.of_label(label) if self.asked == TRUE_LABEL else self.classes.find(self.asked)

    def score(self, logits: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        """The logit of each image's class."""
        import tensorflow as tf

        return tf.gather(logits, numbers, batch_dims=1)

    def reading(self, logits: np.ndarray, number: int) -> Reading:
        """The probability of the class."""
        probabilities = self.classes.head.probabilities(logits)
        assert probabilities is not None
        return Reading(probabilities[..., number])

    def title(self, number: int) -> str:
        """The class for people."""
        return self.classes.name(number)

    def key(self, number: int) -> str:
        """The class by number."""
        return str(number)


@dataclass(frozen=True)
class OutputTarget:
    """One number of a regression, raised, or lowered where the sign is -1: the evidence is taken before a last nonlinearity."""

    classes: Classes
    output: int
    sign: int = 1

    def number(self, label: str | None) -> int | None:
        """The output, whatever the label."""
        return self.output

    def score(self, logits: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        """The evidence for a higher output, or for a lower one."""
        return self.sign * logits[:, self.output]

    def reading(self, logits: np.ndarray, number: int) -> Reading:
        """The output as the network gives it, of whatever sign."""
        return Reading(output=self.classes.head.activation(logits)[..., number])

    def title(self, number: int) -> str:
        """The output for people."""
        return f"{self.classes.name(number)}{', lowered' if self.sign < 0 else ''}"

    def key(self, number: int) -> str:
        """The output by number, with its sign."""
        return f"{number}{'-lowered' if self.sign < 0 else ''}"


@dataclass(frozen=True)
class TargetOfOutput:
    """A target of one of several outputs: its words begin with the output's name."""

    target: Target
    output: str

    def number(self, label: str | None) -> int | None:
        """The number of the target's class or output."""
        return self.target.number(label)

    def score(self, logits: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        """The target's score."""
        return self.target.score(logits, numbers)

    def reading(self, logits: np.ndarray, number: int) -> Reading:
        """The target's reading."""
        return self.target.reading(logits, number)

    def title(self, number: int) -> str:
        """The output and the target."""
        return f"{self.output}: {self.target.title(number)}"

    def key(self, number: int) -> str:
        """The target's key; its files lie in a folder named after the output."""
        return self.target.key(number)


def starting_relevance(target: Target, logits: tf.Tensor, numbers: tf.Tensor, score: tf.Tensor) -> tf.Tensor:
    """The contribution of each logit to a target's score, float32 of their shape: the logit times the score's gradient by it.

    A target whose score is more than a sum of logits says itself what they contribute.
    """
    import tensorflow as tf

    from pipeline.compiled.gradients import deterministic_gradients

    inner = target.target if isinstance(target, TargetOfOutput) else target
    if hasattr(inner, "relevance"):
        return inner.relevance(logits, numbers)
    return logits * deterministic_gradients(tf.reduce_sum(score), logits)[0]


def predicted(logits: tf.Tensor) -> tf.Tensor:
    """The class that a network predicts, in the graph: int32 (batch,), of the highest logit; in a map, at most positions."""
    import tensorflow as tf

    if logits.shape.rank == 4:
        highest = tf.one_hot(tf.argmax(logits, axis=-1), logits.shape[-1])
        return tf.argmax(tf.reduce_sum(highest, axis=[1, 2]), axis=1, output_type=tf.int32)
    return tf.argmax(logits, axis=1, output_type=tf.int32)


def top(logits: np.ndarray, k: int) -> np.ndarray:
    """The classes of the k highest logits, highest first, the lower number first among equals: int (k,)."""
    return np.argsort(-logits, kind="stable")[:k]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
