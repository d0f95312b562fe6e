"""Convolutions in groups as a graph runs them: without groups, where TensorFlow has no gradient for all in one.

It has none without oneDNN, and none for pads of a convolution's own. With it, one operation for all groups takes half the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2

from pipeline.compiled.tf_private import differentiates_groups
from pipeline.models.graphs.graphdef import channels_first, constant, with_inputs


class Grouped(NamedTuple):
    """A convolution in groups: how many there are, and the shape of its kernel, (height, width, channels of a group, filters)."""

    groups: int
    kernel: tuple[int, int, int, int]


def grouped(convolution: tf.Operation) -> Grouped | None:
    """What groups an operation of a graph has; None where it is no convolution in groups, or its channels are not known."""
    if convolution.type != "Conv2D":
        return None
    images, kernel = convolution.inputs[0].shape, convolution.inputs[1].shape
    channels = None if images.rank is None else images[1 if channels_first(convolution.node_def) else -1]
    if not channels or not kernel.is_fully_defined() or channels == kernel[2]:
        return None
    height, width, inputs, filters = map(int, kernel)
    return Grouped(channels // inputs, (height, width, inputs, filters))


def without_groups(graph: graph_pb2.GraphDef, convolutions: Mapping[str, Grouped]) -> graph_pb2.GraphDef:
    """The graph with other operations in the place of some convolutions, the last of each under its name.

    A group of one channel is a depthwise convolution's. Other groups have a convolution each, where all in one has no gradient.
    """
    if not convolutions:
        return graph
    result = graph_pb2.GraphDef(library=graph.library, versions=graph.versions)
    for node in graph.node:
        of_groups = convolutions.get(node.name)
        if of_groups is None:
            result.node.extend([node])
        elif _is_depthwise(node, of_groups):
            result.node.extend(_depthwise(node, of_groups))
        elif differentiates_groups() and node.attr["padding"].s != b"EXPLICIT":
            result.node.extend([node])
        else:
            result.node.extend(_one_each(node, of_groups.groups))
    return result


def _is_depthwise(node: node_def_pb2.NodeDef, of_groups: Grouped) -> bool:
    """Whether TensorFlow has a depthwise operation for it: not with channels first, and not with steps that differ."""
    steps, dilations = (list(node.attr[name].list.i) if name in node.attr else [] for name in ("strides", "dilations"))
    even = len(set(steps[1:3])) == 1 and max(dilations, default=1) == 1
    return of_groups.kernel[2] == 1 and even and not channels_first(node)


def _depthwise(node: node_def_pb2.NodeDef, of_groups: Grouped) -> list[node_def_pb2.NodeDef]:
    images, kernel, *control = node.input
    height, width, _, filters = of_groups.kernel
    before, run = [], node_def_pb2.NodeDef(name=node.name, op="DepthwiseConv2dNative")
    for name in ("T", "strides", "padding"):
        run.attr[name].CopyFrom(node.attr[name])
    if run.attr["padding"].s == b"EXPLICIT":  # TensorFlow's optimizer crashes on a depthwise convolution with pads of its own
        pads = constant(f"{node.name}/groups/pads", np.reshape(node.attr["explicit_paddings"].list.i, (4, 2)).astype(np.int32))
        before += [pads, _node(f"{node.name}/groups/padded", "Pad", [images, f"{pads.name}:0"], node, Tpaddings=tf.int32)]
        images, run.attr["padding"].s = f"{node.name}/groups/padded:0", b"VALID"
    shape = constant(
        f"{node.name}/groups/shape", np.array([height, width, of_groups.groups, filters // of_groups.groups], np.int32)
    )
    reshaped = _node(f"{node.name}/groups/kernel", "Reshape", [kernel, f"{shape.name}:0"], node, Tshape=tf.int32)
    run.input[:] = [images, f"{reshaped.name}:0", *control]
    return [*before, shape, reshaped, run]


def _one_each(node: node_def_pb2.NodeDef, groups: int) -> list[node_def_pb2.NodeDef]:
    images, kernel, *control = node.input
    axis = constant(f"{node.name}/groups/axis", np.int32(1 if channels_first(node) else 3))
    last = constant(f"{node.name}/groups/filters", np.int32(3))
    splits = []
    for what, ref, along in (("images", images, axis), ("kernels", kernel, last)):
        splits.append(_node(f"{node.name}/groups/{what}", "Split", [f"{along.name}:0", ref], node))
        splits[-1].attr["num_split"].i = groups
    parts = []
    for number in range(groups):
        part = with_inputs(node, [*(f"{split.name}:{number}" for split in splits), *control])
        part.name = f"{node.name}/groups/{number}"
        parts.append(part)
    end = _node(node.name, "ConcatV2", [*(f"{part.name}:0" for part in parts), f"{axis.name}:0"], node, Tidx=tf.int32)
    end.attr["N"].i = groups
    return [axis, last, *splits, *parts, end]


def _node(name: str, kind: str, inputs: list[str], like: node_def_pb2.NodeDef, **types: tf.DType) -> node_def_pb2.NodeDef:
    node = node_def_pb2.NodeDef(name=name, op=kind, input=inputs)
    node.attr["T"].CopyFrom(like.attr["T"])
    for key, dtype in types.items():
        node.attr[key].type = dtype.as_datatype_enum
    return node
