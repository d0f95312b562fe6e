"""What a SavedModel restores its variables with, read as data and never run, and the values in its checkpoint."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import function_pb2, node_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from pipeline.compiled.tf_private import function_body
from pipeline.errors import UnusableModel, one_line
from pipeline.models.graphs.graphdef import canonical, owner
from pipeline.models.graphs.inlining import known_functions

HANDLES = ("VarHandleOp", "VariableV2", "Variable")  # operations that stand for a variable
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_ASSIGNMENTS = ("AssignVariableOp", "Assign")


@dataclass(frozen=True)
class Saver:
    """The operations that a SavedModel saves and restores its variables with: outside of its signatures, and never run."""

    nodes: frozenset[str]
    functions: frozenset[str]


def saver_part(meta: meta_graph_pb2.MetaGraphDef) -> Saver:
    """What `saver_def` names, what that needs, and the functions that nothing else calls."""
    nodes = {node.name: node for node in meta.graph_def.node}
    library = {function.signature.name: function for function in meta.graph_def.library.function}
    saver = meta.saver_def
    names = needed_operations(
        nodes, [ref for ref in (saver.save_tensor_name, saver.restore_op_name, saver.filename_tensor_name) if ref]
    )
    others = called_functions(library, [node for name, node in nodes.items() if name not in names])
    return Saver(frozenset(names), frozenset(called_functions(library, [nodes[name] for name in names]) - others))


def needed_operations(nodes: Mapping[str, node_def_pb2.NodeDef], refs: Iterable[str]) -> set[str]:
    """The operations that some tensors or operations need, control edges included."""
    needed: set[str] = set()
    queue = deque(owner(canonical(ref)) if not ref.startswith("^") else ref[1:] for ref in refs)
    while queue:
        name = queue.popleft()
        if name not in needed and name in nodes:
            needed.add(name)
            queue.extend(owner(ref if ref.startswith("^") else canonical(ref)) for ref in nodes[name].input)
    return needed


def called_functions(library: Mapping[str, function_pb2.FunctionDef], nodes: Iterable[node_def_pb2.NodeDef]) -> set[str]:
    """The functions that some operations call, and those that these call."""
    called: set[str] = set()
    queue = deque(nodes)
    while queue:
        node = queue.popleft()
        named = [node.op, *(f.name for value in node.attr.values() for f in (value.func, *value.list.func))]
        for name in named:
            if name in library and name not in called:
                called.add(name)
                queue.extend(library[name].node_def)
    return called


def _checkpoint_keys(meta: meta_graph_pb2.MetaGraphDef) -> dict[str, str]:
    """{variable's operation: its key in the checkpoint}, as the operations that would restore it say; none of them is run."""
    library = {function.signature.name: function for function in meta.graph_def.library.function}
    nodes = {node.name: node for node in meta.graph_def.node}
    restore = meta.saver_def.restore_op_name
    keys: dict[str, str] = {}

    def collect(table: Mapping[str, node_def_pb2.NodeDef], given: Mapping[str, str], depth: int) -> None:
        def variable(ref: str) -> str:
            ref = canonical(ref)
            node = table.get(owner(ref))
            if ref in given or node is None or node.op != "Identity" or not node.input:
                return given.get(ref, owner(ref))
            return variable(node.input[0])

        for node in table.values():
            if node.op in _ASSIGNMENTS and len(node.input) > 1:
                key = _restored_key(table, node.input[1])
                if key is not None:
                    keys[variable(node.input[0])] = key
            elif node.op in _CALLS and node.attr["f"].func.name in library and depth < 4:
                function = library[node.attr["f"].func.name]
                body, _ = function_body(function)
                refs = [ref for ref in node.input if not ref.startswith("^")]
                inner = {
                    f"{argument.name}:0": variable(ref) for argument, ref in zip(function.signature.input_arg, refs, strict=False)
                }
                collect({node.name: node for node in body.node}, inner, depth + 1)

    with known_functions(meta.graph_def.library):
        collect({name: nodes[name] for name in needed_operations(nodes, [restore] if restore else [])}, {}, 0)
    return keys


def _restored_key(table: Mapping[str, node_def_pb2.NodeDef], ref: str) -> str | None:
    """The checkpoint's key of what a RestoreV2 gives as a tensor; None where the tensor comes from elsewhere, or is a slice."""
    for _ in range(len(table)):
        node = table.get(owner(canonical(ref)))
        if node is None or not node.input:
            return None
        if node.op == "RestoreV2":
            lists = [table.get(owner(canonical(name))) for name in node.input[1:3]]
            if any(constant is None or constant.op != "Const" for constant in lists):
                return None
            names, slices = (tf.make_ndarray(constant.attr["value"].tensor).ravel() for constant in lists if constant)
            index = int(canonical(ref).rpartition(":")[2])
            return names[index].decode() if index < len(names) and not slices[index] else None
        if node.op not in ("Identity", "Reshape"):
            return None
        ref = node.input[0]
    return None


def variable_values(
    meta: meta_graph_pb2.MetaGraphDef, handles: Mapping[str, node_def_pb2.NodeDef], folder: Path
) -> dict[str, np.ndarray]:
    """The values of variables, read from the checkpoint.

    Args:
        handles: {tensor of a variable: its operation in the SavedModel's graph}.

    Returns: {tensor of a variable: its value}.
    Raises: UnusableModel.
    """
    if not handles:
        return {}
    prefix = folder / "variables" / "variables"
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = reader.get_variable_to_shape_map()
        dtypes = reader.get_variable_to_dtype_map()
    except Exception as error:  # the reader raises errors of several families
        raise UnusableModel(
            f"the variables of the SavedModel {folder} cannot be loaded ({one_line(error)}). Save it again, or copy all of it."
        ) from None
    known = _checkpoint_keys(meta)
    keys = {tensor: _key_of(node, known, shapes) for tensor, node in handles.items()}
    lost = [handles[tensor].name for tensor, key in keys.items() if key not in shapes]
    if lost:
        raise UnusableModel(
            f"the SavedModel {folder} has no value for its variable {lost[0]!r} in variables/: a part is missing. Save it again."
        )
    stored = sum(path.stat().st_size for path in prefix.parent.glob("variables.data-*"))
    claimed = sum(prod(shapes[key]) * dtypes[key].size for key in set(keys.values()) if key)
    if claimed > stored:
        raise UnusableModel(
            f"the SavedModel {folder} claims {claimed:,} bytes of variables, but holds {stored:,}. Save it again."
        )
    values = {}
    for tensor, key in keys.items():
        try:
            values[tensor] = np.asarray(reader.get_tensor(key))
        except Exception as error:
            raise UnusableModel(
                f"the variable {key!r} of the SavedModel {folder} cannot be loaded ({one_line(error)}). Save it again."
            ) from None
    return values


def _key_of(node: node_def_pb2.NodeDef, known: Mapping[str, str], stored: Mapping[str, Any]) -> str:
    """A variable's key: as its restoring says, else the name it shares with it, as savers of TF1 have it."""
    shared = node.attr["shared_name"].s.decode(errors="replace") if "shared_name" in node.attr else ""
    return next((key for key in (known.get(node.name), shared, node.name) if key and key in stored), "")
