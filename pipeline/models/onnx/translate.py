"""From a graph of ONNX to operations of TensorFlow: node by node, what is constant computed at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
import tensorflow as tf

from pipeline.errors import UnusableModel, one_line
from pipeline.models.onnx.batches import fitted
from pipeline.models.onnx.onnx_file import array_of, checked, inlined, opset_of
from pipeline.models.onnx.table import FLOW, OPERATORS, supported
from pipeline.models.onnx.values import CannotTranslate, NodeCall, Value, grows, plain, stored_last

__all__ = ["Translation", "run", "supported"]

_MAKES = {"ConstantOfShape", "Expand", "Tile", "Range", "OneHot", "Pad", "Resize", "Upsample", "AffineGrid", "EyeLike"}
_MOST_NUMBERS = 2**26  # in an array that is made while a network is translated
_MOST_STEPS = 200_000  # nodes run while a network is translated, every turn of a loop counted


@dataclass(frozen=True)
class NodeOutput:
    """A tensor of TensorFlow that one output of a node became."""

    tensor: tf.Tensor
    node: str
    output: str
    kind: str


@dataclass
class Translation:
    """A graph on its way to TensorFlow.

    batch: the length of the batch, a tensor; None where all inputs are arrays, and so is everything.
    fixed: the length of the batch that the file was exported for, where it says one.
    """

    opset: int
    where: str
    batch: Any = None
    fixed: int | None = None
    layers: list[NodeOutput] = field(default_factory=list)
    steps: int = 0

    def graph(self, graph: onnx.GraphProto, outer: Mapping[str, Value], bound: Mapping[str, Value]) -> list[Value]:
        """The outputs of a graph.

        Args:
            outer: the values of the graph around it.
            given: the values of its own inputs.

        Raises: UnusableModel.
        """
        values = dict(outer) | {tensor.name: Value(array_of(tensor, self.where)) for tensor in graph.initializer} | dict(bound)
        defined = {tensor.name for tensor in graph.initializer} | bound.keys()
        for node in graph.node:
            self._check(node, values, defined)
            outputs = self.node(node, values)
            for name, value in zip(node.output, outputs, strict=False):
                if name:
                    values[name] = value
                    defined.add(name)
        missing = [output.name for output in graph.output if output.name not in values]
        if missing:
            raise UnusableModel(f"{self.where} has no node that gives its output {missing[0]!r}. Export it again.")
        return [values[output.name] for output in graph.output]

    def _check(self, node: onnx.NodeProto, values: Mapping[str, Value], defined: set[str]) -> None:
        for name in node.input:
            if name and name not in values:
                raise UnusableModel(
                    f"the node {_name(node)!r} of {self.where} takes {name!r}, which no node before it gives: "
                    "the graph has a cycle, or is not whole. Export it again."
                )
        twice = [name for name in node.output if name and name in defined]
        if twice:
            raise UnusableModel(f"{self.where} has two nodes that give {twice[0]!r}. Export it again.")
        self.steps += 1
        if self.steps > _MOST_STEPS:
            raise UnusableModel(f"{self.where} takes more than {_MOST_STEPS} steps: its loops are too long. Export it without.")

    def node(self, node: onnx.NodeProto, values: Mapping[str, Value]) -> list[Value]:
        """The outputs of one node."""
        attributes = {attribute.name: self._attribute(attribute) for attribute in node.attribute}
        inputs = [values[name] if name else None for name in node.input]
        while inputs and inputs[-1] is None:
            inputs.pop()
        count = max((index + 1 for index, name in enumerate(node.output) if name), default=0)
        call = NodeCall(node.op_type, attributes, inputs, count, self.opset, self.batch)
        try:
            if node.op_type in FLOW:
                return self._flow(call, values)
            return self._computed(call, node)
        except UnusableModel:
            raise
        except CannotTranslate as error:
            problem = f"{error}. Export the network otherwise, such as with constant shapes"
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError, tf.errors.OpError) as error:
            problem = f"does not fit its inputs ({one_line(error)}). Export it again"
        raise UnusableModel(f"the node {_name(node)!r} of {self.where}, of type {node.op_type}, {problem}.") from None

    def _attribute(self, attribute: onnx.AttributeProto) -> Any:
        value = onnx.helper.get_attribute_value(attribute)
        return array_of(value, self.where) if isinstance(value, onnx.TensorProto) else value

    def _computed(self, call: NodeCall, node: onnx.NodeProto) -> list[Value]:
        run = OPERATORS[call.kind]
        known = [value for value in call.inputs if value is not None]
        static = all(value.is_static for value in known)
        if static and self.batch is not None and call.kind in _MAKES:
            small = [value.data for value in known if value.data.dtype.kind == "i" and value.data.size <= 64]
            if any(grows(array) for array in small):
                static = False
            elif _size(run, call) > _MOST_NUMBERS:
                raise CannotTranslate(f"makes an array of more than {_MOST_NUMBERS} numbers")
        if static or self.batch is None:
            with tf.init_scope():
                return [_array(value) for value in _listed(run(_at_once(call)))]
        with tf.name_scope(scope_of(_name(node)) + "/"):
            results = [_kept(value) for value in _listed(run(call if self.fixed is None else fitted(call, self.fixed)))]
        for value, output in zip(results, node.output, strict=False):
            if not value.is_static and output:
                self.layers.append(NodeOutput(value.data, node.name, output, call.kind))
        return results

    def _flow(self, call: NodeCall, values: Mapping[str, Value]) -> list[Value]:
        """The branch that a constant condition chooses, or all turns of a loop of constant length."""
        if call.kind == "If":
            chosen = bool(call.static(0).reshape(-1)[0])
            return self.graph(call.attr("then_branch" if chosen else "else_branch"), values, {})
        body = call.attr("body")
        most = int(call.static(0).reshape(-1)[0]) if call.has(0) else None
        going = bool(call.static(1).reshape(-1)[0]) if call.has(1) else True
        state = [call.need(index) for index in range(2, len(call.inputs))]
        rows: list[list[Value]] = []
        turn = 0
        while going and (most is None or turn < most):
            fed = [Value(np.array(turn, np.int64)), Value(np.array(going)), *state]
            names = [given.name for given in body.input]
            results = self.graph(body, values, dict(zip(names, fed, strict=True)))
            going = bool(NodeCall("Loop", {}, results[:1], 1, self.opset).static(0).reshape(-1)[0])
            rows.append(results[1 + len(state) :])
            state = results[1 : 1 + len(state)]
            turn += 1
        stacked = [_stacked(call, column) for column in zip(*rows, strict=True)]
        return [*state, *stacked]


def _stacked(call: NodeCall, column: Sequence[Value]) -> Value:
    parts = [plain(value) for value in column]
    if all(value.is_static for value in parts):
        return Value(np.stack([value.data for value in parts]))
    return Value(tf.stack([call.tensor_of(value.data) for value in parts]))


def _size(run: Callable[[NodeCall], Any], call: NodeCall) -> int:
    """The number of values that a call would compute."""
    with tf.Graph().as_default():
        results = _listed(run(_at_once(call)))
    return max((prod(value.shape) for value in results), default=0)


def _at_once(call: NodeCall) -> NodeCall:
    return NodeCall(call.kind, call.attributes, call.inputs, call.outputs, call.opset)


def _listed(result: Any) -> list[Value]:
    results = result if isinstance(result, list) else [result]
    return [value if isinstance(value, Value) else Value(np.asarray(value) if np.isscalar(value) else value) for value in results]


def _array(value: Value) -> Value:
    return value if value.is_static else Value(np.asarray(value.data.numpy()), value.last, value.maps)


def _kept(value: Value) -> Value:
    """A tensor of four axes stored with ONNX's channels last, so that it is a map as convscope has them."""
    floats = not value.is_static and value.data.dtype.is_floating
    return stored_last(value) if floats and value.rank == 4 and not value.maps else value


def scope_of(name: str) -> str:
    """A name as TensorFlow accepts it."""
    return re.sub(r"^[^A-Za-z0-9.]+", "", re.sub(r"[^A-Za-z0-9_.\-/]", "_", name)) or "unnamed"


def _name(node: onnx.NodeProto) -> str:
    return (node.name or next(iter(node.output), "") or node.op_type)[:200]


def run(model: onnx.ModelProto, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a model for some inputs, computed as convscope translates it.

    Args:
        inputs: one array for each input of the model that is no initializer, in the model's order.

    Returns: the model's outputs, in its order and of its types.

    Raises: UnusableModel, for what is not covered.
    """
    checked(model, "the model")
    model = inlined(model, "the model")
    known = {tensor.name for tensor in model.graph.initializer}
    names = [given.name for given in model.graph.input if given.name not in known]
    if len(names) < len(inputs):
        raise UnusableModel(f"the model takes {len(names)} inputs, not {len(inputs)}. Give it {', '.join(names)}.")
    values = {}
    for name, array in zip(names, inputs, strict=False):
        value = Value(np.asarray(array))
        # Maps are stored with channels last, as networks have them, so that what is run here is what networks run.
        values[name] = stored_last(value) if value.rank == 4 and value.data.dtype.kind == "f" else value
    outputs = Translation(opset_of(model), "the model").graph(model.graph, {}, values)
    return [
        np.asarray(plain(value).data).astype(_declared(output, value), copy=False)
        for value, output in zip(outputs, model.graph.output, strict=True)
    ]


def _declared(output: onnx.ValueInfoProto, value: Value) -> Any:
    kind = output.type.tensor_type.elem_type
    return onnx.helper.tensor_dtype_to_np_dtype(kind) if kind else value.data.dtype
