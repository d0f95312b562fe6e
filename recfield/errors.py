"""The errors of a forward function whose receptive field cannot be solved.

UnsolvableField
|-- RandomForward     the same image twice gives two answers
|-- BatchDependent    an image's answer depends on the other images of its batch
`-- UnprovenField     probes contradict every solution
"""

from __future__ import annotations

from collections.abc import Sequence


class UnsolvableField(ValueError):
    """Probes cannot determine the receptive field of this forward function.

    layers: those at fault, of a function that returns several; the others may be solved without them.
    """

    def __init__(self, message: str, layers: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.layers = tuple(layers)


class RandomForward(UnsolvableField):
    """The same image twice gives two answers: dropout or noise is on."""


class BatchDependent(UnsolvableField):
    """An image's answer depends on its batch: batch normalisation runs in training mode."""


class UnprovenField(UnsolvableField):
    """Probes contradicted the boxes of every attempt."""
