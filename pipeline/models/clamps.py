"""Which operations are upper clamps, and the constants that they clamp at: numbers, or a number a channel.

A constant is given as a scalar where all of it is one number, whatever its shape; else with as many axes as the values
it is combined with, of length 1 along those on which it does not depend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2

# Clamps that are one operation. Gradients pass through Relu6 alone of these: `WITHOUT_CEILING` in `pipeline.compiled.gradients`.
CLAMPS = frozenset({"Relu6", "Minimum", "ClipByValue", "Select", "SelectV2"})
COMPARISONS = {"Greater": 1, "GreaterEqual": 1, "Less": -1, "LessEqual": -1}

_LIKE = {"OnesLike": 1, "ZerosLike": 0}
_REARRANGES = frozenset({"Reshape", "Squeeze", "ExpandDims", "Transpose", "Tile"})
_UNIFORM = frozenset({"Identity", "Cast", "Neg", "Add", "AddV2", "Sub", "Mul", "RealDiv"})  # of numbers, they give a number

_RISES_BY: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "AddV2": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "RealDiv": np.divide,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
}

Constant = Callable[[tf.Tensor, tf.Tensor], tf.Tensor | None]


class Constants:
    """Finds the tensors of a graph that no image changes."""

    def __init__(self, images: tf.Tensor) -> None:
        """For what the network was given, in the same graph."""
        self._images = images
        self._numbers: dict[object, tf.Tensor | None] = {}

    def of(self, tensor: tf.Tensor, values: tf.Tensor) -> tf.Tensor | None:
        """A tensor as a constant that values, of any number of axes, are combined with; None where it is none.

        Neither is one that would repeat the values along an axis.
        """
        number = self._uniform(tensor)
        if number is not None:
            return number
        shape, others = tensor.shape, values.shape
        if not shape.is_fully_defined() or others.rank is None or shape.rank > others.rank:
            return None
        lengths = [1] * (others.rank - shape.rank) + shape.as_list()
        repeats = any(length not in (1, other) for length, other in zip(lengths, others.as_list(), strict=True))
        if repeats or lengths[:1] not in ([1], []) or self._depends(tensor):  # a batch is no axis of a network
            return None
        known = tf.get_static_value(tensor)
        return tf.reshape(tensor, lengths) if known is None else tf.constant(simplest(known.reshape(lengths)), tensor.dtype)

    def _uniform(self, tensor: tf.Tensor) -> tf.Tensor | None:
        """The number that a tensor holds throughout, a scalar; a shape that depends on the images does not matter."""
        key = tensor.ref()
        if key not in self._numbers:
            self._numbers[key] = None if tensor is self._images else self._find_uniform(tensor)
        return self._numbers[key]

    def _find_uniform(self, tensor: tf.Tensor) -> tf.Tensor | None:
        operation = tensor.op
        kind, inputs = operation.type, list(operation.inputs)
        if kind in _LIKE:
            return tf.constant(_LIKE[kind], tensor.dtype)
        if kind in ("Fill", "BroadcastTo"):
            return self._uniform(inputs[1 if kind == "Fill" else 0])
        if kind == "Const":
            known = simplest(tf.get_static_value(tensor))
            return None if known.ndim else tf.constant(known, tensor.dtype)
        if kind in _REARRANGES:
            return self._uniform(inputs[0])
        if tensor.shape.num_elements() == 1:
            return None if self._depends(tensor) else scalar(tensor)
        if kind in _UNIFORM:
            numbers = [self._uniform(source) for source in inputs]
            if any(number is None for number in numbers):
                return None
            made = run_again(operation, numbers)
            values = [tf.get_static_value(number) for number in numbers]
            return made if any(value is None for value in values) else tf.constant(_computed(operation, values), made.dtype)
        return None

    def _depends(self, tensor: tf.Tensor) -> bool:
        """Whether the images can change a tensor."""
        seen, waiting = set(), [tensor]
        while waiting:
            source = waiting.pop()
            if source is self._images:
                return True
            if source.ref() not in seen:
                seen.add(source.ref())
                waiting += source.op.inputs
        return False


def clamp_of(operation: tf.Operation, constant: Constant) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None] | None:
    """What an operation clamps, its ceiling and its floor, constants; None for an operation that is no upper clamp.

    Args:
        constant: `Constants.of`.
    """
    kind, inputs = operation.type, list(operation.inputs)
    if kind == "Relu6":
        return inputs[0], tf.constant(6, inputs[0].dtype), tf.constant(0, inputs[0].dtype)
    if kind == "Minimum":
        for value, number in (inputs, reversed(inputs)):
            ceiling = constant(number, value)
            if ceiling is not None and constant(value, number) is None:
                return value, ceiling, None
    if kind == "ClipByValue":
        low, high = (constant(bound, inputs[0]) for bound in inputs[1:])
        return None if low is None or high is None else (inputs[0], high, low)
    if kind in ("Select", "SelectV2") and inputs[0].op.type in COMPARISONS:
        left, right = inputs[0].op.inputs
        above = COMPARISONS[inputs[0].op.type]
        if constant(left, right) is not None:  # number < x
            left, right, above = right, left, -above
        value, number = (inputs[2], inputs[1]) if above > 0 else (inputs[1], inputs[2])
        if value is left:
            ceiling, threshold = constant(number, value), constant(right, value)
            if ceiling is not None and threshold is not None and _same(ceiling, threshold):
                return value, ceiling, None
    return None


def threshold_of(operation: tf.Operation, constant: Constant) -> tuple[tf.Tensor, tf.Tensor] | None:
    """What "number if x > threshold else f(x)" gives below its threshold, and the number, where f rises up to it.

    None for other operations, and where the number is not what f gives at the threshold.
    """
    condition, *branches = operation.inputs
    if condition.op.type not in COMPARISONS:
        return None
    x, threshold = condition.op.inputs
    above = COMPARISONS[condition.op.type]
    if constant(x, threshold) is not None:  # threshold < x
        x, threshold, above = threshold, x, -above
    number, value = branches if above > 0 else reversed(branches)
    limits = [constant(threshold, x), constant(number, value)]
    edge, top = (None if limit is None else tf.get_static_value(limit) for limit in limits)
    if edge is None or top is None:
        return None
    bound = _most_below(value, x, edge, constant)
    continuous = bound is not None and np.all(bound <= top) and np.allclose(bound, top, rtol=1e-6, atol=0)
    return (value, tf.constant(top, value.dtype)) if continuous else None


def _most_below(value: tf.Tensor, x: tf.Tensor, edge: np.ndarray, constant: Constant) -> np.ndarray | None:
    """The most that a value can be where x is at most an edge; None where it is not made of x by functions that rise."""
    if value is x:
        return edge
    kind, inputs = value.op.type, list(value.op.inputs)
    if kind in ("Identity", "Relu", "Relu6"):
        value_at = _most_below(inputs[0], x, edge, constant)
        return value_at if value_at is None or kind == "Identity" else np.clip(value_at, 0, 6 if kind == "Relu6" else None)
    if kind in ("Select", "SelectV2"):
        most = [_known(constant(side, x)) for side in inputs[1:]]
        most = [_most_below(side, x, edge, constant) if of is None else of for side, of in zip(inputs[1:], most, strict=True)]
        first, second = most
        return None if first is None or second is None else np.maximum(first, second)
    if kind not in _RISES_BY:
        return None
    for source, other in ((inputs[0], inputs[1]), (inputs[1], inputs[0]))[: 2 if kind not in ("Sub", "RealDiv") else 1]:
        number, value_at = _known(constant(other, source)), _most_below(source, x, edge, constant)
        if number is not None and value_at is not None:
            falls = kind in ("Mul", "RealDiv") and not np.all(number > 0)
            return None if falls else np.asarray(_RISES_BY[kind](value_at, number))
    return None


def _known(constant: tf.Tensor | None) -> np.ndarray | None:
    return None if constant is None else tf.get_static_value(constant)


def folded(
    in_numpy: Callable[..., Any], in_graph: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], first: tf.Tensor, second: tf.Tensor
) -> tf.Tensor:
    """A function of two constants, as a constant of the graph where they are."""
    values = [tf.get_static_value(constant) for constant in (first, second)]
    if any(value is None for value in values):
        return in_graph(first, second)
    return tf.constant(simplest(np.asarray(in_numpy(*values))), first.dtype)


def scalar(number: tf.Tensor) -> tf.Tensor:
    """One number as a scalar, as a constant where it is one."""
    value = tf.get_static_value(number)
    return tf.reshape(number, []) if value is None else tf.constant(value.reshape(()), number.dtype)


def simplest(values: np.ndarray) -> np.ndarray:
    """A constant with every axis along which it does not vary of length 1, and as a scalar where it is one number."""
    for axis in range(values.ndim if values.size else 0):
        first = values.take([0], axis)
        values = first if np.array_equal(np.broadcast_to(first, values.shape), values) else values
    return values.reshape(()) if values.size == 1 else values


def run_again(operation: tf.Operation, inputs: list[tf.Tensor], output: int = 0) -> tf.Tensor:
    """An output of the same operation on other inputs, in the same graph."""
    node = node_def_pb2.NodeDef(name="unclipped", op=operation.type, input=[f"given{n}:0" for n in range(len(inputs))])
    for name, value in operation.node_def.attr.items():
        if not name.startswith("_"):  # an underscore marks devices, classes and gradients
            node.attr[name].CopyFrom(value)
    graph = graph_pb2.GraphDef(node=[node], versions=operation.graph.graph_def_versions)
    by_name = dict(zip(node.input, inputs, strict=True))
    (made,) = tf.graph_util.import_graph_def(graph, by_name, [f"unclipped:{output}"], name="ceiling")
    return made


def _computed(operation: tf.Operation, values: list[np.ndarray]) -> np.ndarray:
    """An operation of known numbers, as TensorFlow computes it."""
    with tf.init_scope():
        attributes = {"DstT": operation.get_attr("DstT")} if operation.type == "Cast" else {}
        names = {"Identity": ["input"], "Cast": ["x"], "Neg": ["x"]}.get(operation.type, ["x", "y"])
        inputs = dict(zip(names, map(tf.constant, values), strict=True))
        return np.asarray(getattr(tf.raw_ops, operation.type)(**inputs, **attributes))


def _same(first: tf.Tensor, second: tf.Tensor) -> bool:
    if first is second:
        return True
    values = [tf.get_static_value(tensor) for tensor in (first, second)]
    return all(value is not None for value in values) and np.array_equal(*values)
