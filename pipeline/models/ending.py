"""The end of a network's graph: where the evidence is, before the last nonlinearity, built in or written out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from pipeline.models.head import Activation

T = TypeVar("T")  # a value of a graph: the name of a tensor

# The last nonlinearity by its operation type in TensorFlow, and what it is called. An entry, and one in `FORMULAS` of `head`, is
# all it takes to have the evidence taken before another: it is the first input of the operation.
NONLINEARITIES = {
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Elu": "elu",
    "Relu": "relu",
    "Exp": "exp",
}

# What may stand behind the nonlinearity without changing which number belongs to which class.
TRANSPARENT = frozenset(
    {"Identity", "Cast", "Reshape", "Squeeze", "ExpandDims", "EnsureShape", "StopGradient", "PreventGradient", "Snapshot"}
)

_RESHAPES = frozenset({"Reshape", "Squeeze", "ExpandDims"})
_SOFTMAXES = ("Softmax", "LogSoftmax")
# What probabilities go through that are moved, mixed and compared with each other, and nothing that gives other numbers a part.
# fmt: off
_MIXES = TRANSPARENT | {
    "Mean", "Sum", "Max", "Min", "Prod", "Cumsum", "Cumprod", "AddN", "Add", "AddV2", "Sub", "Mul", "RealDiv", "Div",
    "DivNoNan", "Neg", "Pow", "Square", "Maximum", "Minimum", "ClipByValue", "ConcatV2", "Pack", "Unpack", "Split", "SplitV",
    "Slice", "Tile", "StridedSlice", "GatherV2", "ReverseV2", "Transpose", "AvgPool", "MaxPool", "ResizeBilinear",
    "ResizeNearestNeighbor", "ResizeBicubic", "SelectV2", "Select", "Greater", "GreaterEqual", "Less", "LessEqual", "Equal",
    "OnesLike", "ZerosLike",
}
# fmt: on
_ADDS = ("Add", "AddV2", "BiasAdd")
_DIVIDES = ("RealDiv", "Div", "DivNoNan")
_CLIPS = ("Minimum", "Maximum", "ClipByValue", "Relu6")
_WEIGHTED = frozenset({"MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "Conv2D", "Conv2DBackpropInput"})
_WEIGHTS = frozenset({"Const", "ReadVariableOp", "VariableV2", "Variable", "VarHandleOp"})
_DEPTH = 64  # of a walk back from an end: a head is short
_MOST_VALUES = 500  # of a walk back on all ways at once


@dataclass(frozen=True)
class Step(Generic[T]):
    """The operation that made a value.

    kind: its type in TensorFlow. inputs: the values that it was given, in order.
    constant: the one number that the value holds, where it is a constant of the graph that holds but one.
    """

    kind: str
    inputs: Sequence[T]
    constant: float | None = None


@dataclass(frozen=True)
class Ending(Generic[T]):
    """The end of a network's graph.

    evidence: the value before the last nonlinearity; without one, the output itself.
    last: the type of the operation that the output comes from, past what changes no number.
    weighted: whether the evidence comes from weights with nothing behind them, as class scores do.
    certain: whether a softmax is known to run over the classes: not where it is written out or reshaped afterwards.
    squashed: the type of a softmax or sigmoid, where an output without a last nonlinearity is made from such alone; else "".
    """

    activation: Activation
    evidence: T
    last: str = ""
    weighted: bool = False
    certain: bool = True
    squashed: str = ""


def ending_of(output: T, step_of: Callable[[T], Step[T] | None]) -> Ending[T]:
    """The ending that an output comes from.

    Args:
        output: a tensor by its name: equal values are one tensor.
        step_of: the step that made a value; None for a value that no step of the graph made.
    """
    return _Walk(step_of).ending(output)


class _Walk(Generic[T]):
    """Looks back from an output, one step after another."""

    def __init__(self, step_of: Callable[[T], Step[T] | None]) -> None:
        self.step = step_of
        self._known: dict[T, str | None] = {}

    def ending(self, output: T) -> Ending[T]:
        value, scale, offset = output, 1.0, 0.0
        for _ in range(_DEPTH):
            value = self.behind(value)
            line = self._line(value)
            activation, evidence = self._activation(value)
            if activation is not None:
                whole = replace(activation, scale=scale * activation.scale, offset=scale * activation.offset + offset)
                last = self.step(self.behind(output, TRANSPARENT - _RESHAPES))
                certain = activation.name not in ("softmax", "log_softmax") or (last is not None and last.kind in _SOFTMAXES)
                return Ending(whole, evidence, activation.name, self._is_weighted(evidence), certain)
            if line is None:
                break
            slope, shift, value = line
            scale, offset = scale * slope, scale * shift + offset
        step = self.step(self.behind(output))
        squashed = self._squashed(output) or ""
        return Ending(Activation(), output, step.kind if step else "", self._is_weighted(output), squashed=squashed)

    def behind(self, value: T, passed: Collection[str] = TRANSPARENT) -> T:
        """The value that was passed on unchanged, by operations of some types."""
        step = self.step(value)
        while step is not None and step.kind in passed:
            value = step.inputs[0]
            step = self.step(value)
        return value

    def number(self, value: T) -> float | None:
        """The one number of a constant; None for everything else."""
        step = self.step(self.behind(value))
        return None if step is None else step.constant

    def _line(self, value: T) -> tuple[float, float, T] | None:
        """Slope, shift and x of `slope * x + shift` with constant numbers; None for any other value."""
        step = self.step(value)
        if step is None or not step.inputs:
            return None
        if step.kind == "Neg":
            return -1.0, 0.0, step.inputs[0]
        if len(step.inputs) != 2 or step.kind not in (*_ADDS, *_DIVIDES, "Mul", "Sub"):
            return None
        (first, second), (left, right) = step.inputs, (self.number(value) for value in step.inputs)
        if right is not None:
            slope, shift = {"Mul": (right, 0.0), "Sub": (1.0, -right)}.get(step.kind, (1.0, right))
            return (1 / right, 0.0, first) if step.kind in _DIVIDES and right else (slope, shift, first)
        if left is None or step.kind in _DIVIDES:
            return None
        slope, shift = {"Mul": (left, 0.0), "Sub": (-1.0, left)}.get(step.kind, (1.0, left))
        return slope, shift, second

    def _activation(self, value: T) -> tuple[Activation | None, T]:
        """The nonlinearity that gave a value, built in or written out, and what it was given."""
        step = self.step(value)
        if step is None:
            return None, value
        if step.kind in _CLIPS:
            return self._clip(value)
        if step.kind in ("Exp", "Log"):
            inner, evidence = self._activation(self.behind(step.inputs[0]))
            of_inner = {("Exp", "log_softmax"): "softmax", ("Log", "softmax"): "log_softmax"}
            if inner and (step.kind, inner.name) in of_inner:
                return Activation(of_inner[step.kind, inner.name]), evidence
        if step.kind in NONLINEARITIES:
            return Activation(NONLINEARITIES[step.kind]), step.inputs[0]
        for name, written in (("softmax", self._softmax), ("log_softmax", self._log_softmax), ("sigmoid", self._sigmoid)):
            before = written(step)
            if before is not None:
                return Activation(name), before
        return None, value

    def _softmax(self, step: Step[T]) -> T | None:
        """x of exp(x) / sum(exp(x)), where both may be less their maximum."""
        if step.kind not in _DIVIDES:
            return None
        powers, total = self.behind(step.inputs[0]), self._made_by(step.inputs[1], "Sum")
        if total is None or not self._same(powers, self.behind(total.inputs[0])):
            return None
        power = self._made_by(powers, "Exp")
        return None if power is None else self._uncentred(power.inputs[0])

    def _log_softmax(self, step: Step[T]) -> T | None:
        """x of x - log(sum(exp(x))), where x may be less its maximum."""
        log = self._made_by(step.inputs[1], "Log") if step.kind == "Sub" else None
        total = log and self._made_by(log.inputs[0], "Sum")
        power = total and self._made_by(total.inputs[0], "Exp")
        if not power or not self._same(self.behind(step.inputs[0]), self.behind(power.inputs[0])):
            return None
        return self._uncentred(step.inputs[0])

    def _uncentred(self, value: T) -> T:
        """x of x - max(x), or the value itself."""
        step = self._made_by(value, "Sub")
        highest = step and self._made_by(step.inputs[1], "Max", "StopGradient")
        return step.inputs[0] if step and highest and self._same(self.behind(step.inputs[0]), highest.inputs[0]) else value

    def _sigmoid(self, step: Step[T]) -> T | None:
        """z of 1 / (1 + exp(-z)) and of exp(z) / (1 + exp(z))."""
        if step.kind in ("Reciprocal", "Inv"):
            above, below = None, step.inputs[0]
        elif step.kind in _DIVIDES:
            above, below = step.inputs
        else:
            return None
        line = self._line(self.behind(below))
        power = self._made_by(line[2], "Exp") if line and line[:2] == (1.0, 1.0) else None
        if power is None or line is None:
            return None
        if above is None or self.number(above) == 1.0:
            turned = self._line(self.behind(power.inputs[0]))
            return turned[2] if turned and turned[:2] == (-1.0, 0.0) else None
        return power.inputs[0] if self._same(self.behind(above), self.behind(line[2])) else None

    def _clip(self, value: T) -> tuple[Activation | None, T]:
        """Bounds and line of a clip that has both: a hard sigmoid or tanh; a softmax or sigmoid that was clipped passes."""
        low, high = -np.inf, np.inf
        step = self.step(value)
        while step is not None and step.kind in _CLIPS:
            bounds = [0.0, 6.0] if step.kind == "Relu6" else [self.number(other) for other in step.inputs[1:]]
            value = step.inputs[0]
            if None in bounds and step.kind in ("Minimum", "Maximum"):
                bounds, value = [self.number(step.inputs[0])], step.inputs[1]
            if None in bounds:
                return None, value
            if step.kind != "Minimum":
                low = max(low, bounds[0] or 0.0)
            if step.kind != "Maximum":
                high = min(high, bounds[-1] or 0.0)
            value = self.behind(value)
            step = self.step(value)
        inner, evidence = self._activation(value)
        if inner is not None and inner.name in ("softmax", "sigmoid", "log_softmax"):
            return inner, evidence
        if not np.isfinite(high - low):
            return None, value
        # A hard sigmoid brings the line that it cuts off: back to where zero is in the middle of the bounds.
        slope, shift, start = 1.0, 0.0, value
        while not np.isclose(shift, (low + high) / 2):
            line = self._line(start)
            if line is None:
                return Activation("clip", clip=(low, high, 1.0, 0.0)), value
            shift, slope, start = shift + slope * line[1], slope * line[0], self.behind(line[2])
        return Activation("clip", clip=(low, high, slope, shift)), start

    def _made_by(self, value: T, *kinds: str) -> Step[T] | None:
        step = self.step(value if "StopGradient" in kinds else self.behind(value))
        if step is not None and step.kind == "StopGradient" and "StopGradient" in kinds:
            step = self.step(self.behind(value))
        return step if step is not None and step.kind in kinds else None

    def _same(self, value: T, other: T, depth: int = 4) -> bool:
        """Whether two values are one, or made the same way from one."""
        if value == other:
            return True
        first, second = self.step(value), self.step(other)
        if depth == 0 or first is None or second is None or first.kind != second.kind or not first.inputs:
            return False
        pairs = zip(first.inputs, second.inputs, strict=False)
        return len(first.inputs) == len(second.inputs) and all(
            self._same(a, b, depth - 1) or (self.number(a) is not None and self.number(a) == self.number(b)) for a, b in pairs
        )

    def _is_weighted(self, value: T, depth: int = _DEPTH) -> bool:
        """Whether a value is a weighted sum with, at most, a bias, a constant factor or a mean over positions behind it."""
        step = self.step(value)
        if step is None or depth == 0:
            return False
        if step.kind in _WEIGHTED:
            return True
        if step.kind in TRANSPARENT or step.kind in ("Mean", "Neg"):
            return self._is_weighted(step.inputs[0], depth - 1)
        if step.kind in (*_ADDS, "Sub", "ConcatV2"):
            variables = [tensor for tensor in step.inputs if not self._is_constant(tensor)]
            return bool(variables) and all(self._is_weighted(tensor, depth - 1) for tensor in variables)
        line = self._line(value)
        return line is not None and self._is_weighted(line[2], depth - 1)

    def _squashed(self, value: T) -> str | None:
        """The type of a softmax or sigmoid, where values of them alone are in a value, moved, mixed and compared; "" where others
        are too; None for constants and shapes."""
        if value not in self._known:
            self._known[value] = ""  # until it is known
            step = self.step(value)
            if step is not None and step.kind in (*_SOFTMAXES, "Sigmoid"):
                self._known[value] = step.kind
            elif step is not None and step.kind in (*_WEIGHTS, "Shape"):
                self._known[value] = None
            elif step is not None and step.kind in _MIXES and len(self._known) < _MOST_VALUES:
                kinds = [self._squashed(tensor) for tensor in step.inputs]
                self._known[value] = "" if "" in kinds else next(filter(None, kinds), None)
        return self._known[value]

    def _is_constant(self, value: T) -> bool:
        step = self.step(self.behind(value))
        return step is not None and step.kind in _WEIGHTS
