"""The learned kernels of convolutions in one layout: from the layers of Keras, and from the operations of a graph."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import node_def_pb2

from pipeline.models.graphs.graphdef import Operations, owner
from pipeline.models.keras.keras_graph import Step
from pipeline.models.network import Kernel

_TRANSPOSED = "Conv2DBackpropInput"
_DEPTHWISE = "DepthwiseConv2dNative"
_OPERATIONS = ("Conv2D", _DEPTHWISE, _TRANSPOSED)
SHAPES_ALONE = ("Shape", "ShapeN", "Size", "Rank")  # of what they take, they read no value


_LAYERS = tuple(getattr(keras.layers, name) for name in ("Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "SeparableConv2D"))


def has_kernel(step: Step) -> bool:
    """Whether a step of Keras is a convolution over height and width."""
    layer = _unwrapped(step)
    if isinstance(layer, keras.layers.Dense):  # over maps it is a convolution of 1 x 1
        # The whole numbers of a quantised one are not its weights.
        return len(step.output.shape) == 4 and not getattr(layer, "quantization_mode", None)
    return isinstance(layer, _LAYERS)


def of_step(step: Step) -> tuple[Kernel, ...]:
    """The kernels of a step that has one: two, where it is a separable convolution."""
    operation = _unwrapped(step)
    if isinstance(operation, keras.layers.SeparableConv2D):
        depthwise = _depthwise(_array(operation.depthwise_kernel), "depthwise")
        return depthwise, Kernel(_array(operation.pointwise_kernel), part="pointwise")
    if isinstance(operation, keras.layers.DepthwiseConv2D):
        return (_depthwise(_array(operation.kernel)),)
    if isinstance(operation, keras.layers.Conv2DTranspose):
        return (_transposed(_array(operation.kernel)),)
    if isinstance(operation, keras.layers.Dense):
        return (Kernel(_array(operation.kernel)[np.newaxis, np.newaxis]),)
    return (Kernel(_array(operation.kernel), operation.groups),)


def convolution_of(operations: Operations, name: str, changing: Container[str]) -> node_def_pb2.NodeDef | None:
    """The convolution that an operation is, or the dilated one that it ends; None where there is none with a learned kernel.

    Args:
        changing: the operations that an image can change: a kernel from one of them was not learned.
    """
    node = operations.nodes[name]
    if node.op == "BatchToSpaceND":  # a dilated convolution may be one between SpaceToBatchND and this
        node = operations.nodes[owner(node.input[0])]
    return node if node.op in _OPERATIONS and owner(node.input[1]) not in changing else None


def evaluated(operations: Operations, tensors: Iterable[str]) -> dict[str, np.ndarray]:
    """The values of some tensors that no image changes."""
    wanted = list(dict.fromkeys(tensors))
    with tf.Graph().as_default() as graph:
        part = operations.part(operations.ancestors(wanted)).graph()
        found = tf.graph_util.import_graph_def(part, {}, wanted, name="")
        with tf.compat.v1.Session(graph=graph) as session:
            return dict(zip(wanted, session.run(found), strict=True)) if wanted else {}


def of_operation(operations: Operations, node: node_def_pb2.NodeDef, weights: np.ndarray, channels: Mapping[str, int]) -> Kernel:
    """The kernel of a convolution of a graph.

    Args:
        weights: as the operation takes them.
        channels: {tensor: its channels}, for as many tensors as are known.
    """
    weights = weights.astype(np.float32)
    if node.op == _TRANSPOSED:
        return _transposed(weights)
    if node.op == _DEPTHWISE:
        return _depthwise(weights)
    images = node.input[0]
    before = operations.nodes.get(owner(images))
    if images not in channels and before is not None and before.op == "SpaceToBatchND":
        images = before.input[0]
    return Kernel(weights, channels.get(images, weights.shape[2]) // weights.shape[2])


def taken_by(node: node_def_pb2.NodeDef) -> list[str]:
    """The tensors whose values an operation takes."""
    return [] if node.op in SHAPES_ALONE else [ref for ref in node.input if not ref.startswith("^")]


def _unwrapped(step: Step) -> keras.Operation:
    operation = step.operation
    while isinstance(operation, keras.layers.Wrapper):
        operation = operation.layer
    return operation


def _depthwise(weights: np.ndarray, part: str = "kernel") -> Kernel:
    """From (height, width, inputs, filters of each input)."""
    height, width, inputs, each = weights.shape
    return Kernel(weights.reshape(height, width, 1, inputs * each), inputs, part)


def _transposed(weights: np.ndarray) -> Kernel:
    """From (height, width, filters, inputs)."""
    return Kernel(np.ascontiguousarray(weights.transpose(0, 1, 3, 2)), transposed=True)


def _array(variable: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype(np.float32)
