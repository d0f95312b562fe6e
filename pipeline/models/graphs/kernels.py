"""The learned kernels of a graph's convolutions, whatever constants they are worked out from."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import node_def_pb2

from pipeline.models.graphs.graphdef import Operations, owner
from pipeline.models.network import Kernel

_TRANSPOSED = "Conv2DBackpropInput"
_DEPTHWISE = "DepthwiseConv2dNative"
_CONVOLUTIONS = ("Conv2D", _DEPTHWISE, _TRANSPOSED)


def convolution_of(operations: Operations, name: str, changing: Container[str]) -> node_def_pb2.NodeDef | None:
    """The convolution that an operation is, or the dilated one that it ends; None where there is none with a learned kernel.

    Args:
        changing: the operations that an image can change: a kernel from one of them was not learned.
    """
    node = operations.nodes[name]
    if node.op == "BatchToSpaceND":  # a dilated convolution may be one between SpaceToBatchND and this
        node = operations.nodes[owner(node.input[0])]
    return node if node.op in _CONVOLUTIONS and owner(node.input[1]) not in changing else None


def evaluated(operations: Operations, tensors: Iterable[str]) -> dict[str, np.ndarray]:
    """The values of some tensors that no image changes."""
    names = list(dict.fromkeys(tensors))
    if not names:
        return {}
    with tf.Graph().as_default() as graph:
        part = operations.part(operations.ancestors(names)).graph()
        outputs = tf.graph_util.import_graph_def(part, {}, names, name="")
        with tf.compat.v1.Session(graph=graph) as session:
            return dict(zip(names, session.run(outputs), strict=True))


def kernel_of(operations: Operations, node: node_def_pb2.NodeDef, weights: np.ndarray, channels: Mapping[str, int]) -> Kernel:
    """The kernel of a convolution.

    Args:
        weights: as the operation takes them.
        channels: {tensor: its channels}, for as many tensors as are known.
    """
    weights = weights.astype(np.float32)
    if node.op == _TRANSPOSED:
        return Kernel.of_transposed(weights)
    if node.op == _DEPTHWISE:
        return Kernel.depthwise(weights)
    images = node.input[0]
    before = operations.nodes.get(owner(images))
    if images not in channels and before is not None and before.op == "SpaceToBatchND":
        images = before.input[0]
    return Kernel(weights, channels.get(images, weights.shape[2]) // weights.shape[2])
