"""What a network ends in: one rule that finds the logits before the last nonlinearity, whatever kind of network it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")  # a value of a graph: a tensor, or the name of one

# The last nonlinearity by its operation type in TensorFlow, and what its output is called. An entry is all it takes to
# have logits taken before another: they are the first input of the operation.
NONLINEARITIES = {"Softmax": "softmax", "LogSoftmax": "log_softmax"}

# What may stand behind the nonlinearity without changing which number belongs to which class.
TRANSPARENT = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "StopGradient", "Snapshot"})


@dataclass(frozen=True)
class Step(Generic[T]):
    """The operation that made a value: its type in TensorFlow, and the values that it was given, in order."""

    kind: str
    inputs: Sequence[T]


@dataclass(frozen=True)
class Head(Generic[T]):
    """The end of a network.

    kind: a value of `NONLINEARITIES`; None where the network ends without a nonlinearity of the table.
    logits: the value before the nonlinearity; without one, the output itself.
    """

    kind: str | None
    logits: T


def head_of(output: T, step_of: Callable[[T], Step[T] | None]) -> Head[T]:
    """The head that an output comes from.

    Args:
        step_of: the step that made a value; None for a value that no step of the graph made.
    """
    step = step_of(output)
    while step is not None and step.kind in TRANSPARENT:
        step = step_of(step.inputs[0])
    if step is None or step.kind not in NONLINEARITIES:
        return Head(None, output)
    return Head(NONLINEARITIES[step.kind], step.inputs[0])
