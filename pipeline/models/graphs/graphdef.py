"""A GraphDef as a table of operations: read from a file, walked, cut, and made fit for batches of any length."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import function_pb2, graph_pb2, node_def_pb2, versions_pb2
from tensorflow.core.protobuf import saved_model_pb2

from pipeline.errors import MissingInput, UnusableModel

LOOPS = ("NextIteration", "RefNextIteration")

# Attributes that tell of the machine or the process in which a graph was made, or how it is to be run.
_FOREIGN = (
    *("_output_shapes", "_class", "_gradient_op_type", "_XlaMustCompile", "_XlaScope"),
    *("config", "config_proto", "executor_type"),
)


@dataclass(frozen=True)
class Operations:
    """The operations of a graph by name, in forward order. Their inputs are written `op:0`, or `^op` for control.

    The table is never changed in place by those who are given it; what cuts or rewrites it returns another.
    """

    nodes: dict[str, node_def_pb2.NodeDef]
    library: function_pb2.FunctionDefLibrary
    versions: versions_pb2.VersionDef

    @classmethod
    def of(cls, graph: graph_pb2.GraphDef, where: str) -> Operations:
        """The table of a graph. Raises: UnusableModel, where an operation's input is missing."""
        nodes: dict[str, node_def_pb2.NodeDef] = {}
        for node in graph.node:
            copy = _own(node)
            copy.input[:] = [ref if ref.startswith("^") else canonical(ref) for ref in copy.input]
            nodes |= {part.name: part for part in _modern(copy)}
        for node in nodes.values():
            for ref in node.input:
                if owner(ref) not in nodes:
                    raise UnusableModel(
                        f"{where}: the operation {node.name!r} takes {ref!r}, which is not there: "
                        "the file is cut short. Freeze it anew."
                    )
        library = function_pb2.FunctionDefLibrary(function=map(_quiet, graph.library.function))
        return cls(nodes, library, graph.versions).replace(nodes)

    def __getstate__(self) -> list[bytes]:
        """The table as bytes, for another process: of each operation alone, since a graph would be a copy of them all."""
        return [part.SerializeToString() for part in (self.library, self.versions, *self.nodes.values())]

    def __setstate__(self, state: list[bytes]) -> None:
        library, versions, *nodes = state
        read = map(node_def_pb2.NodeDef.FromString, nodes)
        object.__setattr__(self, "nodes", {node.name: node for node in read})
        object.__setattr__(self, "library", function_pb2.FunctionDefLibrary.FromString(library))
        object.__setattr__(self, "versions", versions_pb2.VersionDef.FromString(versions))

    @property
    def node(self) -> Iterable[node_def_pb2.NodeDef]:
        """The operations alone, as a GraphDef has them."""
        return self.nodes.values()

    def replace(self, nodes: dict[str, node_def_pb2.NodeDef]) -> Operations:
        """Other operations, put into forward order, with the same functions."""
        return Operations(_in_order(nodes), self.library, self.versions)

    def part(self, names: Iterable[str]) -> Operations:
        """Some of the operations; control edges to others are left out, other inputs stay to be mapped on import."""
        chosen = set(names)
        nodes = {}
        for name, node in self.nodes.items():
            if name in chosen:
                kept = [ref for ref in node.input if not ref.startswith("^") or ref[1:] in chosen]
                nodes[name] = node if len(kept) == len(node.input) else with_inputs(node, kept)
        return self.replace(nodes)

    def graph(self) -> graph_pb2.GraphDef:
        """The operations as a GraphDef."""
        return graph_pb2.GraphDef(node=self.nodes.values(), library=self.library, versions=self.versions)

    def dependents(self, tensor: str) -> list[str]:
        """The names of the operations that a tensor can change, in forward order."""
        reached: set[str] = set()
        grew = True
        while grew:  # once, but for the backward edges of loops
            before = len(reached)
            for name, node in self.nodes.items():
                if name not in reached and any(ref == tensor or owner(ref) in reached for ref in node.input if ref[0] != "^"):
                    reached.add(name)
            grew = len(reached) > before and any(node.op in LOOPS for node in self.nodes.values())
        return [name for name in self.nodes if name in reached]

    def ancestors(self, tensors: Iterable[str], cut: str | None = None) -> set[str]:
        """The names of the operations that tensors need; what only the tensor `cut` needs is left out."""
        reached: set[str] = set()
        queue = deque(tensors)
        while queue:
            ref = queue.popleft()
            if ref == cut or owner(ref) in reached:
                continue
            reached.add(owner(ref))
            queue.extend(self.nodes[owner(ref)].input)
        return reached

    def consumers(self) -> dict[str, list[str]]:
        """{tensor: the names of the operations that take it}."""
        consumers: dict[str, list[str]] = {}
        for name, node in self.nodes.items():
            for ref in node.input:
                consumers.setdefault(ref, []).append(name)
        return consumers


def read_graph(path: Path) -> graph_pb2.GraphDef:
    """The GraphDef in a file. Raises: MissingInput, UnusableModel."""
    if not path.is_file():
        advice = "For a SavedModel, write savedmodel:DIR." if path.is_dir() else "Name a .pb file in model.source."
        raise MissingInput(f"the graph {str(path)!r} is {'a folder' if path.is_dir() else 'missing'}. {advice}")
    data = path.read_bytes()
    if _is_saved_model(data):
        raise UnusableModel(f"{path} is the graph of a SavedModel, not a frozen one. Write savedmodel:{path.parent}.")
    graph = graph_pb2.GraphDef()
    try:
        graph.ParseFromString(data)
    except DecodeError:
        graph.Clear()
    if not graph.node or any(not node.name or not node.op for node in graph.node):
        raise UnusableModel(
            f"{path} cannot be read as a GraphDef in binary form: the file is cut short or something else. "
            "Name a .pb file that holds a frozen graph."
        )
    return graph


def canonical(ref: str) -> str:
    """A tensor's name with its number: `op` is `op:0`."""
    return ref if ref.rpartition(":")[2].isdigit() and ":" in ref else f"{ref}:0"


def owner(ref: str) -> str:
    """The operation that a tensor, or a control edge, comes from."""
    return ref[1:] if ref.startswith("^") else ref.rpartition(":")[0]


def short(tensor: str) -> str:
    """A tensor's name as layers are called: `op` for the first output, `op:1` for another."""
    return tensor.removesuffix(":0")


def constant(name: str, value: Any) -> node_def_pb2.NodeDef:
    """A Const operation of an array."""
    array = np.asarray(value)
    node = node_def_pb2.NodeDef(name=name, op="Const")
    node.attr["dtype"].type = tf.as_dtype(array.dtype).as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array))
    return node


def one_number(node: node_def_pb2.NodeDef) -> float | None:
    """The number that a Const operation holds, where it is but one; None for any other operation."""
    if node.op != "Const":
        return None
    value = node.attr["value"].tensor
    if any(axis.size != 1 for axis in value.tensor_shape.dim) or not tf.as_dtype(value.dtype).is_numeric:
        return None
    return float(tf.make_ndarray(value).item().real)


def identity(name: str, ref: str, dtype: int) -> node_def_pb2.NodeDef:
    """An Identity operation of a tensor."""
    node = node_def_pb2.NodeDef(name=name, op="Identity", input=[ref])
    node.attr["T"].type = dtype
    return node


def channels_first(node: node_def_pb2.NodeDef) -> bool:
    """Whether an operation is told that channels come before height and width."""
    # Asking a node for an attribute it does not have would give it an empty one.
    return "data_format" in node.attr and node.attr["data_format"].s.startswith(b"NC")


def with_inputs(node: node_def_pb2.NodeDef, inputs: Iterable[str]) -> node_def_pb2.NodeDef:
    """The same operation of other inputs."""
    copy = node_def_pb2.NodeDef()
    copy.CopyFrom(node)
    copy.input[:] = inputs
    return copy


def unbatched(operations: Operations, image: str, batch: int, static: dict[str, tuple[int | None, ...]]) -> Operations:
    """The graph with reshapes to its own fixed batch made reshapes to any.

    Args:
        batch: the batch the graph was frozen for.
        static: the shapes of its tensors at that batch.
    """
    nodes = dict(operations.nodes)
    for name in operations.dependents(image):
        node = nodes[name]
        shape = static.get(f"{name}:0", ())
        fixed = node.op == "Reshape" and nodes[owner(node.input[1])].op == "Const"
        if fixed and len(shape) > 1 and shape[0] == batch and None not in shape:
            nodes[f"{name}/any_batch"] = constant(f"{name}/any_batch", np.array([-1, *shape[1:]], np.int32))
            nodes[name] = with_inputs(node, [node.input[0], f"{name}/any_batch:0"])
            nodes[name].attr["Tshape"].type = tf.int32.as_datatype_enum
    return operations.replace(nodes)


def _own(node: node_def_pb2.NodeDef) -> node_def_pb2.NodeDef:
    """An operation without what tells of another machine, and of what prints only what it passes on."""
    copy = node_def_pb2.NodeDef()
    copy.CopyFrom(node)
    copy.device = ""
    for name in _FOREIGN:
        copy.attr.pop(name, None)
    if node.op == "PrintV2":
        copy = node_def_pb2.NodeDef(name=node.name, op="NoOp", input=[ref for ref in node.input if ref.startswith("^")])
    elif node.op == "Print":  # of TF1: an identity that prints
        copy = identity(node.name, node.input[0], node.attr["T"].type)
    return copy


def _quiet(function: function_pb2.FunctionDef) -> function_pb2.FunctionDef:
    """A function of a library whose operations are as `_own` makes them."""
    copy = function_pb2.FunctionDef()
    copy.CopyFrom(function)
    copy.attr.clear()
    del copy.node_def[:]
    copy.node_def.extend(map(_own, function.node_def))
    return copy


def _modern(node: node_def_pb2.NodeDef) -> list[node_def_pb2.NodeDef]:
    """An operation as it is, or what does the same as one that TensorFlow no longer runs."""
    if node.op != "BatchNormWithGlobalNormalization":  # of 2015: Inception's first graphs have it
        return [node]
    name, dtype = node.name, node.attr["T"].type
    images, mean, variance, offset, scale = node.input[:5]

    def step(part: str, kind: str, *inputs: str) -> node_def_pb2.NodeDef:
        added = node_def_pb2.NodeDef(name=f"{name}/{part}" if part else name, op=kind, input=inputs)
        added.attr["T"].type = dtype
        return added

    epsilon = np.array(node.attr["variance_epsilon"].f, tf.as_dtype(dtype).as_numpy_dtype)
    steps = [
        constant(f"{name}/epsilon", epsilon),
        step("variance", "AddV2", variance, f"{name}/epsilon:0"),
        step("rsqrt", "Rsqrt", f"{name}/variance:0"),
        step("scale", "Mul", f"{name}/rsqrt:0", scale),
        step("centred", "Sub", images, mean),
    ]
    scaled = "scale" if node.attr["scale_after_normalization"].b else "rsqrt"
    return [
        *steps,
        step("scaled", "Mul", f"{name}/centred:0", f"{name}/{scaled}:0"),
        step("", "AddV2", f"{name}/scaled:0", offset),
    ]


def _is_saved_model(data: bytes) -> bool:
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(data)
    except DecodeError:
        return False
    return model.saved_model_schema_version > 0 and any(graph.graph_def.node for graph in model.meta_graphs)


def _in_order(nodes: dict[str, node_def_pb2.NodeDef]) -> dict[str, node_def_pb2.NodeDef]:
    """The same operations, each after those it takes from, but for the backward edges of loops."""
    ordered: dict[str, node_def_pb2.NodeDef] = {}
    begun: set[str] = set()
    for root in nodes:
        stack: list[tuple[str, Iterator[str]]] = []
        if root not in begun:
            begun.add(root)
            stack.append((root, iter(nodes[root].input)))
        while stack:
            name, inputs = stack[-1]
            for ref in inputs:
                source = owner(ref)
                if source in begun or source not in nodes or nodes[source].op in LOOPS:
                    continue
                begun.add(source)
                stack.append((source, iter(nodes[source].input)))
                break
            else:
                ordered[name] = nodes[name]
                stack.pop()
    return ordered
