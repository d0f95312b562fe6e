"""Targets: what of a network's output is explained, and the names of its classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipeline.errors import UnknownName, WrongSpec

if TYPE_CHECKING:
    import tensorflow as tf

PREDICTED = -1  # instead of a class: the one with the highest logit
MOST_LIKELY = "predicted"  # in gradcam.classes
TRUE_LABEL = "label"


class Target(Protocol):
    """What is explained: a number that the network gives for each image, and of which gradients are taken."""

    def number(self, label: str | None) -> int | None:
        """The output that it is for an image with this label: a number, PREDICTED, or None where the image has no such target."""

    def score(self, logits: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        """The number to differentiate, in the graph: float32 (batch, outputs) and int32 (batch,) to float32 (batch,)."""


@dataclass(frozen=True)
class Classes:
    """The classes of a network by number and name.

    names: one a logit; None where nothing names them.
    """

    count: int
    names: tuple[str, ...] | None

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
                raise WrongSpec(f"gradcam.classes: there is no class {named}; they run from 0 to {self.count - 1}.")
            return named
        names = self.names or ()
        numbers = [number for number, name in enumerate(names) if _plain(name) == _plain(named)]
        if len(numbers) > 1:
            raise WrongSpec(
                f"gradcam.classes: {named!r} is the name of classes {', '.join(map(str, numbers))}. Name one by number."
            )
        if not numbers:
            hint = "" if names else "The classes have no names: set model.labels, or give numbers."
            known = [*names, MOST_LIKELY, TRUE_LABEL]
            raise UnknownName.among(named, known, where="a class of the network (gradcam.classes)", hint=hint)
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
                f'gradcam.classes = "label", but no label of the data ({", ".join(labels[:3])}, …) is one of the '
                f"{self.count} classes ({', '.join(self.name(number) for number in range(min(3, self.count)))}, …). "
                'Name a file of class names that fits in model.labels, or leave "label" out.'
            )

    def targets(self, asked: Sequence[int | str]) -> tuple[ClassTarget, ...]:
        """What to explain for each class that is asked for: "predicted", "label", a number or a name."""
        return tuple(ClassTarget(self, named) for named in asked)


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


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities: float32 (…, classes) to float64 of the same shape, at temperature 1."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def top(logits: np.ndarray, k: int) -> np.ndarray:
    """The classes of the k highest logits, highest first, the lower number first among equals: int (k,)."""
    return np.argsort(-logits, kind="stable")[:k]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
