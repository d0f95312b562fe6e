"""`onnx:X.onnx`: a network in ONNX as a frozen graph of TensorFlow, its layers called as in the file."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from pipeline.errors import UnknownName, UnusableModel, WrongSpec, one_line
from pipeline.models.graphs.frozen import GraphOrigin, GraphReader
from pipeline.models.graphs.graphdef import canonical
from pipeline.models.head import OutputSpec
from pipeline.models.image_network import ImageNetwork
from pipeline.models.layout import CHANNELS, image_layout
from pipeline.models.onnx.onnx_file import opset_of, read_model
from pipeline.models.onnx.translate import NodeOutput, Translation, scope_of
from pipeline.models.onnx.values import BATCH, Value, grows
from pipeline.models.other_inputs import IMAGE
from pipeline.spec.model import ModelSpec


def open_onnx(path: str, spec: ModelSpec) -> ImageNetwork:
    """Read an ONNX file. Raises: MissingInput, UnusableModel, WrongSpec, UnknownName."""
    file = Path(path)
    where = str(file)
    graph, image, origin = _translated(read_model(file), spec, where)
    reader = GraphReader(graph, where, spec.model_copy(update={"inputs": {IMAGE: image}}), origin)
    return ImageNetwork(reader, file.stem, spec.preprocess, OutputSpec.of(spec), where)


def _translated(model: onnx.ModelProto, spec: ModelSpec, where: str) -> tuple[graph_pb2.GraphDef, str, GraphOrigin]:
    """A network as a graph of TensorFlow, the tensor of its images, and what the graph comes from."""
    graph = model.graph
    image, given = _inputs(graph, spec, where)
    shape = _shape(image)
    if len(shape) != 4:
        raise UnusableModel(f"{where} takes {image.name!r} of {len(shape)} axes, not images: (batch, channels, height, width).")
    layout, (height, width, channels) = image_layout(shape, f"{where} at {image.name!r}", spec.size)
    dtype = tf.as_dtype(onnx.helper.tensor_dtype_to_np_dtype(image.type.tensor_type.elem_type))
    ends: list[Value] = []
    layers: list[NodeOutput] = []

    def build(images: tf.Tensor) -> list[tf.Tensor]:
        length = tf.raw_ops.Shape(input=images, name="batch/shape")[0]
        translation = Translation(opset_of(model), where, length, shape[0])
        value = Value(images, last=True) if layout.channels_first else Value(images, maps=True)
        ends.extend(translation.graph(graph, {}, {image.name: value, **given}))
        layers.extend(translation.layers)
        return []

    # In a function, and not a graph alone, so that what is constant can be computed at once, outside of it.
    fed = tf.TensorSpec((BATCH, height, width, channels), dtype, scope_of(image.name))
    built = tf.function(build, autograph=False).get_concrete_function(fed).graph
    _check_batches(built, where)
    try:
        definition = built.as_graph_def()
    except ValueError as error:
        raise UnusableModel(f"{where} is too large for a graph of TensorFlow ({one_line(error)}).") from None
    placeholder = built.inputs[0]
    for node in definition.node:
        if node.name == placeholder.op.name:
            node.attr["shape"].shape.dim[0].size = -1
            node.attr.pop("_user_specified_name", None)
    tensors = [canonical(end.data.name) for end in ends if not end.is_static]
    hint = ' (it takes channels first, as PyTorch does: perhaps "torch")' if layout.channels_first else ""
    return definition, placeholder.name, GraphOrigin(_names(layers, spec.layers), tensors, hint)


def _inputs(graph: onnx.GraphProto, spec: ModelSpec, where: str) -> tuple[onnx.ValueInfoProto, dict[str, Value]]:
    """The input that takes the images, and the values that the spec gives the others. Raises: WrongSpec, UnknownName."""
    known = {tensor.name for tensor in graph.initializer}
    inputs = {given.name: given for given in graph.input if given.name not in known}
    named = spec.inputs.get(IMAGE)
    if named is not None:
        if named not in inputs:
            raise UnknownName.among(str(named), list(inputs), where=f"an input of {where} (model.inputs.image)")
        image = inputs[str(named)]
    else:
        maps = [own for name, own in inputs.items() if name not in spec.inputs and len(_shape(own)) == 4]
        candidates = [own for own in maps if _may_be_images(_shape(own))] or maps
        if len(candidates) > 1:
            raise WrongSpec(
                f"{where} takes several images: {', '.join(_described(own) for own in candidates)}. Name the one that is "
                f'looked at, model.inputs = {{ image = "{candidates[0].name}" }}, and give the others a value there.'
            )
        if not candidates:
            raise UnusableModel(
                f"{where} takes no images (batch, channels, height, width), but: "
                f"{', '.join(_described(own) for own in inputs.values()) or 'nothing at all'}. Name a network of images."
            )
        image = candidates[0]
    unknown = [name for name in spec.inputs if name not in inputs and name != IMAGE]
    if unknown:
        raise UnknownName.among(unknown[0], list(inputs), where=f"an input of {where} (model.inputs)")
    missing = [name for name in inputs if name != image.name and name not in spec.inputs]
    if missing:
        described = ", ".join(_described(inputs[name]) for name in missing)
        raise WrongSpec(
            f"{where} has inputs without a value: {described}. Give each one in model.inputs, such as {missing[0]} = 1."
        )
    given = {}
    for name, value in spec.inputs.items():
        if name != IMAGE and name != image.name:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(inputs[name].type.tensor_type.elem_type)
            try:
                given[name] = Value(np.asarray(value, dtype))
            except (TypeError, ValueError) as error:
                raise WrongSpec(f"model.inputs.{name} = {value!r} does not fit {where}: {one_line(error)}.") from None
    return image, given


def _shape(given: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """The sizes of an input; None for those that are open."""
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in given.type.tensor_type.shape.dim)


def _may_be_images(shape: Sequence[int | None]) -> bool:
    return len(shape) == 4 and (shape[1] in CHANNELS or shape[3] in CHANNELS)


def _described(given: onnx.ValueInfoProto) -> str:
    kind = onnx.TensorProto.DataType.Name(given.type.tensor_type.elem_type).lower()
    return f"{given.name} ({kind}, ({', '.join('?' if size is None else str(size) for size in _shape(given))}))"


def _names(layers: Sequence[NodeOutput], asked: Sequence[str]) -> dict[str, tuple[str, str]]:
    """{tensor: the name and the kind of a layer}: the node's name, or that of its output where the job asks by it.

    Several values may share a tensor, such as the input and the output of Identity: the first gives it its name.
    """
    counts: dict[str, int] = {}
    for layer in layers:
        counts[layer.node] = counts.get(layer.node, 0) + 1
    nodes = {layer.node for layer in layers if layer.node}
    by_output = {
        layer.output
        for layer in layers
        for pattern in asked
        if fnmatchcase(layer.output, pattern) and not any(fnmatchcase(node, pattern) for node in nodes)
    }
    named: dict[str, tuple[str, str]] = {}
    taken: set[str] = set()
    for layer in layers:
        tensor = canonical(layer.tensor.name)
        own = layer.node if layer.node and counts[layer.node] == 1 and layer.output not in by_output else layer.output
        if (tensor in named and layer.output not in by_output) or own in taken:
            continue
        taken.add(own)
        named[tensor] = (own, layer.kind)
    return named


def _check_batches(built: tf.Graph, where: str) -> None:
    """Refuse a graph in which the length of the batch became a constant. Raises: UnusableModel."""
    for operation in built.get_operations():
        if operation.type != "Const":
            continue
        value = operation.get_attr("value")
        sizes = [dim.size for dim in value.tensor_shape.dim]
        number = (
            tf.make_ndarray(value) if len(sizes) <= 1 and max(sizes, default=1) <= 8 and value.dtype in (3, 9) else np.zeros(0)
        )
        if grows(sizes) or grows(number):
            raise UnusableModel(
                f"{where} computes with the length of its batch at {operation.name.rpartition('/')[0]!r}, in a form that "
                "convscope cannot leave open. Export it with a batch of any length (dynamic_axes)."
            )
