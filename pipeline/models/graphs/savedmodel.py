"""`savedmodel:DIR`: a serving signature, frozen, after which it is a frozen graph like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import graph_pb2, node_def_pb2
from tensorflow.core.protobuf import saved_model_pb2

from pipeline.compiled.tf_private import constants_for_variables
from pipeline.errors import MissingInput, UnusableModel, one_line
from pipeline.models.graphs.frozen import graph_network
from pipeline.models.graphs.graphdef import canonical, owner
from pipeline.models.graphs.op_safety import SAVING, check_operations
from pipeline.models.image_network import ImageNetwork
from pipeline.spec.model import ModelSpec

_SIGNATURE = "serving_default"


def open_savedmodel(path: str, spec: ModelSpec) -> ImageNetwork:
    """Freeze the serving signature of a SavedModel, of TF1 or TF2; its operations are looked at before it is loaded.

    Raises: MissingInput, UnusableModel, WrongSpec, UnknownName.
    """
    where = Path(path)
    _check_file(where)
    return graph_network(_freeze(where), where.name, str(where), spec)


def _check_file(folder: Path) -> None:
    file = folder / "saved_model.pb"
    if not file.is_file():
        if folder.is_file():
            raise MissingInput(f"{folder} is a file, not the folder of a SavedModel. For a graph, write frozen:{folder}.")
        reason = "holds no saved_model.pb" if folder.is_dir() else "is missing"
        raise MissingInput(f"the SavedModel {str(folder)!r} {reason}. Name the folder that holds saved_model.pb in model.source.")
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(file.read_bytes())
    except DecodeError:
        model.Clear()
    if not model.meta_graphs:
        raise UnusableModel(f"{file} cannot be read as a SavedModel: the file is cut short or something else. Save it again.")
    for graph in model.meta_graphs:
        # What saves and restores the variables stands beside the signatures; in them, the frozen graph would show it.
        check_operations(graph.graph_def, str(folder), allowed=SAVING)


def _freeze(folder: Path) -> graph_pb2.GraphDef:
    """The signature's graph, functions written out, variables as constants, ending in operations called as its outputs."""
    try:
        loaded = tf.saved_model.load(str(folder))
        signatures = dict(loaded.signatures)
    except Exception as error:
        # The loader fails in many ways and types; each means that this folder gives no network here.
        raise UnusableModel(
            f"the SavedModel {folder} cannot be loaded ({one_line(error)}). Save it again, or name another folder."
        ) from None
    signature = signatures.get(_SIGNATURE) or (next(iter(signatures.values())) if len(signatures) == 1 else None)
    if signature is None:
        known = f"only {', '.join(sorted(signatures))}" if signatures else "no signature at all"
        raise UnusableModel(
            f"the SavedModel {folder} has {known}, but none called {_SIGNATURE!r}. "
            f"Save it with model.export, or with signatures={{'{_SIGNATURE}': function}}."
        )
    try:
        frozen, _ = constants_for_variables(signature, lower_control_flow=False)
    except Exception as error:
        raise UnusableModel(
            f"the SavedModel {folder} cannot be frozen ({one_line(error)}). Freeze it yourself: frozen:X.pb."
        ) from None
    names = [name for name, _ in sorted(signature.structured_outputs.items())]
    return _without_seams(frozen.graph.as_graph_def(), dict(zip(names, [output.name for output in frozen.outputs], strict=True)))


def _without_seams(graph: graph_pb2.GraphDef, outputs: dict[str, str]) -> graph_pb2.GraphDef:
    """The graph without the identities that inlining leaves at the borders of functions, its outputs called by name."""
    seams = {f"{node.name}:0": canonical(node.input[0]) for node in graph.node if _is_seam(node) and node.op == "Identity"}
    # The outputs' own identities have names that only TensorFlow's order gives; the signature's are known to people.
    ends = {tensor: _input_of(graph, tensor) for tensor in outputs.values()}
    seams |= {tensor: behind for tensor, behind in ends.items() if tensor != behind}

    def inside(ref: str) -> str:
        ref = canonical(ref)
        while ref in seams:
            ref = seams[ref]
        return ref

    nodes: list[Any] = []
    for node in graph.node:
        if _is_seam(node) or f"{node.name}:0" in seams:
            continue
        own = node_def_pb2.NodeDef()
        own.CopyFrom(node)
        own.input[:] = [inside(ref) for ref in node.input if not ref.startswith("^")]
        nodes.append(own)
    taken = {node.name for node in nodes}
    for name, tensor in outputs.items():
        if name not in taken:
            end = node_def_pb2.NodeDef(name=name, op="Identity", input=[inside(tensor)])
            end.attr["T"].type = _dtype(graph, tensor)
            nodes.append(end)
    return graph_pb2.GraphDef(node=nodes, library=graph.library, versions=graph.versions)


def _is_seam(node: node_def_pb2.NodeDef) -> bool:
    return node.name.startswith("Func/") and node.op in ("Identity", "NoOp")


def _input_of(graph: graph_pb2.GraphDef, tensor: str) -> str:
    node = next(node for node in graph.node if node.name == owner(tensor))
    return canonical(node.input[0]) if node.op == "Identity" else tensor


def _dtype(graph: graph_pb2.GraphDef, tensor: str) -> int:
    with tf.Graph().as_default():
        (found,) = tf.graph_util.import_graph_def(graph, return_elements=[tensor], name="")
    return found.dtype.as_datatype_enum
