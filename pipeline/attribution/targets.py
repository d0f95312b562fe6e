"""Classes: what a network takes an image for, and for which classes its evidence is to be shown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.attribution.methods import PREDICTED
from pipeline.errors import UnknownName, WrongSpec

MOST_LIKELY = "predicted"  # in gradcam.classes
TRUE_LABEL = "label"


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
            found = [number for number, name in enumerate(self.names) if _plain(name) == _plain(label)]
            return found[0] if len(found) == 1 else None
        return int(label) if re.fullmatch(r"\d+", label) and int(label) < self.count else None

    def find(self, named: int | str) -> int:
        """The number of a class given by number or name. Raises: WrongSpec, UnknownName."""
        if isinstance(named, int):
            if named >= self.count:
                raise WrongSpec(f"gradcam.classes: there is no class {named}; they run from 0 to {self.count - 1}.")
            return named
        names = self.names or ()
        found = [number for number, name in enumerate(names) if _plain(name) == _plain(named)]
        if len(found) > 1:
            raise WrongSpec(
                f"gradcam.classes: {named!r} is the name of classes {', '.join(map(str, found))}. Name one by number."
            )
        if not found:
            hint = "" if names else "The classes have no names: set model.labels, or give numbers."
            known = [*names, MOST_LIKELY, TRUE_LABEL]
            raise UnknownName.among(named, known, where="a class of the network (gradcam.classes)", hint=hint)
        return found[0]

    def check(self, wanted: Sequence[int | str], labels: Sequence[str] | None) -> None:
        """Find classes that are not there before work starts.

        Args:
            labels: the data set's, where it tells them in advance.

        Raises: WrongSpec, UnknownName.
        """
        for named in wanted:
            if named not in (MOST_LIKELY, TRUE_LABEL):
                self.find(named)
        if TRUE_LABEL in wanted and labels is not None and all(self.of_label(label) is None for label in labels):
            raise WrongSpec(
                f'gradcam.classes = "label", but no label of the data ({", ".join(labels[:3])}, …) is one of the '
                f"{self.count} classes ({', '.join(self.name(number) for number in range(min(3, self.count)))}, …). "
                'Name a file of class names that fits in model.labels, or leave "label" out.'
            )

    def slots(self, wanted: Sequence[int | str], label: str | None) -> list[int | None]:
        """For one image, the class of each that is wanted: a number, PREDICTED, or None for a label that is no class."""
        return [
            PREDICTED if named == MOST_LIKELY else self.of_label(label) if named == TRUE_LABEL else self.find(named)
            for named in wanted
        ]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities: float32 (…, classes) to float64 of the same shape, at temperature 1."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def top(logits: np.ndarray, k: int) -> np.ndarray:
    """The classes of the k highest logits, highest first, the lower number first among equals: int (k,)."""
    return np.argsort(-logits, kind="stable")[:k]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
