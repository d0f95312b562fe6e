"""Functions and branches of a graph written out: calls become their bodies, settled conditions the branch that is taken."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import function_pb2, graph_pb2, node_def_pb2

from pipeline.compiled.tf_private import function_body, register_function
from pipeline.errors import UnusableModel
from pipeline.models.graphs.constants import bytes_of, check_constants
from pipeline.models.graphs.graphdef import Operations, canonical, constant, identity, owner, with_inputs
from pipeline.models.graphs.op_safety import COMPUTABLE

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_BRANCHES = ("If", "StatelessIf")
_SWITCHES, _MERGES = ("Switch", "RefSwitch"), ("Merge", "RefMerge")
FLOW = (*_SWITCHES, *_MERGES, "Enter", "RefEnter", "Exit", "RefExit", "NextIteration", "RefNextIteration", "LoopCond")
_MOST_BYTES = 2**26  # of what is computed from constants while a graph is read, beyond the constants themselves
_MOST_MILLISECONDS = 10_000
_DEEPEST = 64  # calls within calls
_MOST_OPERATIONS = 200_000  # of a graph whose calls are written out


def inlined(operations: Operations, where: str) -> Operations:
    """The graph with every call, and every branch whose condition is constant, replaced by what it does.

    The operations of a function get the names `call/op`. Loops, and branches that images decide, stay as they are.

    Raises: UnusableModel.
    """
    library = {function.signature.name: function for function in operations.library.function}
    nodes = dict(operations.nodes)
    with known_functions(operations.library):
        for _ in range(_DEEPEST):
            table = operations.replace(nodes)
            bodies = {name: _body(table, node, library) for name, node in nodes.items()}
            calls = {name: body for name, body in bodies.items() if body}
            if not calls:
                return with_steady_names(table)
            # Functions that call others twice, and so on, would double with every round.
            if len(nodes) + sum(_grown(library, function, where) for function, _ in calls.values()) > _MOST_OPERATIONS:
                raise UnusableModel(
                    f"{where} holds calls that grow to more than {_MOST_OPERATIONS:,} operations. Freeze a smaller network."
                )
            aliases: dict[str, str] = {}
            for name, (function, arguments) in calls.items():
                del nodes[name]
                aliases |= _expand(name, library[function], arguments, nodes)
            if any(_behind(aliases, ref) in aliases for ref in aliases):
                raise UnusableModel(f"{where} holds a call that takes what it gives. Freeze the network again.")
            nodes = {name: _redirected(node, aliases, calls.keys()) for name, node in nodes.items()}
    raise UnusableModel(f"{where} holds calls more than {_DEEPEST} deep. Freeze the network without them.")


def folded(operations: Operations) -> Operations:
    """The graph with TF1's settled conditions folded away: a Switch or a Merge that is left is an Identity.

    Where no control flow of TF1 is left, control edges are dropped: they order side effects, of which none is allowed.
    """
    switches = [node for node in operations.nodes.values() if node.op in _SWITCHES]
    settled = evaluate(operations, {node.input[1] for node in switches})
    nodes: dict[str, node_def_pb2.NodeDef] = {}
    dead: set[str] = set()  # operations, and single outputs of a Switch
    aliases: dict[str, str] = {}

    def is_dead(ref: str) -> bool:
        return ref in dead or owner(ref) in dead

    for name, node in operations.nodes.items():
        live = [ref for ref in node.input if not ref.startswith("^") and not is_dead(ref)]
        if node.op in _MERGES:
            if not live:
                dead.add(name)
            elif len(live) == 1:
                index = f"{name}/value_index"
                nodes[name] = identity(name, live[0], node.attr["T"].type)
                nodes[index] = constant(index, np.int32(list(node.input).index(live[0])))
                aliases[f"{name}:1"] = f"{index}:0"
            else:
                nodes[name] = node
        elif any(map(is_dead, node.input)):
            dead.add(name)
        elif node.op in _SWITCHES and node.input[1] in settled:
            taken = int(settled[node.input[1]])
            dead.add(f"{name}:{1 - taken}")
            aliases[f"{name}:1"] = f"{name}:0"
            nodes[name] = identity(name, node.input[0], node.attr["T"].type)
        else:
            nodes[name] = node
    nodes = {name: _redirected(node, aliases, ()) for name, node in nodes.items()}
    # In a TF1 loop control edges say to which turn a constant belongs.
    if not any(node.op in FLOW for node in nodes.values()):
        nodes = {name: _without_control(node) for name, node in nodes.items()}
    return operations.replace(nodes)


@contextmanager
def known_functions(library: function_pb2.FunctionDefLibrary) -> Iterator[None]:
    """Within the block TensorFlow knows some functions, so that their bodies can be written out; none of them is run."""
    with tf.Graph().as_default():
        tf.graph_util.import_graph_def(graph_pb2.GraphDef(library=library), name="")
        yield


def evaluate(operations: Operations, tensors: Iterable[str]) -> dict[str, np.ndarray]:
    """The values of those of some tensors that can be computed from constants alone, within bounds.

    Only operations in COMPUTABLE are run, without control edges; none may give more than 64 MiB beyond what the constants
    hold, by the shapes that TensorFlow infers, and all together may take ten seconds. Where one would, or where a
    shape is open, the tensor is left out, as if it depended on the images.
    """
    needed = {tensor: _ancestors_by_data(operations, tensor) for tensor in tensors}
    fixed = [tensor for tensor, names in needed.items() if all(operations.nodes[name].op in COMPUTABLE for name in names)]
    values: dict[str, np.ndarray] = {}
    for tensor in fixed:
        nodes = {name: _without_control(operations.nodes[name]) for name in operations.nodes if name in needed[tensor]}
        part = operations.replace(nodes)
        try:
            check_constants(part, tensor)
        except UnusableModel:
            continue
        value = _computed(part.graph(), tensor)
        if value is not None:
            values[tensor] = value
    return values


def _ancestors_by_data(operations: Operations, tensor: str) -> set[str]:
    """The operations that a tensor is computed from, control edges left out."""
    names: set[str] = set()
    queue = [owner(tensor)]
    while queue:
        name = queue.pop()
        if name not in names:
            names.add(name)
            queue += [owner(ref) for ref in operations.nodes[name].input if not ref.startswith("^")]
    return names


def _computed(part: graph_pb2.GraphDef, tensor: str) -> np.ndarray | None:
    with tf.Graph().as_default() as graph:
        try:
            (computed,) = tf.graph_util.import_graph_def(part, return_elements=[tensor], name="")
        except ValueError:  # shapes that contradict each other: what runs the network says so
            return None
        sizes = [bytes_of(output) for operation in graph.get_operations() for output in operation.outputs]
        stored = sum(len(node.attr["value"].tensor.tensor_content) for node in part.node if node.op == "Const")
        if None in sizes or sum(size or 0 for size in sizes) > len(sizes) * stored + _MOST_BYTES:
            return None
        with tf.compat.v1.Session(graph=graph) as session:
            try:
                return np.asarray(session.run(computed, options=tf.compat.v1.RunOptions(timeout_in_ms=_MOST_MILLISECONDS)))
            except tf.errors.OpError:
                return None


def register_functions(operations: Operations) -> None:
    """Make the functions of a graph known to this process, so that what imports the graph can run."""
    for function in operations.library.function:
        register_function(function)


def _body(operations: Operations, node: node_def_pb2.NodeDef, library: dict[str, Any]) -> tuple[str, list[str]] | None:
    """The function that a call stands for and what it is given; None for an operation that is no settled call."""
    arguments = [ref for ref in node.input if not ref.startswith("^")]
    if node.op in library:
        return node.op, arguments
    if node.op in _CALLS:
        return node.attr["f"].func.name, arguments
    if node.op in _BRANCHES:
        settled = evaluate(operations, arguments[:1])
        if settled:
            branch = "then_branch" if settled[arguments[0]] else "else_branch"
            return node.attr[branch].func.name, arguments[1:]
    return None


def _expand(
    call: str, function: function_pb2.FunctionDef, arguments: list[str], nodes: dict[str, node_def_pb2.NodeDef]
) -> dict[str, str]:
    """Add a function's operations under the name of its call. Returns: what stands for each output of the call."""
    body, flat = function_body(function)
    by_argument = {f"{argument.name}:0": ref for argument, ref in zip(function.signature.input_arg, arguments, strict=True)}

    def outside(ref: str) -> str:
        if ref.startswith("^"):
            return f"^{call}/{ref[1:]}"
        ref = canonical(ref)
        return by_argument.get(ref) or f"{call}/{ref}"

    inputs = {argument.name for argument in function.signature.input_arg}
    for node in body.node:
        if node.name not in inputs:
            copy = node_def_pb2.NodeDef()
            copy.CopyFrom(node)
            copy.name, copy.device = f"{call}/{node.name}", ""
            copy.attr.pop("_gradient_op_type", None)
            copy.input[:] = [outside(ref) for ref in node.input if ref.removeprefix("^") not in inputs or ref[0] != "^"]
            nodes[copy.name] = copy
    returned = [function.ret[argument.name] for argument in function.signature.output_arg]
    return {f"{call}:{index}": outside(flat.get(ref, ref)) for index, ref in enumerate(returned)}


def _grown(library: Mapping[str, function_pb2.FunctionDef], name: str, where: str) -> int:
    """How many operations a function becomes, with the calls in it written out. Raises: UnusableModel, if it calls itself."""
    sizes: dict[str, int] = {}
    stack = [name]
    while stack:
        calls = [
            called
            for node in library[stack[-1]].node_def
            for called in (node.op, node.attr["f"].func.name if node.op in _CALLS else "")
            if called in library
        ]
        waiting = next((called for called in calls if called not in sizes), None)
        if waiting is None:
            done = stack.pop()
            sizes[done] = len(library[done].node_def) + sum(sizes[called] for called in calls)
        elif waiting in stack or len(stack) > _DEEPEST:
            raise UnusableModel(f"{where} holds a function that calls itself. Freeze the network without recursion.")
        else:
            stack.append(waiting)
    return sizes[name]


def _behind(aliases: dict[str, str], ref: str) -> str:
    """What stands for a tensor in the end; an alias still, where they stand for each other."""
    for _ in range(len(aliases) + 1):
        if ref not in aliases:
            break
        ref = aliases[ref]
    return ref


def _redirected(node: node_def_pb2.NodeDef, aliases: dict[str, str], gone: Iterable[str]) -> node_def_pb2.NodeDef:
    """A node that takes what stands for its inputs now."""
    inputs = []
    for ref in node.input:
        ref = _behind(aliases, ref)
        if not (ref.startswith("^") and ref[1:] in gone):
            inputs.append(ref)
    if inputs == list(node.input):
        return node
    return with_inputs(node, inputs)


def _without_control(node: node_def_pb2.NodeDef) -> node_def_pb2.NodeDef:
    if not any(ref.startswith("^") for ref in node.input):
        return node
    return with_inputs(node, [ref for ref in node.input if not ref.startswith("^")])


def with_steady_names(operations: Operations) -> Operations:
    """Only the functions that are still called, named for what the graph holds.

    TensorFlow counts function names on at every load, and knows one function of a name in a process.
    """
    first = _renamed(operations, "function") if operations.library.function else operations
    if not first.library.function:
        return first
    nodes = hashlib.sha256(b"".join(node.SerializeToString(deterministic=True) for node in first.nodes.values()))
    nodes.update(first.library.SerializeToString(deterministic=True))
    return _renamed(first, f"function_{nodes.hexdigest()[:12]}")


def _renamed(operations: Operations, prefix: str) -> Operations:
    """The functions that are called, by their order: prefix_0, prefix_1, and so on."""
    library = {function.signature.name: function for function in operations.library.function}
    names: dict[str, str] = {}

    def rename(node: Any) -> node_def_pb2.NodeDef:
        copy = node_def_pb2.NodeDef()
        copy.CopyFrom(node)
        copy.attr.pop("_gradient_op_type", None)
        copy.attr.pop("_output_shapes", None)
        for key in sorted(copy.attr):
            value = copy.attr[key]
            for function in [*([value.func] if value.HasField("func") else []), *value.list.func]:
                if function.name in library:
                    function.name = names.setdefault(function.name, f"{prefix}_{len(names)}")
        if copy.op in library:
            copy.op = names.setdefault(copy.op, f"{prefix}_{len(names)}")
        return copy

    nodes = {name: rename(node) for name, node in operations.nodes.items()}
    kept = function_pb2.FunctionDefLibrary()
    while len(kept.function) < len(names):  # a function's own calls add further names
        old = list(names)[len(kept.function)]
        clone = kept.function.add()
        clone.CopyFrom(library[old])
        clone.signature.name = names[old]
        del clone.node_def[:]
        clone.node_def.extend(rename(node) for node in library[old].node_def)
    return Operations(nodes, kept, operations.versions)
