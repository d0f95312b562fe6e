"""Reduced precision: a graph rewritten so that its expensive operations run in bfloat16 or float16.

TensorFlow's own graph optimizer rewrites it, for every kind of network: it reduces convolutions and matrix products,
and leaves operations that would lose too much accuracy, such as sums and exponentials.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from pipeline.compiled.devices import visible_gpus
from pipeline.compiled.freezing import FrozenGraph
from pipeline.compiled.tf_private import optimized
from pipeline.errors import WrongSpec

# The optimizer for bfloat16 is for CPUs, where oneDNN computes it; that for float16 is for GPUs.
_OPTIMIZERS = {"bfloat16": "auto_mixed_precision_onednn_bfloat16", "float16": "auto_mixed_precision"}

_FLOAT32 = tf.float32.as_datatype_enum

ReadLayers = Callable[[tf.Tensor], Any]


def reduced(read: ReadLayers, pixels: tf.TensorSpec, precision: str, name: str) -> ReadLayers:
    """A function that reads a network's layers, in reduced precision.

    Args:
        read: images to any structure of maps, float32.
        precision: bfloat16 or float16.
        name: the network, for the errors.

    Returns: a function for use inside a graph; its maps are float32 again.
    Raises: WrongSpec, if it would change nothing in the network.
    """
    frozen = FrozenGraph.of(read, pixels)
    rewritten = replace(frozen, graph=optimized(frozen.graph, [*frozen.inputs, *frozen.outputs], _OPTIMIZERS[precision]))
    _relu6_of_casts(rewritten.graph, tf.as_dtype(precision))
    if not _reduces(rewritten.graph, tf.as_dtype(precision)):
        raise WrongSpec(
            f"model.precision = {precision!r} changes nothing: this machine, or TensorFlow on it, has no {precision} for "
            f"the operations of {name}. Leave it out."
        )
    return rewritten


def check_device(precision: str) -> None:
    """Raises: WrongSpec, if the precision is for another kind of device."""
    gpus = visible_gpus()
    if precision in ("float16", "tf32") and not gpus:
        raise WrongSpec(f'model.precision = "{precision}" is for GPUs, and there is none. Set "bfloat16", or leave it out.')
    if precision == "bfloat16" and gpus:
        raise WrongSpec(
            'model.precision = "bfloat16" is for CPUs, and the network runs on a GPU. Set "float16", or leave it out.'
        )
    capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability") if precision == "tf32" else None
    if capability is not None and capability < (8, 0):
        raise WrongSpec(
            'model.precision = "tf32" changes nothing: the GPU has the compute capability '
            f"{'.'.join(map(str, capability))}, and TF32 needs 8.0. Leave it out."
        )


def _relu6_of_casts(graph: graph_pb2.GraphDef, dtype: tf.DType) -> None:
    """Compute ReLU6 in float32 where its input is there in float32 too, as that of a layer read before its upper clamp is.

    In bfloat16 it takes several times as long on CPUs as in float32, and is no part of a convolution whose output is read.
    """
    behind = {node.name: node.input[0] for node in graph.node if node.op == "Identity"}
    casts: dict[str, Any] = {}
    for node in graph.node:
        if node.op == "Cast" and node.attr["DstT"].type == _FLOAT32:
            source = node.input[0]
            while source in behind:
                source = behind[source]
            casts[source] = node
    for node in [node for node in graph.node if node.op == "Relu6" and node.attr["T"].type == dtype.as_datatype_enum]:
        cast = casts.get(node.input[0])
        if cast is None:
            continue
        exact = graph.node.add(name=f"{node.name}/float32", op="Relu6", input=[cast.name], device=node.device)
        exact.attr["T"].type = _FLOAT32
        node.op, node.input[0] = "Cast", exact.name
        del node.attr["T"]
        node.attr["SrcT"].type, node.attr["DstT"].type = _FLOAT32, dtype.as_datatype_enum


def _reduces(graph: graph_pb2.GraphDef, dtype: tf.DType) -> bool:
    # Reading an attribute that a node lacks would add it to the protocol buffer, empty, and corrupt the graph.
    types = (node.attr["T"].type for node in graph.node if node.op not in ("Cast", "Const") and "T" in node.attr)
    return dtype.as_datatype_enum in types
