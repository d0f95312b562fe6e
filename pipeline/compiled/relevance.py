"""Layer-wise relevance propagation (Bach et al., 2015): a score goes back through a traced graph, operation by operation.

Each operation shares out what its output is given among its inputs, in proportion to what they contributed. What is due to
a bias goes to the inputs by the size of what they add, so that what reaches the pixels adds up to the score. Batch
normalisation after a convolution is a part of it (canonised): its scale multiplies the kernel, its offset is a bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import tensorflow as tf

from pipeline.compiled.graph_walk import CALLS, LogitsGraph, types_inside
from pipeline.compiled.operation_kinds import AFFINE, BETWEEN, CONVOLUTIONS, ELEMENTWISE, MOVES, PRODUCTS, SQUASHING, SUMS
from pipeline.compiled.relevance_shares import (
    Contribution,
    Share,
    affine,
    again,
    inside,
    is_channels_first,
    is_of_groups,
    linear_part,
    pulled_back,
    scaled,
    stable,
    weights_of,
)
from pipeline.errors import UnusableModel

Rule = Literal["epsilon", "gamma", "zplus", "flat", "box"]

_GAMMA = 0.25  # by how much positive weights count more


@dataclass(frozen=True)
class Composite:
    """The rule for each kind of layer: the first convolution or dense layer, other convolutions, other dense layers.

    hands_biases_on: whether the share of a bias goes on to the inputs, by the size of what each adds; else it is lost.
    """

    first: Rule
    convolutions: Rule
    dense: Rule = "epsilon"
    hands_biases_on: bool = True


COMPOSITES = {
    "epsilon": Composite("epsilon", "epsilon"),
    "zplus": Composite("zplus", "zplus", "zplus"),
    "epsilon_plus_flat": Composite("flat", "zplus"),
    "epsilon_gamma_box": Composite("box", "gamma"),
}


@dataclass(eq=False)
class Propagation:
    """Sends relevance from the logits of a traced graph back to its pixels, by the rules of one composite.

    pixels: the tensor that they come in by, 0 to 255. name: the network's, for errors.
    """

    logits_graph: LogitsGraph
    pixels: tf.Tensor
    composite: Composite
    name: str
    _changing: dict[tf.Operation, None] = field(default_factory=dict)
    _users: dict[tf.Operation, list[tf.Operation]] = field(default_factory=dict)
    _behind_weights: set[tf.Operation] = field(default_factory=set)

    def __post_init__(self) -> None:
        for operation in self.logits_graph.operations:
            if not any(self._changes(source) for source in operation.inputs):
                continue
            self._changing[operation] = None
            for source in operation.inputs:
                self._users.setdefault(source.op, []).append(operation)
            if self._is_weighted(operation) or any(source.op in self._behind_weights for source in operation.inputs):
                self._behind_weights.add(operation)
        outputs = (output for operation in self._changing for output in operation.outputs)
        other = next((output for output in outputs if _is_of_another_precision(output.dtype)), None)
        if other is not None:
            raise UnusableModel(
                f"{self.name} computes in {other.dtype.name} ({other.op.name}), and relevance is followed in float32 alone. "
                "Build the network in float32, or leave the methods that begin with lrp out of gradcam.methods."
            )

    def back(self, start: tf.Tensor, relevance: tf.Tensor, ends: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The relevance of some tensors, float32 of their shapes, given that of a tensor behind them.

        Raises: UnusableModel, for an operation that no rule is known for.
        """
        relevances: dict[str, tf.Tensor] = {start.name: relevance}
        for operation in reversed(self._changing):
            outputs = [relevances.get(output.name) for output in operation.outputs]
            if all(output is None for output in outputs):
                continue
            above = [
                tf.zeros_like(source_output) if gradient is None else gradient
                for gradient, source_output in zip(outputs, operation.outputs, strict=True)
            ]
            try:
                shares = self._shares(operation, above)
            except (AttributeError, ValueError):
                if operation.type not in CALLS:
                    raise
                raise self._without_rule(operation, "a compiled function that nothing goes back through") from None
            for source, share in zip(operation.inputs, shares, strict=True):
                if share is not None and self._changes(source):
                    before = relevances.get(source.name)
                    relevances[source.name] = share if before is None else before + share
        return [relevances.get(end.name, tf.zeros_like(end)) for end in ends]

    def _changes(self, tensor: tf.Tensor) -> bool:
        return tensor is self.pixels or tensor.op in self._changing

    def _is_weighted(self, operation: tf.Operation) -> bool:
        return bool(types_inside(operation) & (CONVOLUTIONS | PRODUCTS)) and sum(map(self._changes, operation.inputs)) == 1

    def _shares(self, operation: tf.Operation, above: list[tf.Tensor]) -> Sequence[tf.Tensor | None]:
        """The relevance of each input; None where it receives none."""
        kind, inputs = operation.type, list(operation.inputs)
        changing = [number for number, source in enumerate(inputs) if self._changes(source)]
        shares: list[tf.Tensor | None] = [None] * len(inputs)
        if kind == "IdentityN":
            return list(above)
        if self._is_weighted(operation):
            shares[changing[0]] = self._of_weighted(operation, changing[0], above[0])
        elif len(changing) == 1 and kind in AFFINE | ELEMENTWISE and inputs[changing[0]].shape == operation.outputs[0].shape:
            shares[changing[0]] = above[0]  # a bias and a function of one number take nothing
        elif kind in MOVES:
            shares = pulled_back(operation, above)
        elif kind in SUMS | {"Mul"} and (kind != "Mul" or len(changing) == 1):
            total = operation.outputs[0] if len(changing) > 1 or kind not in AFFINE else None
            shares = self._by_contribution(operation, changing, above[0], total)
        elif kind in ("Maximum", "Minimum") and len(changing) == 2:
            shares = pulled_back(operation, above)
        elif kind in ("RealDiv", "Div"):
            shares[0] = above[0]  # what it is divided by is a scale
        elif kind in {"Mul"} | PRODUCTS and len(changing) == 2:
            signals = self._signals(operation, changing)
            for number in signals:
                shares[number] = self._by_contribution(operation, [number], above[0] / len(signals), operation.outputs[0])[number]
        else:
            raise self._without_rule(operation, kind)
        return shares

    def _without_rule(self, operation: tf.Operation, kind: str) -> UnusableModel:
        return UnusableModel(
            f"{self.name} computes {operation.name!r} by {kind}, for which relevance propagation has no rule. Leave the "
            "methods that begin with lrp out of gradcam.methods."
        )

    def _by_contribution(
        self, operation: tf.Operation, numbers: Sequence[int], above: tf.Tensor, total: tf.Tensor | None
    ) -> list[tf.Tensor | None]:
        """Each input's value times the gradient of what the output is given as a share of the output."""
        inputs = list(operation.inputs)
        if total is None:  # of one input alone: what a constant adds takes no share
            total = linear_part(operation, inputs, numbers[0])
        gradients = pulled_back(operation, [above / stable(total)])
        return [inputs[number] * gradients[number] if number in numbers else None for number in range(len(inputs))]

    def _signals(self, operation: tf.Operation, changing: Sequence[int]) -> Sequence[int]:
        """The factors that a product's relevance goes to: not a gate or an attention, which say how much passes."""
        pairs = {number: (operation.inputs[number], operation.inputs[1 - number]) for number in changing}
        # First by what a factor is: a mean to be scaled is smaller than the scale with its factor for each channel.
        gates = [number for number, pair in pairs.items() if self._is_scale(*pair)]
        if len(gates) != 1:
            gates = [number for number, (factor, other) in pairs.items() if _is_smaller(factor, other)]
        return [1 - gates[0]] if len(gates) == 1 else changing

    def _is_scale(self, factor: tf.Tensor, other: tf.Tensor) -> bool:
        """Whether a factor is a function that squashes, or a function of the other, such as that of a hard swish."""
        while factor.op in self._changing and factor is not other:
            if factor.op.type in SQUASHING:
                return True
            sources = [source for source in factor.op.inputs if self._changes(source)]
            if len(sources) != 1 or factor.op.type not in AFFINE | ELEMENTWISE | MOVES:
                return False
            factor = sources[0]
        return factor is other

    def _of_weighted(self, operation: tf.Operation, position: int, above: tf.Tensor) -> tf.Tensor:
        """By the composite's rule for a convolution or a dense layer."""
        is_first = not any(source.op in self._behind_weights for source in operation.inputs)
        is_convolution = bool(types_inside(operation) & CONVOLUTIONS)
        rule = self.composite.first if is_first else self.composite.convolutions if is_convolution else self.composite.dense
        x, w = operation.inputs[position], weights_of(operation, position)
        if w is None:
            raise self._without_rule(operation, "a compiled function that holds its weights")
        share = Share(operation, position, self.composite.hands_biases_on)
        if rule == "flat":
            ones = Contribution(inside(x), tf.ones_like(w))
            return Share(operation, position, hands_on=False)([ones], tf.zeros_like(above), above)
        scale, bias = self._rest(operation)
        w = scaled(operation, w, scale)
        if rule == "epsilon":
            return share([Contribution(x, w)], bias, above)
        more, less = tf.nn.relu(w), -tf.nn.relu(-w)
        if rule == "box":
            low, high = self._bounds(x)
            return share(
                [Contribution(x, w), Contribution(low, more, -1.0), Contribution(high, less, -1.0)], tf.zeros_like(bias), above
            )
        above_zero, below_zero = tf.nn.relu(x), -tf.nn.relu(-x)
        if rule == "zplus":
            return share([Contribution(above_zero, more), Contribution(below_zero, less)], tf.nn.relu(bias), above)
        output = share.output(x, w) + bias
        halves = []
        for mask, first, second, portion in (
            (output > 0, more, less, tf.nn.relu(bias)),
            (output < 0, less, more, -tf.nn.relu(-bias)),
        ):
            terms = [Contribution(above_zero, w + _GAMMA * first), Contribution(below_zero, w + _GAMMA * second)]
            halves.append(share(terms, bias + _GAMMA * portion, tf.where(mask, above, tf.zeros_like(above))))
        return halves[0] + halves[1]

    def _rest(self, operation: tf.Operation) -> tuple[tf.Tensor | None, tf.Tensor]:
        """The scale of each channel, and the bias, of the affine operations that are the only ones to use an output.

        Of a convolution in groups, these come behind the groups' concatenation, and each group has its own part of them.

        Returns: both of the output's rank, or of one number.
        """
        end = operation.outputs[0]
        axis = 1 if is_channels_first(operation) else -1
        own = channels = end.shape[axis]
        first, scale, bias = 0, None, tf.zeros([], end.dtype)
        while len(users := self._users.get(end.op, [])) == 1:
            user = users[0]
            if is_of_groups(user, axis):
                before = list(user.inputs)[: next(number for number, source in enumerate(user.inputs) if source is end)]
                first, channels, end = sum(source.shape[axis] for source in before), user.outputs[0].shape[axis], user.outputs[0]
                continue
            others = [source for source in user.inputs if source is not end]
            if user.type not in AFFINE | BETWEEN or any(map(self._changes, others)) or len(others) < len(user.inputs) - 1:
                break
            parts = affine(user, end, others)
            if any(part is not None and part.shape.num_elements() not in (1, channels) for part in parts):
                break
            factor, offset = (_numbers(part, first, own) for part in parts)
            if factor is not None:
                scale, bias = factor if scale is None else scale * factor, bias * factor
            bias = bias if offset is None else bias + offset
            end = user.outputs[0]
        shape = [1, -1, *[1] * (end.shape.rank - 2)] if is_channels_first(operation) else [-1]
        return scale, tf.reshape(bias, shape)

    def _bounds(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The least and the largest that a tensor between the pixels and the first weights can be, everywhere."""
        ends = [self._with_pixels(x, tf.fill(tf.shape(self.pixels), value)) for value in (0.0, 255.0)]
        return tf.minimum(*ends), tf.maximum(*ends)

    def _with_pixels(self, tensor: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
        if tensor is self.pixels:
            return pixels
        if tensor.op not in self._changing:
            return tensor
        inputs = [self._with_pixels(source, pixels) for source in tensor.op.inputs]
        return again(tensor.op, inputs).outputs[tensor.value_index]


def _numbers(part: tf.Tensor | None, first: int, count: int) -> tf.Tensor | None:
    """A number for each of so many channels, from the first on; or one for all."""
    if part is None:
        return None
    numbers = tf.reshape(part, [-1])
    return numbers if numbers.shape[0] == 1 else numbers[first : first + count]


def _is_smaller(factor: tf.Tensor, other: tf.Tensor) -> bool:
    sizes = [tensor.shape.num_elements() or 0 for tensor in (factor, other)]
    return 0 < sizes[0] < sizes[1]


def _is_of_another_precision(dtype: tf.DType) -> bool:
    return bool(dtype.is_floating) and dtype != tf.float32
