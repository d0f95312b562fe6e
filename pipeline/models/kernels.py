"""The learned kernels of convolutions in one layout: from the layers of Keras, and from the operations of a graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import node_def_pb2

from pipeline.models.graphdef import Operations, owner
from pipeline.models.network import Kernel

_TRANSPOSED = "Conv2DBackpropInput"
_DEPTHWISE = "DepthwiseConv2dNative"
_CONVOLUTIONS = ("Conv2D", _DEPTHWISE, _TRANSPOSED)
_SHAPES_ALONE = ("Shape", "ShapeN", "Size", "Rank")  # of what they take, they read no value


def of_layer(operation: keras.Operation, rank: int) -> tuple[Kernel, ...]:
    """The kernels of a Keras layer, none where it is no convolution over height and width.

    Args:
        rank: of its output; over maps, of rank 4, Dense is a convolution of 1 x 1.
    """
    while isinstance(operation, keras.layers.Wrapper):
        operation = operation.layer
    if isinstance(operation, keras.layers.SeparableConv2D):
        depthwise = _depthwise(_array(operation.depthwise_kernel), "depthwise")
        return depthwise, Kernel(_array(operation.pointwise_kernel), part="pointwise")
    if isinstance(operation, keras.layers.DepthwiseConv2D):
        return (_depthwise(_array(operation.kernel)),)
    if isinstance(operation, keras.layers.Conv2DTranspose):
        return (_transposed(_array(operation.kernel)),)
    if isinstance(operation, keras.layers.Conv2D):
        return (Kernel(_array(operation.kernel), operation.groups),)
    # The whole numbers of a quantised one are not its weights.
    if isinstance(operation, keras.layers.Dense) and rank == 4 and not getattr(operation, "quantization_mode", None):
        return (Kernel(_array(operation.kernel)[np.newaxis, np.newaxis]),)
    return ()


def convolution_of(operations: Operations, name: str) -> node_def_pb2.NodeDef | None:
    """The convolution that an operation is; a dilated one may be told as one between SpaceToBatchND and BatchToSpaceND."""
    node = operations.nodes[name]
    if node.op == "BatchToSpaceND":
        node = operations.nodes[owner(node.input[0])]
    return node if node.op in _CONVOLUTIONS else None


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
    return [] if node.op in _SHAPES_ALONE else [ref for ref in node.input if not ref.startswith("^")]


def _depthwise(weights: np.ndarray, part: str = "kernel") -> Kernel:
    """From (height, width, inputs, filters of each input)."""
    height, width, inputs, each = weights.shape
    return Kernel(weights.reshape(height, width, 1, inputs * each), inputs, part)


def _transposed(weights: np.ndarray) -> Kernel:
    """From (height, width, filters, inputs)."""
    return Kernel(np.ascontiguousarray(weights.transpose(0, 1, 3, 2)), transposed=True)


def _array(variable: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype(np.float32)
