"""Parts of frozen graphs: what some tensors are computed by, and the tensors behind the names by which functions return them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef


def operation_of(name: str) -> str:
    """The name of the operation that a tensor, or an input of another operation, is named after."""
    return name.removeprefix("^").partition(":")[0]


def source_behind(graph: GraphDef, name: str) -> str:
    """The tensor that others in a graph use, behind the identities by which a function returns it."""
    nodes = {node.name: node for node in graph.node}
    while (node := nodes[operation_of(name)]).op == "Identity":
        name = node.input[0]
    return name if ":" in name else f"{name}:0"


def part_of(graph: GraphDef, ends: Sequence[str], given: Collection[str] = ()) -> GraphDef:
    """The part of a graph that some of its tensors are computed by, on no device because of what it leaves out.

    given: the names of tensors behind which the part ends, as of an operation and its output; see `tensors_read`.
    """
    nodes = {node.name: node for node in graph.node}
    waiting = [operation_of(end) for end in ends]
    kept = set(waiting)
    for name in waiting:
        before = {operation_of(source) for source in nodes[name].input if _tensor(source) not in given} - kept
        kept |= before
        waiting += sorted(before)
    part = GraphDef(node=[node for node in graph.node if node.name in kept], library=graph.library, versions=graph.versions)
    for node in part.node:
        if "_class" in node.attr:  # an operation of a gradient shares the device of one that may be left out
            beside = [name for name in node.attr["_class"].list.s if name.decode().removeprefix("loc:@") in kept]
            node.attr["_class"].list.s[:] = beside
    return part


def readers_in(graph: GraphDef) -> dict[str, list[NodeDef]]:
    """The operations that read an output of another, or wait for it, by the other's name; once for each of their inputs."""
    readers: dict[str, list[NodeDef]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(operation_of(name), []).append(node)
    return readers


def tensors_read(graph: GraphDef) -> set[str]:
    """The names of all tensors that operations of a graph read: `operation:output`."""
    return {_tensor(source) for node in graph.node for source in node.input}


def _tensor(source: str) -> str:
    """The name of a tensor as of an operation and its output, where inputs leave out the output 0."""
    return source if ":" in source or source.startswith("^") else f"{source}:0"


def those_in(graph: GraphDef, tensors: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The tensors whose operations are in a part of a graph."""
    names = {node.name for node in graph.node}
    return {name: tensor for name, tensor in tensors.items() if operation_of(name) in names}
