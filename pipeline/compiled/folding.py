"""Folding: what a frozen network multiplies a convolution by and adds to it, channel by channel, goes into the convolution.

TensorFlow folds the factors of batch normalisation into full convolutions, but not into depthwise ones, and fuses a
convolution with the ReLU behind it only where nothing but a bias stands between them. On CPUs those passes over whole
maps take much of a light network's time, above all in bfloat16, for which their kernels are slow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from pipeline.compiled.graph_parts import operation_of, readers_in
from pipeline.compiled.tf_private import optimized

_DEPTHWISE = "DepthwiseConv2dNative"
_CONVOLUTIONS = ("Conv2D", _DEPTHWISE)
_ADDITIONS = ("AddV2", "Add", "BiasAdd")
_NORMALIZATIONS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
_TO_FOLD = {_DEPTHWISE, "AddV2", "Add", "Mul", *_NORMALIZATIONS}  # a bias alone stays where it is


def folded(graph: GraphDef, kept: Sequence[str]) -> GraphDef:
    """A graph with factors and sums of convolutions in their kernels and biases: the same but for rounding.

    Only what no other operation reads is folded, only float32 with channels last, and only where the new kernel is finite.
    A depthwise convolution behind a padding as that of "SAME" pads itself.

    Args:
        graph: without variables.
        kept: the names of the tensors that must stay as they are: the inputs and the outputs.
    """
    operations = {node.op for node in graph.node}
    if operations.isdisjoint(_CONVOLUTIONS) or operations.isdisjoint(_TO_FOLD):
        return graph
    graph = optimized(graph, kept, "constfold")  # the factors are computed from constants, and are none yet
    return _Folding(graph, kept).graph()


class _Folding:
    """One walk over a graph."""

    def __init__(self, graph: GraphDef, kept: Sequence[str]) -> None:
        self._source = graph
        self._nodes = {node.name: node for node in graph.node}
        self._kept = {operation_of(name) for name in kept}
        self._readers = readers_in(graph)

    def graph(self) -> GraphDef:
        replaced: dict[str, list[NodeDef]] = {}
        for node in self._source.node:
            if node.op == _DEPTHWISE:
                self._pad_itself(node)
            if node.op in _CONVOLUTIONS:
                replaced |= self._fold(node)
        result = GraphDef(versions=self._source.versions, library=self._source.library)
        for node in self._source.node:
            result.node.extend(replaced.get(node.name, [node]))
        return result

    def _fold(self, convolution: NodeDef) -> dict[str, list[NodeDef]]:
        """By the names of nodes that go, what comes in their place."""
        kernel = self._constant(convolution.input[1])
        if kernel is None or _text(convolution, "data_format", "NHWC") != "NHWC":
            return {}
        depthwise = convolution.op == _DEPTHWISE
        count = kernel.shape[2] * kernel.shape[3] if depthwise else kernel.shape[3]
        factor, total, chain = np.ones(count), np.zeros(count), [convolution]
        with np.errstate(all="ignore"):  # what is not finite is not folded
            for node, times, plus in self._channelwise(convolution, count):
                factor, total = factor * times, total * times + plus
                chain.append(node)
            scaled = (kernel * factor.reshape(kernel.shape[2:] if depthwise else (count,))).astype(np.float32)
            bias = total.astype(np.float32)
        plain = [node.op for node in chain[1:]] in ([], ["BiasAdd"])
        if plain or not (np.isfinite(scaled).all() and np.isfinite(bias).all()):
            return {}
        end = chain[-1].name
        run, weights, shift = NodeDef(), _constant(f"{end}/kernel", scaled), _constant(f"{end}/bias", bias)
        run.CopyFrom(convolution)
        run.name, run.input[1] = f"{end}/convolution", weights.name
        last = NodeDef(name=end, op="BiasAdd", input=[run.name, shift.name])
        last.attr["T"].type = tf.float32.as_datatype_enum
        last.attr["data_format"].s = b"NHWC"
        return {node.name: [] for node in chain} | {end: [weights, shift, run, last]}

    def _channelwise(self, node: NodeDef, count: int) -> Iterator[tuple[NodeDef, np.ndarray, np.ndarray]]:
        """Node by node, as long as it alone reads the one before: y = times * x + plus, float64 (count,)."""
        while node.name not in self._kept and len(readers := self._readers.get(node.name, [])) == 1:
            before, node = node, readers[0]
            step = self._step(before, node, count)
            if step is None:
                return
            yield node, *step

    def _step(self, before: NodeDef, node: NodeDef, count: int) -> tuple[np.ndarray, np.ndarray] | None:
        if node.op in _NORMALIZATIONS:
            return self._normalization(before, node)
        if node.op not in (*_ADDITIONS, "Mul") or len(node.input) != 2 or _text(node, "data_format", "NHWC") != "NHWC":
            return None
        other = node.input[1] if operation_of(node.input[0]) == before.name else node.input[0]
        constant = self._constant(other)
        # A constant of more axes than the map would give the result another shape.
        if constant is None or constant.ndim > 4 or constant.size not in (1, count):
            return None
        if constant.ndim and constant.shape[-1] != constant.size:
            return None
        values = np.broadcast_to(constant.reshape(-1).astype(np.float64), (count,))
        return (values, np.zeros(count)) if node.op == "Mul" else (np.ones(count), values)

    def _normalization(self, before: NodeDef, node: NodeDef) -> tuple[np.ndarray, np.ndarray] | None:
        if "is_training" not in node.attr or node.attr["is_training"].b or _text(node, "data_format", "NHWC") != "NHWC":
            return None
        others = [
            name for reader in self._readers.get(node.name, []) for name in reader.input if name.startswith(f"{node.name}:")
        ]
        values = [self._constant(name) for name in node.input[1:5]]
        if others or node.input[0] != before.name or any(value is None for value in values):
            return None
        scale, offset, mean, variance = (value.astype(np.float64) for value in values if value is not None)
        epsilon = node.attr["epsilon"].f if "epsilon" in node.attr else 1e-4
        factor = scale / np.sqrt(variance + epsilon)
        return factor, offset - mean * factor

    def _pad_itself(self, convolution: NodeDef) -> None:
        """Let a depthwise convolution read what is padded for it, where "SAME" pads it by as many zeros."""
        padding = self._nodes.get(convolution.input[0])
        if padding is None or padding.op != "Pad" or convolution.attr["padding"].s != b"VALID":
            return
        kernel, pads = self._constant(convolution.input[1]), self._constant(padding.input[1], (tf.int32, tf.int64))
        strides = list(convolution.attr["strides"].list.i)
        dilated = "dilations" in convolution.attr and max(convolution.attr["dilations"].list.i, default=1) > 1
        if kernel is None or pads is None or dilated or _text(convolution, "data_format", "NHWC") != "NHWC":
            return
        shape = self._shapes.get_tensor_by_name(f"{padding.input[0]}{'' if ':' in padding.input[0] else ':0'}").shape
        if shape.rank == 4 and pads.tolist() == [[0, 0], *map(_same, shape[1:3], kernel.shape[:2], strides[1:3]), [0, 0]]:
            convolution.input[0], convolution.attr["padding"].s = padding.input[0], b"SAME"

    @cached_property
    def _shapes(self) -> tf.Graph:
        graph = tf.Graph()
        with graph.as_default():
            tf.graph_util.import_graph_def(self._source, name="")
        return graph

    def _constant(self, name: str, dtypes: Sequence[tf.DType] = (tf.float32,)) -> np.ndarray | None:
        """The value of a constant of one of these types."""
        node = self._nodes.get(name)
        while node is not None and node.op == "Identity":
            node = self._nodes.get(node.input[0])
        if node is None or node.op != "Const" or node.attr["dtype"].type not in [dtype.as_datatype_enum for dtype in dtypes]:
            return None
        value: np.ndarray = tf.make_ndarray(node.attr["value"].tensor)
        return value


def _same(length: int | None, window: int, stride: int) -> list[int] | None:
    """The padding that "SAME" puts before and behind an axis of so many values; None where that is not known."""
    if length is None:
        return None
    total = max((-(-length // stride) - 1) * stride + window - length, 0)
    return [total // 2, total - total // 2]


def _constant(name: str, value: np.ndarray) -> NodeDef:
    node = NodeDef(name=name, op="Const")
    node.attr["dtype"].type = tf.float32.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    return node


def _text(node: NodeDef, name: str, default: str) -> str:
    # Reading an attribute that a node lacks would add it, empty.
    return node.attr[name].s.decode() if name in node.attr else default
