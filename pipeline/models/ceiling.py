"""What an upper clamp is, and how a layer behind one is read as if it were not there: one rule for every kind of network.

A clamp is recognised by its operation: ReLU6, the minimum with a number, a clip, or `x if x < number else number`. So are
hard sigmoids, hard tanhs and ReLUs of any maximum, which are made of these. Behind it a layer may pass the values on by
whatever keeps their order: see `_PASSED_ON`, `_RISING` and `_BY_NUMBER`. Convolutions, means, and sums and products of maps
are no such thing: what they are given is clamped, and they are not.

For a layer y = f(min(x, c)) with an f that never falls, y = min(u, f(c)) with u = f(x): the spatial maximum of u gives that
of y. A lower clamp stays in u, so that a unit which is inactive is so in both; where it would be u's last operation, it is
given beside u, as a floor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2

from pipeline.models.network import Unclipped

# Clamps that are one operation. Gradients pass through Relu6 alone of these: `WITHOUT_CEILING` in `pipeline.compiled.gradients`.
CLAMPS = frozenset({"Relu6", "Minimum", "ClipByValue", "Select", "SelectV2"})

# What moves values, or leaves some out, but makes none: the ceiling stays what it is.
_PASSED_ON = frozenset(
    {
        *("Identity", "StopGradient", "Snapshot", "PreventGradient", "CheckNumerics", "EnsureShape"),
        *("Reshape", "Squeeze", "ExpandDims", "Transpose", "StridedSlice", "Slice", "MirrorPad", "ResizeNearestNeighbor"),
        *("MaxPool", "MaxPoolV2", "Max", "SpaceToDepth", "DepthToSpace"),
    }
)
_PADS = frozenset({"Pad", "PadV2"})  # they add a number of their own, which must not lie above the ceiling
_RISING = frozenset({"Relu", "LeakyRelu", "Cast"})  # functions of each value that never fall
# Operations of each value and one number, which keep the order of values with the number second, if it is positive in a
# product or a quotient.
_BY_NUMBER: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "AddV2": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "RealDiv": np.divide,
    "Div": np.divide,
    "Maximum": np.maximum,
}
_COMMUTES = frozenset({"Add", "AddV2", "Mul", "Maximum"})
_COMPARISONS = {"Greater": 1, "GreaterEqual": 1, "Less": -1, "LessEqual": -1}


def without_ceiling(output: tf.Tensor, images: tf.Tensor) -> Unclipped:
    """A tensor of a traced network without the upper clamp that it comes from; the tensor itself where there is none.

    The operations behind the clamp are added to the graph a second time.

    Args:
        images: what the network was given, in the same graph.
    """
    reading = _Reading(images)
    unclipped = reading.look(output)
    return Unclipped(output) if unclipped is None else reading.lowered(unclipped)


class _Reading:
    """Reads tensors of one graph, each once."""

    def __init__(self, images: tf.Tensor) -> None:
        self._images = images
        self._known: dict[object, Unclipped | None] = {}
        self._floors: dict[object, tuple[tf.Tensor, tf.Tensor]] = {}  # of values raised here: what they were, and the floor

    def lowered(self, unclipped: Unclipped) -> Unclipped:
        """The same, with the last of the lower clamps that were added to the graph as its floor."""
        raw, floor = self._floors.get(unclipped.raw.ref(), (unclipped.raw, None))
        return Unclipped(raw, unclipped.ceiling, floor)

    def look(self, tensor: tf.Tensor) -> Unclipped | None:
        """The tensor without its clamp; None where it is not behind one."""
        key = tensor.ref()
        if key not in self._known:
            self._known[key] = None if tensor is self._images else self._look(tensor)
        return self._known[key]

    def _look(self, tensor: tf.Tensor) -> Unclipped | None:
        operation = tensor.op
        kind, inputs = operation.type, list(operation.inputs)
        if kind in CLAMPS and (clamp := clamp_of(operation, self._is_number)) is not None:
            value, ceiling, floor = clamp
            further = self.look(value)
            if further is not None and further.ceiling is not None:
                value, ceiling = further.raw, _folded(np.minimum, tf.minimum, further.ceiling, ceiling)
            return Unclipped(value, ceiling) if floor is None else self._raised(Unclipped(value, ceiling), floor)
        if kind in _PASSED_ON:
            return self._again(tensor, lambda ceiling: ceiling)
        if kind in _PADS:
            base = self.look(inputs[0])
            added = 0.0 if len(inputs) < 3 else tf.get_static_value(inputs[2])
            ceiling = None if base is None or base.ceiling is None else tf.get_static_value(base.ceiling)
            fits = added is not None and ceiling is not None and added <= ceiling
            return self._again(tensor, lambda ceiling: ceiling) if fits else None
        if kind in ("ConcatV2", "Concat"):
            return self._joined(tensor)
        if kind in _RISING:
            return self._again(tensor, lambda ceiling: _run_again(operation, [ceiling]))
        return self._by_number(tensor) if kind in _BY_NUMBER else None

    def _by_number(self, tensor: tf.Tensor) -> Unclipped | None:
        """Behind an operation of each value and one number, by which values keep their order."""
        operation, (first, second) = tensor.op, tensor.op.inputs
        if self._is_number(second):
            value, number = first, second
        elif self._is_number(first) and operation.type in _COMMUTES:
            value, number = second, first
        else:
            return self._leaky(tensor)
        base = self.look(value)
        if base is None or base.ceiling is None:
            return None
        if operation.type == "Maximum":
            return self._raised(base, _scalar(number))
        if operation.type in ("Mul", "RealDiv", "Div"):
            factor = tf.get_static_value(number)
            if factor is None or not factor > 0:
                return None

        def run(value: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
            return _run_again(operation, [value, number] if operation.inputs[1] is second else [number, value])

        ceiling = _folded(_BY_NUMBER[operation.type], run, base.ceiling, _scalar(number))
        return Unclipped(run(base.raw, number), ceiling)

    def _leaky(self, tensor: tf.Tensor) -> Unclipped | None:
        """Behind clamp(relu(x)) - slope * relu(-x), as Keras writes leaky ReLUs: at the ceiling nothing is taken off."""
        if tensor.op.type != "Sub":
            return None
        clamped, taken = tensor.op.inputs
        factors = list(taken.op.inputs) if taken.op.type == "Mul" else []
        halves = [factor for factor in factors if factor.op.type == "Relu" and factor.op.inputs[0].op.type == "Neg"]
        if len(halves) != 1 or not all(factor is halves[0] or self._is_number(factor) for factor in factors):
            return None
        base, x = self.look(clamped), halves[0].op.inputs[0].op.inputs[0]
        if base is None or base.ceiling is None or not _is_relu_of(base.raw, x):
            return None
        ceiling = tf.get_static_value(base.ceiling)
        return Unclipped(base.raw - taken, base.ceiling) if ceiling is not None and ceiling > 0 else None

    def _joined(self, tensor: tf.Tensor) -> Unclipped | None:
        """Behind a concatenation of maps that have the same ceiling, all of them."""
        operation = tensor.op
        axis = 0 if operation.type == "Concat" else len(operation.inputs) - 1
        bases = [self.look(source) for number, source in enumerate(operation.inputs) if number != axis]
        ceilings = [None if base is None or base.ceiling is None else tf.get_static_value(base.ceiling) for base in bases]
        if ceilings[0] is None or any(ceiling is None or ceiling != ceilings[0] for ceiling in ceilings):
            return None
        values = [base.raw for base in bases if base is not None]
        values.insert(axis, operation.inputs[axis])
        first = bases[0]
        assert first is not None
        return Unclipped(_run_again(operation, values), first.ceiling)

    def _again(self, tensor: tf.Tensor, of_ceiling: Callable[[tf.Tensor], tf.Tensor]) -> Unclipped | None:
        """The tensor's operation once more, on its first input without the clamp."""
        base = self.look(tensor.op.inputs[0])
        if base is None or base.ceiling is None:
            return None
        return Unclipped(_run_again(tensor.op, [base.raw, *tensor.op.inputs[1:]]), of_ceiling(base.ceiling))

    def _raised(self, unclipped: Unclipped, floor: tf.Tensor) -> Unclipped:
        """Above a floor, a scalar."""
        raw, value = unclipped.raw, unclipped.raw
        is_zero = tf.get_static_value(floor) == 0
        if not is_zero:
            value = tf.maximum(raw, floor)
        elif raw.op.type != "Relu":
            value = tf.nn.relu(raw)
        if value is not raw:
            self._floors[value.ref()] = raw, floor
        return Unclipped(value, _folded(np.maximum, tf.maximum, unclipped.ceiling, floor))

    def _is_number(self, tensor: tf.Tensor) -> bool:
        """Whether a tensor is one number, which no image changes: a constant, or a variable that was learned."""
        if tensor.shape.num_elements() != 1:
            return False
        seen, waiting = set(), [tensor]
        while waiting:
            source = waiting.pop()
            if source is self._images:
                return False
            if source.ref() not in seen:
                seen.add(source.ref())
                waiting += source.op.inputs
        return True


def clamp_of(
    operation: tf.Operation, is_number: Callable[[tf.Tensor], bool]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None] | None:
    """What an operation clamps, its ceiling and its floor, scalars; None for an operation that is no upper clamp.

    Args:
        is_number: whether a tensor is one number that no image changes.
    """
    kind, inputs = operation.type, list(operation.inputs)
    if kind == "Relu6":
        return inputs[0], tf.constant(6, inputs[0].dtype), tf.constant(0, inputs[0].dtype)
    if kind == "Minimum":
        for value, ceiling in (inputs, reversed(inputs)):
            if is_number(ceiling) and not is_number(value):
                return value, _scalar(ceiling), None
    if kind == "ClipByValue" and is_number(inputs[1]) and is_number(inputs[2]):
        return inputs[0], _scalar(inputs[2]), _scalar(inputs[1])
    if kind in ("Select", "SelectV2") and inputs[0].op.type in _COMPARISONS:
        left, right = inputs[0].op.inputs
        above = _COMPARISONS[inputs[0].op.type]
        if is_number(left):  # number < x
            left, right, above = right, left, -above
        value, ceiling = (inputs[2], inputs[1]) if above > 0 else (inputs[1], inputs[2])
        if value is left and is_number(ceiling) and _same_number(ceiling, right):
            return value, _scalar(ceiling), None
    return None


def _folded(
    in_numpy: Callable[..., Any], in_graph: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], first: tf.Tensor, second: tf.Tensor
) -> tf.Tensor:
    """A function of two scalars, as a constant where they are constants."""
    values = [tf.get_static_value(number) for number in (first, second)]
    return in_graph(first, second) if any(value is None for value in values) else tf.constant(in_numpy(*values), first.dtype)


def _scalar(number: tf.Tensor) -> tf.Tensor:
    """One number as a scalar, as a constant where it is one."""
    value = tf.get_static_value(number)
    return tf.reshape(number, []) if value is None else tf.constant(value.reshape(()), number.dtype)


def _same_number(first: tf.Tensor, second: tf.Tensor) -> bool:
    if first is second:
        return True
    values = [tf.get_static_value(tensor) for tensor in (first, second)]
    return all(value is not None and value.size == 1 for value in values) and float(values[0]) == float(values[1])


def _is_relu_of(value: tf.Tensor, x: tf.Tensor) -> bool:
    """Whether a value is max(x, 0)."""
    return value.op.type == "Relu" and value.op.inputs[0] is x


def _run_again(operation: tf.Operation, inputs: list[tf.Tensor]) -> tf.Tensor:
    """The first output of the same operation on other inputs, in the same graph."""
    node = node_def_pb2.NodeDef(name="unclipped", op=operation.type, input=[f"given{n}:0" for n in range(len(inputs))])
    for name, value in operation.node_def.attr.items():
        if not name.startswith("_"):  # an underscore marks devices, classes and gradients
            node.attr[name].CopyFrom(value)
    graph = graph_pb2.GraphDef(node=[node], versions=operation.graph.graph_def_versions)
    by_name = dict(zip(node.input, inputs, strict=True))
    (output,) = tf.graph_util.import_graph_def(graph, by_name, ["unclipped:0"], name="ceiling")
    return output
