"""MobileNetV2 with ImageNet's weights, written out as ONNX in PyTorch's order of axes: it says what the Keras network says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.compiled.compile import compile_tap
from pipeline.models.registry import open_network
from pipeline.sources.fit import Fit
from pipeline.spec.model import ModelSpec

REAL = os.environ.get("CONVSCOPE_REAL", "")
pytestmark = pytest.mark.skipif(not REAL, reason="CONVSCOPE_REAL names no folder of real inputs")


def _written_out(model: keras.Model) -> onnx.ModelProto:
    """A node for each layer of MobileNetV2, by its name; convolutions with their kernels (out, in, height, width)."""
    nodes: list[onnx.NodeProto] = []
    arrays: list[onnx.TensorProto] = []

    def add(kind: str, layer: Any, inputs: list[str], weights: list[np.ndarray], **attributes: Any) -> None:
        names = [f"{layer.name}.{number}" for number in range(len(weights))]
        arrays.extend(numpy_helper.from_array(array, name) for array, name in zip(weights, names, strict=True))
        nodes.append(helper.make_node(kind, [*inputs, *names], [layer.output.name], name=layer.name, **attributes))

    for layer in model.layers[1:]:
        given = layer.input if isinstance(layer.input, list) else [layer.input]
        inputs, weights = [tensor.name for tensor in given], layer.get_weights()
        match type(layer).__name__:
            case "DepthwiseConv2D":
                kernel, group = weights[0].transpose(2, 3, 0, 1), weights[0].shape[2]
                pads = [1, 1, 1, 1] if layer.padding == "same" else [0] * 4
                add("Conv", layer, inputs, [kernel], group=group, strides=layer.strides, pads=pads)
            case "Conv2D":
                pads = [0, 0, 1, 1] if layer.strides == (2, 2) else [0] * 4  # as "same" pads an even size
                add("Conv", layer, inputs, [weights[0].transpose(3, 2, 0, 1)], strides=layer.strides, pads=pads)
            case "BatchNormalization":
                add("BatchNormalization", layer, inputs, weights, epsilon=layer.epsilon)
            case "ReLU":
                add("Clip", layer, inputs, [np.float32(0), np.float32(6)])
            case "ZeroPadding2D":
                (top, bottom), (left, right) = layer.padding
                add("Pad", layer, inputs, [np.array([0, 0, top, left, 0, 0, bottom, right])])
            case "GlobalAveragePooling2D":
                nodes.append(helper.make_node("GlobalAveragePool", inputs, ["pooled"], name="pool"))
                nodes.append(helper.make_node("Flatten", ["pooled"], [layer.output.name], name=layer.name))
            case "Dense":
                nodes.append(helper.make_node("Gemm", [*inputs, "w", "b"], ["scores"], name="scores"))
                arrays.extend(numpy_helper.from_array(array, name) for array, name in zip(weights, "wb", strict=True))
                nodes.append(helper.make_node("Softmax", ["scores"], [layer.output.name], name=layer.name))
            case "Add":
                add("Add", layer, inputs, [])
            case kind:
                raise AssertionError(f"{layer.name} is a {kind}")
    images = helper.make_tensor_value_info(model.inputs[0].name, TensorProto.FLOAT, ("batch", 3, 224, 224))
    ends = [helper.make_tensor_value_info(model.outputs[0].name, TensorProto.FLOAT, ("batch", 1000))]
    graph = helper.make_graph(nodes, "mobilenet_v2", [images], ends, arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_mobilenet_in_onnx_has_the_winners_and_the_maps_of_the_keras_network(tmp_path: Path) -> None:
    spec = {"layers": ["block_6_expand_relu", "out_relu"]}
    weights = f"{REAL}/mobilenet_v2.h5"
    theirs: Any = open_network(ModelSpec(source="keras:MobileNetV2", weights=weights, **spec))
    path = tmp_path / "mobilenet_v2.onnx"
    onnx.save(_written_out(theirs.reader.model), path)
    ours: Any = open_network(ModelSpec(source=f"onnx:{path}", preprocess="symmetric", trusted=True, **spec))
    files = sorted((Path(REAL) / "imagenet20").glob("*.jpg"))
    fit = Fit(224, 224, "crop")
    photos = np.stack([fit.apply(cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)) for file in files])
    asked = [*spec["layers"], "logits"]
    own, other = (compile_tap(network, asked, len(files))(photos) for network in (ours, theirs))
    labels = [int(file.stem.rsplit("_", 1)[1]) for file in files]
    classes = np.argmax(own["logits"], axis=1)
    np.testing.assert_array_equal(classes, np.argmax(other["logits"], axis=1))
    assert sum(classes == labels) >= 17  # of 20; 18 where photographs are fitted as jobs do
    for name in asked:
        np.testing.assert_allclose(own[name], other[name], atol=1e-4 * np.abs(other[name]).max())
