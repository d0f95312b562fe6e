"""Guided backpropagation: finds the ReLUs of a traced graph, in all their forms, and makes them pass back positive values only.

The positive part of the gradient from above goes through each ReLU's own gradient: ReLU6 keeps its upper bound, a leaky
ReLU its slope (Springenberg et al., "Striving for Simplicity", 2015). In a deconvnet it goes past it, whatever the ReLU was
given (Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2014).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import tensorflow as tf

from pipeline.compiled.gradients import DECONVNET, GUIDED, GradientRule, replace_gradients
from pipeline.compiled.graph_walk import LogitsGraph, types_inside
from pipeline.errors import UnusableModel

_RELUS = {"Relu", "Relu6", "LeakyRelu"}
_SMOOTH = {"Elu", "Selu", "Softplus"}

# The operations of the two halves of a leaky ReLU that is computed as their sum.
_HALVES = {"Relu", "Relu6", "Minimum", "Maximum", "Mul", "Select", "SelectV2"}

# The operations between x and gate(x) in x * gate(x): swish, GELU, Mish.
_SQUASHING = {"Sigmoid", "Erf", "Erfc", "Tanh"}
_STEPS = _SQUASHING | {"Softplus", "Neg", "Pow", "Square", "Mul", "Add", "AddV2", "Sub", "RealDiv", "Div", "Cast", "Exp"}


Relus = Literal["guided", "deconvnet"]
CHANGES: dict[Relus, GradientRule] = {"guided": GUIDED, "deconvnet": DECONVNET}


@dataclass(frozen=True)
class Guide:
    """Which activations guided backpropagation, or a deconvnet, replaced.

    rule: "relu", where the network has ReLUs; "smooth", where it has none and its ELU, swish, GELU and the like
        were replaced.
    replaced: how many of them the logits are computed by.
    """

    rule: Literal["relu", "smooth"]
    replaced: int


def guide(logits_graph: LogitsGraph, images: tf.Tensor, name: str, relus: Relus = "guided") -> Guide:
    """Make the ReLUs between the images and the logits pass back positive values only, in every later `tf.gradients`.

    Gradients computed before do not change. After "guided", "deconvnet" may follow, not the other way round.

    Args:
        images: the tensor that gradients will be taken by.
        name: the network, for the errors.

    Raises: UnusableModel, for a network without ReLUs or smooth activations, or with one inside a function; for a deconvnet,
        for a ReLU that is made of several operations.
    """
    changing = _changing(logits_graph, images)
    for operation in changing:
        inside = types_inside(operation) & _RELUS
        if inside - {operation.type}:
            raise UnusableModel(
                f"{name} runs {', '.join(sorted(inside))} inside a function of its own ({operation.name!r}), where guided "
                "backpropagation cannot replace it. Leave guided_backprop, guided_gradcam and deconvnet out of gradcam.methods."
            )
    relu_operations = _relus(changing)
    activations = relu_operations or [operation for operation in changing if _is_smooth(operation, changing)]
    if not activations:
        raise UnusableModel(
            f"{name} has no ReLU (ReLU, ReLU6, leaky ReLU) and no smooth activation (ELU, swish, GELU), so guided "
            "backpropagation would be the plain gradient. Leave guided_backprop, guided_gradcam and deconvnet out of "
            "gradcam.methods."
        )
    mixed = [operation for operation in activations if operation.type not in _RELUS | _SMOOTH]
    if relus == "deconvnet" and mixed:
        raise UnusableModel(
            f"{name} computes a ReLU by several operations, of which {mixed[0].name!r} is the last, and a deconvnet has no "
            "rule for that. Leave deconvnet out of gradcam.methods; guided_backprop works."
        )
    replace_gradients(activations, CHANGES[relus])
    return Guide("relu" if relu_operations else "smooth", len(activations))


def _changing(logits_graph: LogitsGraph, images: tf.Tensor) -> dict[tf.Operation, None]:
    """The operations behind the logits whose outputs depend on the images, in forward order."""
    changing: dict[tf.Operation, None] = {}
    for operation in logits_graph.operations:
        if any(source is images or source.op in changing for source in operation.inputs):
            changing[operation] = None
    return changing


def _relus(changing: dict[tf.Operation, None]) -> list[tf.Operation]:
    """The operations that compute a ReLU's output; a ReLU made of several operations counts once."""
    relus: set[tf.Operation] = set()
    halves: set[tf.Operation] = set()
    for operation in changing:
        join = _join_of_halves(operation, changing)
        if join is not None:
            relus.add(join)
            waiting = [source.op for source in join.inputs]
            while waiting:
                half = waiting.pop()
                if half in changing and half.type in _HALVES:
                    halves.add(half)
                    waiting += [source.op for source in half.inputs]
    for operation in changing:
        if operation not in halves and (operation.type in _RELUS or _is_written_out(operation, changing)):
            relus.add(operation)
    return [operation for operation in changing if operation in relus]


def _join_of_halves(operation: tf.Operation, changing: dict[tf.Operation, None]) -> tf.Operation | None:
    """The sum relu(x) - slope * relu(-x) that a relu(-x) is half of, as Keras writes PReLU; None for any other operation."""
    if operation.type != "Relu":
        return None
    source = operation.inputs[0].op
    if source.type in ("Add", "AddV2"):  # a threshold
        source = source.inputs[0].op
    scaled = _consumers(operation, changing)
    if source.type != "Neg" or len(scaled) != 1 or scaled[0].type != "Mul":
        return None
    joins = _consumers(scaled[0], changing)
    return joins[0] if len(joins) == 1 and joins[0].type in ("Add", "AddV2", "Sub") else None


def _consumers(operation: tf.Operation, changing: dict[tf.Operation, None]) -> list[tf.Operation]:
    """The operations of the forward pass that take an operation's outputs; those of gradients take them too."""
    return [consumer for output in operation.outputs for consumer in output.consumers() if consumer in changing]


def _is_written_out(operation: tf.Operation, changing: Iterable[tf.Operation]) -> bool:
    """Whether it is max(x, 0), max(x, slope * x), or `x if x > threshold else 0`."""
    if operation.type in ("Select", "SelectV2"):
        condition, value, other = operation.inputs
        compares = condition.op.type in ("Greater", "GreaterEqual") and condition.op.inputs[0] is value
        return compares and _number(other) == 0
    if operation.type != "Maximum":
        return False
    for x, floor in (operation.inputs, reversed(operation.inputs)):
        if _number(floor) == 0:
            # Keras clips the output of a Relu to an upper bound: the Relu counts, and this does not.
            return not (x.op.type == "Minimum" and x.op.inputs[0].op.type in ("Relu", "Select", "SelectV2"))
        if floor.op.type == "Mul" and any(source is x for source in floor.op.inputs):
            return True
    return False


def _number(tensor: tf.Tensor) -> float | None:
    value = tf.get_static_value(tensor)
    return None if value is None or value.size != 1 else float(value.reshape(()))


def _is_smooth(operation: tf.Operation, changing: dict[tf.Operation, None]) -> bool:
    """Whether it gives the output of a smooth activation: ELU, SELU, softplus, or x * gate(x)."""
    consumers = {consumer.type for consumer in _consumers(operation, changing)}
    if operation.type in _SMOOTH:
        return "Tanh" not in consumers  # there it is a part of Mish
    if operation.type == "IdentityN":  # tf.nn.silu wraps its product in one, with a gradient of its own
        return _is_gated(operation.inputs[0].op, changing)
    return "IdentityN" not in consumers and _is_gated(operation, changing)


def _is_gated(operation: tf.Operation, changing: dict[tf.Operation, None]) -> bool:
    """Whether it is x * gate(x), x perhaps scaled: swish, GELU (exact or by tanh), Mish."""
    if operation.type != "Mul":
        return False
    for x, gate in (operation.inputs, reversed(operation.inputs)):
        scaled = [source for source in x.op.inputs if source.op in changing] if x.op.type == "Mul" else []
        for base in (x, *scaled):
            types: set[str] = set()
            if gate is not base and _is_function_of(gate, base, changing, types) and types & _SQUASHING:
                return True
    return False


def _is_function_of(gate: tf.Tensor, x: tf.Tensor, changing: dict[tf.Operation, None], types: set[str]) -> bool:
    """Whether a tensor is computed from x and constants alone, element by element; adds the operations' types to `types`."""
    if gate is x or gate.op not in changing:
        return True
    types.add(gate.op.type)
    return gate.op.type in _STEPS and all(_is_function_of(source, x, changing, types) for source in gate.op.inputs)
