"""What constants alone compute in a graph, measured first: to infer shapes, TensorFlow would compute it at any cost."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2

from pipeline.compiled.tf_private import is_stateful
from pipeline.errors import UnusableModel
from pipeline.models.graphs.graphdef import Operations, owner
from pipeline.models.graphs.op_safety import ALLOWED, judge

_FREE = 2**28  # bytes that any graph may compute from its constants
_GROWTH = 16  # times what the constants hold, which large graphs may: weights that are scaled, transposed, made floats
_VALUES = 2**16  # bytes of a constant, above which its shape stands for it: it is no shape itself
_PASSING = ("Identity", "Snapshot", "StopGradient", "PreventGradient")
_NEVER = (
    frozenset({"Placeholder", "PlaceholderV2", "PlaceholderWithDefault", "FakeParam"}) | ALLOWED["control flow and functions"]
)


def check_constants(operations: Operations, where: str, unlisted: bool = False) -> None:
    """Refuse a graph in which constants alone compute far more bytes than the file has, or are more themselves.

    Shapes are inferred of what depends on constants alone, a level of operations at a time, so that nothing is computed but
    what the levels before give, which are small by then. Sizes that only values decide stay unknown, and are not counted.

    Args:
        unlisted: whether to refuse operations too that are not on the list and would be computed like that.

    Raises: UnusableModel.
    """
    levels: dict[str, int] = {}
    for name, node in operations.nodes.items():
        inputs = [owner(ref) for ref in node.input if not ref.startswith("^")]
        if node.op in _NEVER or is_stateful(node.op) or not all(source in levels for source in inputs):
            continue
        problem = judge(node)
        if problem and unlisted:
            raise UnusableModel(f"{where} computes the operation {name[:200]!r} of type {node.op[:100]}, {problem}")
        if not problem:
            levels[name] = 1 + max((levels[source] for source in inputs), default=-1)
    stored = sum(operations.nodes[name].ByteSize() for name in levels if operations.nodes[name].op == "Const")
    taken = 0
    for name, size in _sizes(operations, levels):
        taken += size
        if taken > _GROWTH * stored + _FREE:
            raise UnusableModel(
                f"{where} makes {taken:,} bytes out of constants of {stored:,} at {name[:200]!r}. "
                "The file is made to fill the memory: freeze the network again."
            )


def _sizes(operations: Operations, levels: dict[str, int]) -> Iterator[tuple[str, int]]:
    """The operations that are computed from constants alone, and the bytes that they give, as far as these are known."""
    behind: dict[str, str] = {}  # what an identity passes on
    needed: set[str] = set()
    computed: list[list[node_def_pb2.NodeDef]] = [[] for _ in range(max(levels.values(), default=0) + 1)]
    for name, level in levels.items():  # in forward order
        node = operations.nodes[name]
        if node.op in _PASSING and len(node.input) > 0:
            behind[f"{name}:0"] = behind.get(node.input[0], node.input[0])
        elif node.op != "Const":
            computed[level].append(node)
            needed |= {behind.get(ref, ref) for ref in node.input}
    tensors: dict[str, tf.Tensor] = {}
    with tf.Graph().as_default():
        for node in (operations.nodes[name] for name, level in levels.items() if level == 0):
            if node.op == "Const":
                shape = [axis.size for axis in node.attr["value"].tensor.tensor_shape.dim]
                size = int(np.prod(shape, dtype=object)) * tf.as_dtype(node.attr["dtype"].type).size
                yield node.name, max(0, size - node.ByteSize())
                if f"{node.name}:0" in needed and size > _VALUES:
                    tensors[f"{node.name}:0"] = tf.compat.v1.placeholder(node.attr["dtype"].type, shape)
                elif f"{node.name}:0" in needed:
                    computed[0].append(node)
        for nodes in filter(None, computed):
            yield from _imported(nodes, behind, tensors, operations)


def _imported(
    nodes: list[node_def_pb2.NodeDef], behind: dict[str, str], tensors: dict[str, tf.Tensor], operations: Operations
) -> Iterator[tuple[str, int]]:
    part = graph_pb2.GraphDef(versions=operations.versions)
    sources: dict[str, tf.Tensor] = {}
    for node in nodes:
        refs = [behind.get(ref, ref) for ref in node.input if not ref.startswith("^")]
        if all(ref in tensors for ref in refs):  # else what it takes could not be made either
            copy = part.node.add()
            copy.CopyFrom(node)
            copy.input[:] = refs
            sources |= {ref: tensors[ref] for ref in refs}
    names = [node.name for node in part.node]
    try:
        imported = tf.graph_util.import_graph_def(part, sources, names, name="")
    except ValueError:  # shapes that contradict each other: what runs the network says so
        return
    for name, operation in zip(names, imported, strict=True):
        tensors |= {f"{name}:{index}": output for index, output in enumerate(operation.outputs)}
        if operation.type != "Const":
            yield name, sum(bytes_of(output) or 0 for output in operation.outputs)


def bytes_of(tensor: tf.Tensor) -> int | None:
    """How many bytes a tensor takes; None where its shape is open."""
    size = tensor.shape.num_elements() if tensor.shape.rank is not None else None
    return None if size is None else size * max(tensor.dtype.size, 1)
