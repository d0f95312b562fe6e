"""What relevance propagation is made of: an operation on other inputs, its own gradients, and shares of what it is given."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf

from pipeline.compiled.gradients import deterministic_gradients, own_gradient
from pipeline.compiled.operation_kinds import BETWEEN, NORMALISATIONS, PRODUCTS

EPSILON = 1e-6  # keeps shares of nearly nothing finite


def again(operation: tf.Operation, inputs: Sequence[tf.Tensor]) -> tf.Operation:
    """The same operation on other inputs."""
    attributes = {
        name: value
        for name, value in operation.node_def.attr.items()
        if name not in ("_gradient_op_type", "_output_shapes", "_class")
    }
    types = [output.dtype for output in operation.outputs]
    return operation.graph.create_op(operation.type, list(inputs), types, attrs=attributes)


def pulled_back(operation: tf.Operation, above: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
    """The gradients by an operation's inputs, given those by its outputs.

    `tf.gradients` would look at the whole graph for every operation.
    """
    try:
        gradient = own_gradient(operation)
    except LookupError:  # a call of a function
        inputs = list(operation.inputs)
        return deterministic_gradients(operation.outputs, inputs, grad_ys=above, stop_gradients=inputs)
    gradients = gradient(operation, *above)
    return list(gradients) if isinstance(gradients, (list, tuple)) else [gradients]


@dataclass(frozen=True)
class Contribution:
    """An input and weights in the place of an operation's own, and the sign of what comes of them."""

    x: tf.Tensor
    w: tf.Tensor
    sign: float = 1.0


@dataclass(frozen=True)
class Share:
    """Shares out what a convolution's, or a dense layer's, output is given.

    hands_on: whether the share of the bias, and what no input accounts for, goes to the inputs by the size of what they add.
    """

    operation: tf.Operation
    position: int
    hands_on: bool

    def __call__(self, terms: Sequence[Contribution], bias: tf.Tensor, above: tf.Tensor) -> tf.Tensor:
        """The relevance of the input, where the output is the sum of some terms and a bias."""
        parts = [self._on(term.x, term.w) for term in terms]
        added = tf.add_n([term.sign * part.outputs[0] for term, part in zip(terms, parts, strict=True)])
        total = stable(added + bias)
        shares = [term.x * self._back(part, term.sign * above / total) for term, part in zip(terms, parts, strict=True)]
        if self.hands_on:
            x = self.operation.inputs[self.position]
            size = (tf.abs(x) + EPSILON) * inside(x)
            part = self._on(size, tf.abs(weights_of(self.operation, self.position)))
            rest = tf.math.divide_no_nan(above * (1 - added / total), part.outputs[0])
            shares.append(size * self._back(part, rest))
        return tf.add_n(shares)

    def output(self, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """The operation's, for another input and other weights."""
        return self._on(x, w).outputs[0]

    def _back(self, part: tf.Operation, above: tf.Tensor) -> tf.Tensor:
        gradient = pulled_back(part, [above])[self.position]
        assert gradient is not None
        return gradient

    def _on(self, x: tf.Tensor, w: tf.Tensor) -> tf.Operation:
        weights = weights_of(self.operation, self.position)
        inputs = [
            x if number == self.position else w if source is weights else source
            for number, source in enumerate(self.operation.inputs)
        ]
        return again(self.operation, inputs)


def weights_of(operation: tf.Operation, position: int) -> tf.Tensor | None:
    """The weights of an operation of which the input at `position` depends on the image. None, if it reads a variable itself."""
    others = (source for number, source in enumerate(operation.inputs) if number != position)
    return next((source for source in others if source.dtype.is_floating), None)


def inside(x: tf.Tensor) -> tf.Tensor:
    """Ones, and zeros where an operation of its own padded the tensor: what is given there would be lost."""
    if x.op.type in ("Pad", "PadV2"):
        return tf.pad(tf.ones_like(x.op.inputs[0]), x.op.inputs[1])
    return tf.ones_like(x)


def linear_part(operation: tf.Operation, inputs: Sequence[tf.Tensor], number: int) -> tf.Tensor:
    """The output of an affine operation less what it gives for zero."""
    zero = [tf.zeros_like(source) if position == number else source for position, source in enumerate(inputs)]
    return operation.outputs[0] - again(operation, zero).outputs[0]


def stable(total: tf.Tensor) -> tf.Tensor:
    return total + EPSILON * tf.where(total >= 0, tf.ones_like(total), -tf.ones_like(total))


def affine(user: tf.Operation, end: tf.Tensor, others: Sequence[tf.Tensor]) -> tuple[tf.Tensor | None, tf.Tensor | None]:
    """By what an affine operation multiplies each channel, None for by one, and what it then adds, None for nothing."""
    minus = tf.constant(-1.0, end.dtype)
    if user.type in BETWEEN:
        return None, None
    if user.type == "Neg":
        return minus, None
    if user.type in ("Mul", "RealDiv", "Div"):
        return others[0] if user.type == "Mul" else 1 / others[0], None
    if user.type == "Sub":
        return (None, -others[0]) if user.inputs[0] is end else (minus, others[0])
    if user.type in NORMALISATIONS:
        gain, offset, mean, variance = user.inputs[1:5]
        factor = gain * tf.math.rsqrt(variance + user.get_attr("epsilon"))
        return factor, offset - mean * factor
    return None, others[0]


def scaled(operation: tf.Operation, w: tf.Tensor, scale: tf.Tensor | None) -> tf.Tensor:
    """The weights of a convolution or a dense layer times the scale of each channel of its output."""
    if scale is None or scale.shape.num_elements() == 1:
        return w if scale is None else w * scale
    if operation.type in PRODUCTS - {"MatMul"}:
        return w  # the axes of the output may lie anywhere
    if operation.type == "DepthwiseConv2dNative":
        return w * tf.reshape(scale, w.shape[2:])
    if operation.type == "Conv2DBackpropInput":
        return w * scale[:, tf.newaxis]
    transposed = operation.type == "MatMul" and operation.get_attr("transpose_b")
    return w * (scale[:, tf.newaxis] if transposed else scale)


def is_channels_first(operation: tf.Operation) -> bool:
    attributes = operation.node_def.attr
    return "data_format" in attributes and attributes["data_format"].s.startswith(b"NC")


def is_of_groups(operation: tf.Operation, axis: int) -> bool:
    """Whether an operation joins the outputs of a convolution in groups: of convolutions of all parts of a tensor's channels."""
    if operation.type != "ConcatV2":
        return False
    parts = [_convolved(source) for source in list(operation.inputs)[:-1]]
    split = parts[0].op
    axes = [operation.inputs[-1], split.inputs[0]] if split.type == "Split" else []
    along = [tf.get_static_value(number) in (axis, axis % operation.outputs[0].shape.rank) for number in axes]
    return bool(along) and all(along) and len(parts) == len(split.outputs) and all(map(operator.is_, parts, split.outputs))


def _convolved(tensor: tf.Tensor) -> tf.Tensor:
    """What a convolution takes, dilated or not; the tensor itself, if none gave it."""
    convolution = _behind(tensor, "BatchToSpaceND")
    return _behind(convolution.op.inputs[0], "SpaceToBatchND") if convolution.op.type == "Conv2D" else tensor


def _behind(tensor: tf.Tensor, kind: str) -> tf.Tensor:
    return tensor.op.inputs[0] if tensor.op.type == kind else tensor
