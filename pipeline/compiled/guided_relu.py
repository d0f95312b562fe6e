"""Guided backpropagation: the rectifiers of a traced graph let nothing negative back (Springenberg et al., 2015).

Only what runs backwards changes: the forward operations stay, so their numbers do too. A rectifier's gradient
becomes its own gradient of what is positive in the gradient from above. So ReLU6 keeps its upper bound, and a
leaky rectifier its slope.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import tensorflow as tf

from pipeline.compiled.graph_walk import LogitsGraph, types_inside
from pipeline.compiled.tf_private import gradient_function, gradient_name, set_gradient
from pipeline.errors import UnusableModel

_RECTIFIERS = {"Relu", "Relu6", "LeakyRelu"}
_SMOOTH = {"Elu", "Selu", "Softplus"}

# What the two halves of a leaky rectifier are made of, where it is written out.
_HALVES = {"Relu", "Relu6", "Minimum", "Maximum", "Mul", "Select", "SelectV2"}

# What stands between x and the gate of x times gate(x): swish, GELU, Mish.
_SQUASHING = {"Sigmoid", "Erf", "Erfc", "Tanh"}
_STEPS = _SQUASHING | {"Softplus", "Neg", "Pow", "Square", "Mul", "Add", "AddV2", "Sub", "RealDiv", "Div", "Cast", "Exp"}


@dataclass(frozen=True)
class Guide:
    """What guided backpropagation found to replace.

    rule: "rectifiers"; or "smooth", for a network that has none: its ELU, swish, GELU and the like let
        nothing negative back.
    replaced: how many there were on the way to the logits.
    """

    rule: Literal["rectifiers", "smooth"]
    replaced: int


def guide(logits_graph: LogitsGraph, images: tf.Tensor, name: str) -> Guide:
    """Make every rectifier between the images and the logits let nothing negative back, from now on.

    Gradients that were asked of the graph before stay as they are.

    Args:
        images: what the gradients are to be taken of.
        name: the network, for the errors.

    Raises: UnusableModel, for a network without rectifiers or smooth ones, or with one inside a function.
    """
    moving = _moving(logits_graph, images)
    for operation in moving:
        inside = types_inside(operation) & _RECTIFIERS
        if inside - {operation.type}:
            raise UnusableModel(
                f"{name} runs {', '.join(sorted(inside))} inside a function of its own ({operation.name!r}), where guided "
                "backpropagation cannot replace it. Leave guided_backprop and guided_gradcam out of gradcam.methods."
            )
    rectifiers = _rectifiers(moving)
    found = rectifiers or [operation for operation in moving if _is_smooth(operation, moving)]
    if not found:
        raise UnusableModel(
            f"{name} has no rectifier (ReLU, ReLU6, leaky ReLU) and no smooth one (ELU, swish, GELU), so guided "
            "backpropagation would be the plain gradient. Leave guided_backprop and guided_gradcam out of gradcam.methods."
        )
    for operation in found:
        _let_nothing_negative_back(operation)
    return Guide("rectifiers" if rectifiers else "smooth", len(found))


def _moving(logits_graph: LogitsGraph, images: tf.Tensor) -> dict[tf.Operation, None]:
    """The operations on the way that the images can change, in forward order."""
    found: dict[tf.Operation, None] = {}
    for operation in logits_graph.operations:
        if any(source is images or source.op in found for source in operation.inputs):
            found[operation] = None
    return found


def _rectifiers(moving: dict[tf.Operation, None]) -> list[tf.Operation]:
    found: dict[tf.Operation, None] = {}
    halves: set[tf.Operation] = set()
    for operation in moving:
        join = _join_of_halves(operation, moving)
        if join is not None:
            found[join] = None
            waiting = [source.op for source in join.inputs]
            while waiting:
                half = waiting.pop()
                if half in moving and half.type in _HALVES:
                    halves.add(half)
                    waiting += [source.op for source in half.inputs]
    for operation in moving:
        if operation not in halves and (operation.type in _RECTIFIERS or _is_written_out(operation, moving)):
            found[operation] = None
    return [operation for operation in moving if operation in found]


def _join_of_halves(operation: tf.Operation, moving: dict[tf.Operation, None]) -> tf.Operation | None:
    """The sum relu(x) - slope * relu(-x) that a relu(-x) is half of, as Keras writes PReLU; None for any other operation."""
    if operation.type != "Relu":
        return None
    source = operation.inputs[0].op
    if source.type in ("Add", "AddV2"):  # a threshold
        source = source.inputs[0].op
    scaled = _consumers(operation, moving)
    if source.type != "Neg" or len(scaled) != 1 or scaled[0].type != "Mul":
        return None
    joins = _consumers(scaled[0], moving)
    return joins[0] if len(joins) == 1 and joins[0].type in ("Add", "AddV2", "Sub") else None


def _consumers(operation: tf.Operation, moving: dict[tf.Operation, None]) -> list[tf.Operation]:
    """Those that go forward: gradients take outputs too."""
    return [consumer for output in operation.outputs for consumer in output.consumers() if consumer in moving]


def _is_written_out(operation: tf.Operation, moving: Iterable[tf.Operation]) -> bool:
    """Whether it is max(x, 0), max(x, slope * x), or `x if x > threshold else 0`."""
    if operation.type in ("Select", "SelectV2"):
        condition, value, other = operation.inputs
        compares = condition.op.type in ("Greater", "GreaterEqual") and condition.op.inputs[0] is value
        return compares and _number(other) == 0
    if operation.type != "Maximum":
        return False
    for x, floor in (operation.inputs, reversed(operation.inputs)):
        if _number(floor) == 0:
            # Keras clips what a Relu gave between 0 and an upper bound: the Relu is the rectifier.
            return not (x.op.type == "Minimum" and x.op.inputs[0].op.type in ("Relu", "Select", "SelectV2"))
        if floor.op.type == "Mul" and any(source is x for source in floor.op.inputs):
            return True
    return False


def _number(tensor: tf.Tensor) -> float | None:
    value = tf.get_static_value(tensor)
    return None if value is None or value.size != 1 else float(value.reshape(()))


def _is_smooth(operation: tf.Operation, moving: dict[tf.Operation, None]) -> bool:
    """Whether it gives the output of a smooth rectifier: ELU, SELU, softplus, or x times a gate of x."""
    consumers = {consumer.type for consumer in _consumers(operation, moving)}
    if operation.type in _SMOOTH:
        return "Tanh" not in consumers  # there it is a part of Mish
    if operation.type == "IdentityN":  # in tf.nn.silu it stands for the product, with a gradient of its own
        return _is_gated(operation.inputs[0].op, moving)
    return "IdentityN" not in consumers and _is_gated(operation, moving)


def _is_gated(operation: tf.Operation, moving: dict[tf.Operation, None]) -> bool:
    """Whether it is x times gate(x), x perhaps scaled: swish, GELU (exact or by tanh), Mish."""
    if operation.type != "Mul":
        return False
    for x, gate in (operation.inputs, reversed(operation.inputs)):
        scaled = [source for source in x.op.inputs if source.op in moving] if x.op.type == "Mul" else []
        for base in (x, *scaled):
            found: set[str] = set()
            if gate is not base and _is_made_of(gate, base, moving, found) and found & _SQUASHING:
                return True
    return False


def _is_made_of(gate: tf.Tensor, x: tf.Tensor, moving: dict[tf.Operation, None], found: set[str]) -> bool:
    """Whether a tensor comes from x (and constants) alone, place by place; the operations are added to `found`."""
    if gate is x or gate.op not in moving:
        return True
    found.add(gate.op.type)
    return gate.op.type in _STEPS and all(_is_made_of(source, x, moving, found) for source in gate.op.inputs)


def _let_nothing_negative_back(operation: tf.Operation) -> None:
    """Give an operation a gradient of its own: that of its type, of the positive part of what comes from above."""
    name = f"Positive{gradient_name(operation)}"
    plain = gradient_function(operation)
    with contextlib.suppress(KeyError):  # registered before, for another operation of the kind
        tf.RegisterGradient(name)(lambda one, *above: plain(one, *(tf.nn.relu(gradient) for gradient in above)))
    set_gradient(operation, name)
