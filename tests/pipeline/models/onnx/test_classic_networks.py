"""The nine classic networks that the package onnx ships without weights: random ones, and every layer as onnxruntime has it."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import onnxruntime
import pytest
import tensorflow as tf

from pipeline.models.onnx.onnx_network import open_onnx
from pipeline.spec.model import ModelSpec

FILES = sorted((Path(onnx.backend.test.__file__).parent / "data" / "light").glob("light_*.onnx"))


def _with_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with what it fills with ones made random arrays: kernels of He's variance, vectors from 0.5 to 1.5."""
    rng = np.random.default_rng(0)
    shapes = {array.name: onnx.numpy_helper.to_array(array) for array in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "ConstantOfShape"]:
        shape = shapes[node.input[0]]
        spread = (2 / max(prod(shape[1:]), 1)) ** 0.5
        array = rng.normal(0, spread, shape) if len(shape) > 1 else rng.uniform(0.5, 1.5, shape)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), node.output[0]))
        model.graph.node.remove(node)
    return model


@pytest.mark.slow  # 2 minutes for all nine, and 3 GB
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_layer_of_the_classic_networks_is_that_of_onnxruntime(file: Path, tmp_path: Path) -> None:
    model = _with_weights(onnx.load(file))
    path = tmp_path / file.name
    onnx.save(model, path)
    network = open_onnx(str(path), ModelSpec(source=f"onnx:{path}", layers=["*"], preprocess="none"))
    assert all("#" not in layer.name for layer in network.layers())
    outputs = {name: node.name or name for node in model.graph.node for name in node.output}
    layers = {layer.name for layer in network.layers()}
    read = {output: name if name in layers else output for output, name in outputs.items() if {name, output} & layers}
    assert len(read) == len(layers) >= 20
    images = np.random.default_rng(1).uniform(-1, 1, (2, *network.input_shape)).astype(np.float32)
    ours = tf.function(lambda given: network.trace(given, [*read.values()]), autograph=False)(tf.constant(images))

    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in read if name not in known)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    feed = session.get_inputs()[0].name
    rows = [session.run([*read], {feed: image.transpose(2, 0, 1)[np.newaxis]}) for image in images]
    for output, values in zip(read, map(np.concatenate, zip(*rows, strict=True)), strict=True):
        maps = values.reshape(*values.shape[:2], *((1, 1) if values.ndim == 2 else values.shape[2:]))
        own = ours[read[output]].numpy()
        np.testing.assert_allclose(own, maps.transpose(0, 2, 3, 1), atol=1e-4 * np.abs(values).max(), err_msg=output)
