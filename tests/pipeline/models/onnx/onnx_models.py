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
