"""`savedmodel:DIR`: the graph of a serving signature, judged, cut out and frozen here; nothing else in the folder ever runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import function_pb2, graph_pb2, node_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from pipeline.compiled.tf_private import function_body, graph_with_constants
from pipeline.errors import MissingInput, UnusableModel, one_line
from pipeline.models.graphs.constants import check_constants
from pipeline.models.graphs.frozen import graph_network
from pipeline.models.graphs.graphdef import Operations, canonical, owner
from pipeline.models.graphs.inlining import known_functions, with_steady_names
from pipeline.models.graphs.op_safety import check_operations, check_unused
from pipeline.models.graphs.saver import HANDLES, called_functions, needed_operations, saver_part, variable_values
from pipeline.models.image_network import ImageNetwork
from pipeline.spec.model import ModelSpec

_SIGNATURE = "serving_default"
_NO_SIGNATURES = ("__saved_model_init_op", "__saved_model_train_op")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


def open_savedmodel(path: str, spec: ModelSpec) -> ImageNetwork:
    """Freeze the serving signature of a SavedModel, of TF1 or TF2.

    TensorFlow's own loader is never called: it runs initialisers, and operations that restore, before anyone could look
    at them. The file is read as data; the variables' values are read from the checkpoint; only the operations that the
    signature's outputs need, every one of which is on the list of `op_safety`, are given to TensorFlow.

    Raises: MissingInput, UnusableModel, WrongSpec, UnknownName.
    """
    folder = Path(path)
    meta = _read(folder)
    saver = saver_part(meta)
    check_unused(meta.graph_def, str(folder), saver.nodes, saver.functions)
    part = _signature_part(meta, folder)
    check_operations(part.graph, str(folder), spec.allow)
    try:
        graph = _frozen(part, variable_values(meta, part.handles, folder), str(folder))
    except UnusableModel:
        raise
    except Exception as error:  # TensorFlow refuses a graph in many ways and types
        raise UnusableModel(
            f"the SavedModel {folder} cannot be frozen ({one_line(error)}). Save it again, or freeze it yourself: frozen:X.pb."
        ) from None
    return graph_network(graph, folder.name, str(folder), spec)


def _read(folder: Path) -> meta_graph_pb2.MetaGraphDef:
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
    serving = [meta for meta in model.meta_graphs if "serve" in meta.meta_info_def.tags]
    return (serving or list(model.meta_graphs))[0]


@dataclass(frozen=True)
class _Part:
    """What a signature's outputs need of a graph.

    outputs: {name in the signature: tensor}.
    handles: {tensor of a variable: its operation in the SavedModel's graph}.
    """

    graph: graph_pb2.GraphDef
    outputs: dict[str, str]
    handles: dict[str, node_def_pb2.NodeDef]


def _signature_part(meta: meta_graph_pb2.MetaGraphDef, folder: Path) -> _Part:
    signatures = {
        name: definition for name, definition in meta.signature_def.items() if name not in _NO_SIGNATURES and definition.outputs
    }
    signature = signatures.get(_SIGNATURE) or (next(iter(signatures.values())) if len(signatures) == 1 else None)
    if signature is None:
        known = f"only {', '.join(sorted(signatures))}" if signatures else "no signature at all"
        raise UnusableModel(
            f"the SavedModel {folder} has {known}, but none called {_SIGNATURE!r}. "
            f"Save it with model.export, or with signatures={{'{_SIGNATURE}': function}}."
        )
    nodes = {node.name: node for node in meta.graph_def.node}
    library = {function.signature.name: function for function in meta.graph_def.library.function}
    outputs = {name: canonical(info.name) for name, info in sorted(signature.outputs.items())}
    needed = needed_operations(nodes, outputs.values())
    missing = [name for name, tensor in outputs.items() if owner(tensor) not in nodes]
    if missing:
        raise UnusableModel(
            f"the SavedModel {folder} has no tensor for its output {missing[0]!r}: the file is cut short. Save it again."
        )
    calls = {owner(tensor) for tensor in outputs.values()}
    only = nodes[next(iter(calls))] if len(calls) == 1 else None
    # asked for first: an attribute that is only looked up is made, empty, and no such node can be run
    wrapper = library.get(only.attr["f"].func.name) if only is not None and "f" in only.attr else None
    if only is not None and wrapper is not None and only.op in _CALLS:
        with known_functions(meta.graph_def.library):
            part = _of_function(nodes, only, wrapper, outputs)
    else:
        kept = [_without_device(nodes[name]) for name in nodes if name in needed]
        handles = {f"{node.name}:0": node for node in kept if node.op in HANDLES}
        part = _Part(graph_pb2.GraphDef(node=kept), outputs, handles)
    for name in sorted(called_functions(library, part.graph.node)):
        copy = part.graph.library.function.add()
        copy.CopyFrom(library[name])
        for node in copy.node_def:
            node.device = ""
    part.graph.versions.CopyFrom(meta.graph_def.versions)
    return part


def _of_function(
    nodes: Mapping[str, node_def_pb2.NodeDef],
    call: node_def_pb2.NodeDef,
    function: function_pb2.FunctionDef,
    outputs: dict[str, str],
) -> _Part:
    """The body of the function that a signature of TF2 is; its inputs have the names that people know them by."""
    body, flat = function_body(function)
    arguments = [ref for ref in call.input if not ref.startswith("^")]
    handles: dict[str, node_def_pb2.NodeDef] = {}
    constants: dict[str, node_def_pb2.NodeDef] = {}
    for argument, ref in zip(function.signature.input_arg, arguments, strict=False):
        source = nodes.get(owner(canonical(ref)))
        if source is not None and source.op in HANDLES:
            handles[f"{argument.name}:0"] = source
        elif source is not None and source.op == "Const":  # a tensor that the function closed over
            constants[argument.name] = source
    kept = []
    for node in body.node:
        copy = _without_device(constants.get(node.name, node))
        copy.name = node.name
        kept.append(copy)
    returned = [function.ret[argument.name] for argument in function.signature.output_arg]
    ends = {name: int(tensor.rpartition(":")[2]) for name, tensor in outputs.items()}
    graph = graph_pb2.GraphDef(node=kept)
    inside = {
        name: canonical(flat.get(returned[index], returned[index])) for name, index in ends.items() if index < len(returned)
    }
    needed = needed_operations({node.name: node for node in kept}, inside.values())
    images = {argument.name for argument in function.signature.input_arg} - {handle.removesuffix(":0") for handle in handles}
    return _Part(
        graph_pb2.GraphDef(node=[node for node in graph.node if node.name in needed | images]),
        inside,
        {handle: node for handle, node in handles.items() if owner(handle) in needed},
    )


def _without_device(node: node_def_pb2.NodeDef) -> node_def_pb2.NodeDef:
    copy = node_def_pb2.NodeDef()
    copy.CopyFrom(node)
    copy.device = ""
    return copy


def _check_inference(nodes: Iterable[node_def_pb2.NodeDef], where: str) -> None:
    """Raises: UnusableModel, for a network that changes its own variables, as batch normalisation does in training."""
    changing = next((node.name for node in nodes if node.op.startswith("Assign")), None)
    if changing is not None:
        raise UnusableModel(
            f"{where} was exported in training mode: it changes its variables, at {changing!r}, and an answer depends on the "
            "other images of the batch. Keras does so where Resizing or augmentation stands before a nested model. Open the "
            ".keras file instead, or export with training=False: docs/troubleshooting.md has the lines."
        )


def _frozen(part: _Part, values: Mapping[str, np.ndarray], where: str) -> graph_pb2.GraphDef:
    """The signature's graph, functions written out, variables as constants, ending in operations called as its outputs."""
    references = {name: node for name, node in part.handles.items() if node.op != "VarHandleOp"}
    # TensorFlow knows one function of a name in a process; another file's may have the same.
    operations = with_steady_names(Operations.of(part.graph, where))
    check_constants(operations, where)
    graph = operations.graph()
    for node in graph.node:
        if f"{node.name}:0" in references:  # TF1's variables give their value, not a handle
            constant = tf.make_tensor_proto(values[f"{node.name}:0"])
            node.op, node.input[:] = "Const", []
            node.attr.clear()
            node.attr["dtype"].type = constant.dtype
            node.attr["value"].tensor.CopyFrom(constant)

    variables = {name: tf.Variable(values[name], trainable=False) for name in part.handles if name not in references}
    inputs = [node for node in graph.node if node.op in ("Placeholder", "PlaceholderV2") and f"{node.name}:0" not in part.handles]

    def build(*resources: tf.Tensor) -> list[tf.Tensor]:
        capture = tf.compat.v1.get_default_graph().capture
        handles = {name: capture(variable.handle, owner(name)) for name, variable in variables.items()}
        for variable in variables.values():
            variable.value()  # what is read here, TensorFlow knows to be a variable, and freezes
        fed = {f"{node.name}:0": tensor for node, tensor in zip(inputs, resources, strict=True)}
        return tf.graph_util.import_graph_def(
            graph, input_map={**handles, **fed}, return_elements=list(part.outputs.values()), name=""
        )

    given_names = {owner(name) for name in variables} | {node.name for node in inputs}
    kept = [node for node in graph.node if node.name not in given_names]
    graph = graph_pb2.GraphDef(node=kept, library=graph.library, versions=graph.versions)
    specs = [tf.TensorSpec(tf.TensorShape(node.attr["shape"].shape), node.attr["dtype"].type, node.name) for node in inputs]
    wrapped = tf.compat.v1.wrap_function(build, specs)
    definition = graph_with_constants(wrapped, lower_control_flow=False)
    outputs = {name: output.name for name, output in zip(part.outputs, wrapped.outputs, strict=True)}
    needed = needed_operations({node.name: node for node in definition.node}, outputs.values()) | {node.name for node in inputs}
    kept = [node for node in definition.node if node.name in needed]
    _check_inference(kept, where)
    types = {output.name: output.dtype.as_datatype_enum for output in wrapped.outputs}
    return _without_seams(graph_pb2.GraphDef(node=kept, library=definition.library, versions=definition.versions), outputs, types)


def _without_seams(graph: graph_pb2.GraphDef, outputs: dict[str, str], types: Mapping[str, int]) -> graph_pb2.GraphDef:
    """The graph without the identities that inlining leaves at the borders of functions, its outputs called by name.

    outputs: {the signature's name: the tensor}. types: {tensor: its dtype, as protobuf has it}.
    """
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
        copy = node_def_pb2.NodeDef()
        copy.CopyFrom(node)
        copy.input[:] = [inside(ref) for ref in node.input if not ref.startswith("^")]
        nodes.append(copy)
    taken = {node.name for node in nodes}
    for name, tensor in outputs.items():
        if name not in taken:
            end = node_def_pb2.NodeDef(name=name, op="Identity", input=[inside(tensor)])
            end.attr["T"].type = types[tensor]
            nodes.append(end)
    return graph_pb2.GraphDef(node=nodes, library=graph.library, versions=graph.versions)


def _is_seam(node: node_def_pb2.NodeDef) -> bool:
    return node.name.startswith("Func/") and node.op in ("Identity", "NoOp")


def _input_of(graph: graph_pb2.GraphDef, tensor: str) -> str:
    node = next(node for node in graph.node if node.name == owner(tensor))
    return canonical(node.input[0]) if node.op == "Identity" else tensor
