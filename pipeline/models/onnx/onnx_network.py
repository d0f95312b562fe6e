"""`onnx:X.onnx`: a network in ONNX as a frozen graph of TensorFlow, its layers called as in the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from pipeline.errors import UnusableModel, WrongSpec, one_line
from pipeline.models.graphs.frozen import GraphOrigin, GraphReader
from pipeline.models.graphs.graphdef import canonical
from pipeline.models.head import OutputSpec
from pipeline.models.image_network import ImageNetwork
from pipeline.models.layout import image_layout
from pipeline.models.onnx.onnx_file import opset_of, read_model
from pipeline.models.onnx.translate import NodeOutput, Translation, scope_of
from pipeline.models.onnx.values import BATCH, Value, grows
from pipeline.models.other_inputs import IMAGE, OtherInput, check_named, constant_of, image_of, without_image
from pipeline.spec.model import InputSpec, ModelSpec


def open_onnx(path: str, spec: ModelSpec) -> ImageNetwork:
    """Read an ONNX file. Raises: MissingInput, UnusableModel, WrongSpec, UnknownName."""
    file = Path(path)
    where = str(file)
    graph, inputs, origin, fixed = _translated(read_model(file), spec, where)
    reader = GraphReader(graph, where, spec.model_copy(update={"inputs": inputs}), origin)
    if fixed:
        _check_apart(reader, where)
    return ImageNetwork(reader, file.stem, spec.preprocess, OutputSpec.of(spec), where)


def _translated(
    model: onnx.ModelProto, spec: ModelSpec, where: str
) -> tuple[graph_pb2.GraphDef, dict[str, Any], GraphOrigin, int | None]:
    """A network as a graph of TensorFlow, what `model.inputs` gives the graph's placeholders, what the graph comes from, and the
    length of the batch that it was exported for, where it was for one.
    """
    graph = model.graph
    known = {tensor.name for tensor in graph.initializer}
    inputs = {graph_input.name: graph_input for graph_input in graph.input if graph_input.name not in known}
    image, others, static = _inputs(inputs, spec, where)
    shape = _shape(inputs[image])
    layout, sizes = image_layout(shape, f"{where} at {image!r}", spec.size)
    first = layout.channels_first
    fed = {image: tf.TensorSpec((BATCH, *sizes), _dtype(inputs[image]), scope_of(image))}
    images = {name for name, value in others.items() if isinstance(value, InputSpec) and value.column is None}
    for name, value in others.items():
        own = _shape(inputs[name])[1:]
        if name in images:
            own = tuple(known or size for known, size in zip(layout.sizes(own), sizes, strict=True)) if len(own) == 3 else own
        elif None in own and not isinstance(value, InputSpec):
            own = constant_of(_other(inputs[name]), value, f"model.inputs.{name} = {value!r}", where).shape
        if None in own:
            raise WrongSpec(f"{where} takes {_other(inputs[name])}, of an open shape. Export it with a fixed one.")
        fed[name] = tf.TensorSpec((BATCH, *own), _dtype(inputs[name]), scope_of(name))
    ends: list[Value] = []
    layers: list[NodeOutput] = []

    def build(*tensors: tf.Tensor) -> list[tf.Tensor]:
        length = tf.raw_ops.Shape(input=tensors[0], name="batch/shape")[0]
        translation = Translation(opset_of(model), where, length, shape[0])
        values = dict(static)
        for name, tensor in zip(fed, tensors, strict=True):
            is_image = name == image or name in images
            values[name] = Value(tensor, last=is_image and first, maps=is_image and not first)
        ends.extend(translation.graph(graph, {}, values))
        layers.extend(translation.layers)
        return []

    # In a function, and not a graph alone, so that what is constant can be computed at once, outside of it.
    built = tf.function(build, autograph=False).get_concrete_function(*fed.values()).graph
    _check_batches(built, where)
    try:
        definition = built.as_graph_def()
    except ValueError as error:
        raise UnusableModel(f"{where} is too large for a graph of TensorFlow ({one_line(error)}).") from None
    placeholders = {placeholder.op.name: name for name, placeholder in zip(fed, built.inputs, strict=True)}
    for node in definition.node:
        if node.name in placeholders:
            node.attr["shape"].shape.dim[0].size = -1
            node.attr.pop("_user_specified_name", None)
    graph_input = {f"{scope}:0": others[name] for scope, name in placeholders.items() if name != image}
    tensors = [canonical(end.data.name) for end in ends if not end.is_static]
    hint = ' (it takes channels first, as PyTorch does: perhaps "torch")' if first else ""
    return (
        definition,
        {IMAGE: built.inputs[0].name, **graph_input},
        GraphOrigin(_names(layers, spec.layers), tensors, hint),
        shape[0],
    )


def _inputs(
    inputs: Mapping[str, onnx.ValueInfoProto], spec: ModelSpec, where: str
) -> tuple[str, dict[str, Any], dict[str, Value]]:
    """The input that takes the images, what the spec gives those that have a value for each example, and the others' values.

    An input has a value for each example where its first axis is open, or is the batch that the file was exported for.

    Raises: WrongSpec, UnknownName.
    """
    image = image_of([_other(given) for given in inputs.values()], spec.inputs, where)
    batch = (*_shape(inputs[image]), None)[0]
    given = without_image(spec.inputs, image)
    check_named([_other(own) for name, own in inputs.items() if name != image], given, where)
    others, static = {}, {}
    for name, value in given.items():
        shape = _shape(inputs[name])
        if shape and (shape[0] is None or (shape[0] == batch and len(shape) > 1)):
            others[name] = value
            continue
        if isinstance(value, InputSpec):
            raise WrongSpec(
                f"model.inputs.{name} takes one value for all examples in {where}, of the shape {shape}. Give it a constant."
            )
        alone = OtherInput(name, shape, _dtype(inputs[name]).name)
        static[name] = Value(constant_of(alone, value, f"model.inputs.{name} = {value!r}", where))
    return image, others, static


def _dtype(given: onnx.ValueInfoProto) -> tf.DType:
    return tf.as_dtype(onnx.helper.tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type))


def _other(given: onnx.ValueInfoProto) -> OtherInput:
    return OtherInput(given.name, _shape(given)[1:], _dtype(given).name)


def _shape(given: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """The sizes of an input; None for those that are open."""
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in given.type.tensor_type.shape.dim)


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
        name = layer.node if layer.node and counts[layer.node] == 1 and layer.output not in by_output else layer.output
        if (tensor in named and layer.output not in by_output) or name in taken:
            continue
        taken.add(name)
        named[tensor] = (name, layer.kind)
    return named


def _check_apart(reader: GraphReader, where: str) -> None:
    """Refuse a network, made to run with any batch, in which images change each other's outputs. Raises: UnusableModel."""
    shape = reader.input_shape  # graphs that are translated take channels last
    ends = [end.name for end in reader.ends()]

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((None, *shape), tf.float32)])
    def outputs(images: tf.Tensor) -> list[tf.Tensor]:
        return list(reader.read(images, ends).values())

    images = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    together = outputs(images)
    for name, both, *alone in zip(ends, together, *(outputs(images[row : row + 1]) for row in range(2)), strict=True):
        apart = np.concatenate(alone)
        if not np.allclose(both, apart, atol=1e-3 * float(np.abs(apart).max()), rtol=0, equal_nan=True):
            raise UnusableModel(
                f"{where} was exported for a batch of one length; with another, what it gives for an image at {name!r} depends "
                "on the others. Export it with a batch of any length (dynamic_axes)."
            )


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
