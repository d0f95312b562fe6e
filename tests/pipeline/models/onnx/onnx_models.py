"""Small networks in ONNX, built from their nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IMAGE = ("batch", 3, 16, 16)


def model(
    nodes: Sequence[onnx.NodeProto],
    arrays: Mapping[str, Any] = {},
    images: Mapping[str, Sequence[Any]] | None = None,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
) -> onnx.ModelProto:
    """A model of some nodes, its arrays and its inputs, `x` for images unless others are named."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (images or {"x": IMAGE}).items()]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(
        list(nodes), "network", inputs, ends, [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def classifier(images: Mapping[str, Sequence[Any]] | None = None) -> onnx.ModelProto:
    """A convolution, a ReLU, a depthwise convolution with strides, a mean, and five classes, as PyTorch exports them."""
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="/conv1/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="/relu/Relu"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="/conv2/Conv", group=8, strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c2"], ["pooled"], name="/pool/GlobalAveragePool"),
        helper.make_node("Shape", ["pooled"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["length"]),
        helper.make_node("Unsqueeze", ["length", "first"], ["lengths"]),
        helper.make_node("Concat", ["lengths", "rest"], ["sizes"], axis=0),
        helper.make_node("Reshape", ["pooled", "sizes"], ["flat"], name="/Reshape"),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["y"], name="/fc/Gemm", transB=1),
    ]
    arrays = {
        "w1": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "b1": rng.normal(size=8).astype(np.float32),
        "w2": rng.normal(size=(8, 1, 3, 3)).astype(np.float32),
        "w3": rng.normal(size=(5, 8)).astype(np.float32),
        "b3": rng.normal(size=5).astype(np.float32),
        "zero": np.int64(0),
        "first": np.array([0]),
        "rest": np.array([-1]),
    }
    return model(nodes, arrays, images)


def saved(network: onnx.ModelProto, folder: Path) -> str:
    """The path of a model's file in a folder."""
    path = folder / "network.onnx"
    path.write_bytes(network.SerializeToString())
    return str(path)


def class_attention() -> onnx.ModelProto:
    """Attention of two heads in which a class token alone looks at itself and 16 patches, as CaiT's and XCiT's last blocks."""
    rng = np.random.default_rng(5)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["maps"], strides=[4, 4], name="/Conv"),
        helper.make_node("Reshape", ["maps", "flat"], ["rows"], name="/Rows"),
        helper.make_node("Transpose", ["rows"], ["patches"], perm=[0, 2, 1], name="/Patches"),
        helper.make_node("ReduceMean", ["patches"], ["mean"], axes=[1], keepdims=1, name="/Mean"),
        helper.make_node("Mul", ["mean", "nothing"], ["none"], name="/None"),
        helper.make_node("Add", ["none", "learned"], ["class"], name="/Class"),
        helper.make_node("Concat", ["class", "patches"], ["tokens"], axis=1, name="/Tokens"),
        helper.make_node("Slice", ["tokens", "start", "end", "axis"], ["first"], name="/First"),
        helper.make_node("Reshape", ["first", "query_sizes"], ["query_heads"], name="/QueryHeads"),
        helper.make_node("Transpose", ["query_heads"], ["query"], perm=[0, 2, 1, 3], name="/Query"),
        helper.make_node("Reshape", ["tokens", "key_sizes"], ["key_heads"], name="/KeyHeads"),
        helper.make_node("Transpose", ["key_heads"], ["key"], perm=[0, 2, 3, 1], name="/Key"),
        helper.make_node("Transpose", ["key_heads"], ["value"], perm=[0, 2, 1, 3], name="/Value"),
        helper.make_node("MatMul", ["query", "key"], ["scores"], name="/Scores"),
        helper.make_node("Softmax", ["scores"], ["attention"], axis=-1, name="/Softmax"),
        helper.make_node("MatMul", ["attention", "value"], ["mixed"], name="/Mixed"),
        helper.make_node("Flatten", ["mixed"], ["wide"], name="/Flatten"),
        helper.make_node("Gemm", ["wide", "dense"], ["y"], name="/Gemm"),
    ]
    arrays = {
        "w": rng.normal(size=(8, 3, 4, 4)).astype(np.float32) / 4,
        "dense": rng.normal(size=(8, 5)).astype(np.float32),
        "learned": rng.normal(size=(1, 1, 8)).astype(np.float32),
        "nothing": np.float32(0),
        "flat": np.array([0, 8, 16]),
        "start": np.array([0]),
        "end": np.array([1]),
        "axis": np.array([1]),
        "query_sizes": np.array([0, 1, 2, 4]),
        "key_sizes": np.array([0, 17, 2, 4]),
    }
    return model(nodes, arrays)
