"""Expansion: what a unit weighs earlier channels with, as its gradient through a stretch in which everything was made linear.

The gradient of a linear stretch is its expanded kernel: batch normalisation is folded into it, chains of convolutions are
multiplied, branches added. Activations pass as identity, and the maximum of a window as its mean. Where values of the image
multiply each other, as in a gate or attention, no weights say what comes through: the path ends there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import tensorflow as tf

from pipeline.compiled.graph_walk import LogitsGraph, types_inside
from pipeline.compiled.operation_kinds import AFFINE, CONVOLUTIONS, MOVES, PRODUCTS, SUMS
from pipeline.compiled.relevance_shares import pulled_back

_POOLS, _LARGEST = {"MaxPool", "MaxPoolV2"}, {"Max", "Min"}
_PASSING = {"Identity", "Cast", "StopGradient", "CheckNumerics", "EnsureShape", "PreventGradient"}
# fmt: off
_ACTIVATIONS = {
    "Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Softsign", "Sigmoid", "Tanh", "Softplus", "Erf", "Erfc", "Softmax",
    "LogSoftmax", "Minimum", "Maximum", "ClipByValue",
}
# What an activation may be put together from, each a function of one number.
_FUNCTIONS = _ACTIVATIONS | _PASSING | AFFINE | {
    "Pow", "Square", "Abs", "Exp", "Expm1", "Log", "Log1p", "Sqrt", "Rsqrt", "Reciprocal", "Sign",
    "Greater", "GreaterEqual", "Less", "LessEqual",
}
# fmt: on
_JOINING = {"Mul", "Maximum", "Minimum", "Select", "SelectV2", "RealDiv", "Div", "Add", "AddV2", "Sub"}
_LINEAR = ((MOVES - _POOLS - _LARGEST) | SUMS | PRODUCTS | CONVOLUTIONS | AFFINE | _PASSING) - {"StopGradient"}


@dataclass(eq=False)
class Expansion:
    """Goes back from a tensor of a traced graph to some earlier ones, through everything between as if it were linear.

    graph: the operations that the tensor is computed by. pixels: what the image comes in by. sources: the earlier tensors.
    passed: how often each kind of operation was taken for an identity, or for a mean. ended: the operations where paths end.
    """

    graph: LogitsGraph
    pixels: tf.Tensor
    sources: Sequence[tf.Tensor]
    passed: Counter[str] = field(default_factory=Counter)
    ended: dict[str, str] = field(default_factory=dict)
    _changing: set[tf.Operation] = field(default_factory=set)
    _behind: set[tf.Operation] = field(default_factory=set)
    _chains: dict[str, list[tf.Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sources = {source.name for source in self.sources}
        self._chains[self.pixels.name] = [self.pixels]
        for operation in self.graph.operations:
            if any(self._changes(source) for source in operation.inputs):
                self._changing.add(operation)
            if any(source.name in sources or source.op in self._behind for source in operation.inputs):
                self._behind.add(operation)
            for output in operation.outputs:
                # In the graph's order, each once: activations of activations would be walked twice as often at every step back.
                self._chains[output.name] = [output, *([] if output.name in sources else self._before(output))]

    def back(self, start: tf.Tensor, weight: tf.Tensor) -> list[tf.Tensor]:
        """The weights of every source, of its shape: those on all paths to `start` that do not lead through another source.

        Args:
            weight: of `start`, of its shape: 1 where the unit is, else 0.
        """
        sources = {source.name for source in self.sources}
        weights: dict[str, tf.Tensor] = {start.name: weight}
        for operation in reversed(self.graph.operations):
            if operation not in self._behind or any(output.name in sources for output in operation.outputs):
                continue
            outputs = [weights.get(output.name) for output in operation.outputs]
            if all(output is None for output in outputs):
                continue
            above = [
                tf.zeros_like(result) if part is None else part for part, result in zip(outputs, operation.outputs, strict=True)
            ]
            for source, share in self._shares(operation, above):
                before = weights.get(source.name)
                weights[source.name] = share if before is None else before + share
        return [weights.get(source.name, tf.zeros_like(source)) for source in self.sources]

    def _changes(self, tensor: tf.Tensor) -> bool:
        """Whether the image can change a tensor's values; its shape does not count."""
        return tensor is self.pixels or (tensor.op in self._changing and (tensor.dtype.is_floating or tensor.dtype.is_bool))

    def _shares(self, operation: tf.Operation, above: list[tf.Tensor]) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """The tensors before an operation that pass a weight on, and that weight."""
        kind, inputs = operation.type, list(operation.inputs)
        changing = [source for source in inputs if self._changes(source)]
        if kind == "IdentityN":
            yield from zip(inputs, above, strict=True)
        elif (root := self._activated(operation, changing)) is not None:
            self.passed[f"{operation.type} of one value" if kind in _JOINING and len(changing) > 1 else kind] += 1
            yield root, tf.cast(above[0], root.dtype)
        elif kind in _POOLS | _LARGEST:
            self.passed[f"{kind} as a mean"] += 1
            yield inputs[0], _mean_pulled_back(operation, above[0])
        elif self._is_linear(operation, len(changing)):
            for source, share in zip(inputs, pulled_back(operation, above), strict=True):
                if share is not None and self._changes(source):
                    yield source, share
        else:
            self.ended[operation.name] = kind

    def _is_linear(self, operation: tf.Operation, changing: int) -> bool:
        if operation.type in _LINEAR:
            return changing <= 1 or operation.type not in PRODUCTS | CONVOLUTIONS | {"Mul", "RealDiv", "Div"}
        return changing == 1 and bool(types_inside(operation) & CONVOLUTIONS)  # a call that may be compiled

    def _activated(self, operation: tf.Operation, changing: Sequence[tf.Tensor]) -> tf.Tensor | None:
        """The tensor of which an operation gives an activation, value by value; None where it does not.

        An activation may be several operations that lead from one value to one, such as x * sigmoid(x). A sum of a tensor and an
        activation of it is a skip connection, and not an activation.
        """
        if len(changing) == 1:
            return changing[0] if operation.type in _ACTIVATIONS and changing[0].shape == operation.outputs[0].shape else None
        if operation.type not in _JOINING:
            return None
        root = self._root(operation, changing)
        sums = operation.type in ("Add", "AddV2", "Sub")
        return None if root is None or (sums and any(source is root for source in changing)) else root

    def _root(self, operation: tf.Operation, changing: Sequence[tf.Tensor]) -> tf.Tensor | None:
        """The nearest tensor of which all of an operation's inputs are functions, value by value."""
        chains = [self._chains[source.name] for source in changing]
        others = [{tensor.name for tensor in chain} for chain in chains[1:]]
        return next(
            (
                tensor
                for tensor in chains[0]
                if tensor.shape == operation.outputs[0].shape and all(tensor.name in names for names in others)
            ),
            None,
        )

    def _before(self, tensor: tf.Tensor) -> list[tf.Tensor]:
        """The tensors before a tensor of which it is a function, value by value, nearest first."""
        changing = [source for source in tensor.op.inputs if self._changes(source)]
        if tensor.op not in self._changing or not changing:
            return []
        if len(changing) == 1 and tensor.op.type in _FUNCTIONS and changing[0].shape == tensor.shape:
            return self._chains[changing[0].name]
        root = self._root(tensor.op, changing) if tensor.op.type in _JOINING else None
        return [] if root is None else self._chains[root.name]


def _mean_pulled_back(operation: tf.Operation, above: tf.Tensor) -> tf.Tensor:
    """The weight of a maximum, shared out evenly over the values that it is the largest of."""
    x = operation.inputs[0]
    if operation.type in _LARGEST:
        axes = operation.inputs[1]
        kept = above if operation.get_attr("keep_dims") else tf.reshape(above, tf.reduce_sum(x, axes, keepdims=True).shape)
        return tf.ones_like(x) * kept * (tf.cast(tf.size(kept), x.dtype) / tf.cast(tf.size(x), x.dtype))
    if operation.type == "MaxPoolV2":
        sizes, strides = operation.inputs[1:]
        ksize, steps = (tf.get_static_value(value).tolist() for value in (sizes, strides))
    else:
        ksize, steps = operation.get_attr("ksize"), operation.get_attr("strides")
    return tf.raw_ops.AvgPoolGrad(
        orig_input_shape=tf.shape(x),
        grad=above,
        ksize=ksize,
        strides=steps,
        padding=operation.get_attr("padding"),
        data_format=operation.get_attr("data_format"),
    )
