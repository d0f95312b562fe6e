"""Convolutions in groups of frozen graphs: run without groups, where TensorFlow has no gradient for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.compiled.tf_private import differentiates_groups
from pipeline.models.graphs import grouped_convolutions
from pipeline.models.network import Network
from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec

# How many channels a group has, how many filters there are of 12 channels, and what the operation is told.
CONVOLUTIONS: dict[str, tuple[int, int, dict[str, Any]]] = {
    "one channel": (1, 12, {"strides": 1, "padding": "SAME"}),
    "one channel, two filters": (1, 24, {"strides": 2, "padding": "VALID"}),
    "one channel, pads of its own": (1, 12, {"strides": 2, "padding": [[0, 0], [1, 1], [0, 2], [0, 0]]}),
    "one channel, steps that differ": (1, 12, {"strides": (1, 2), "padding": "SAME"}),
    "one channel, dilated": (1, 12, {"strides": 1, "padding": "SAME", "dilations": 2}),
    "four channels": (4, 6, {"strides": 2, "padding": "SAME"}),
    "four channels, pads of its own": (4, 9, {"strides": 1, "padding": [[0, 0], [1, 1], [0, 2], [0, 0]]}),
}
# Those that are no depthwise operation's and have no pads of their own.
AS_THEY_ARE = ("one channel, steps that differ", "one channel, dilated", "four channels")


def frozen(path: Path, name: str) -> Network:
    """A stem, a convolution in groups, and a mean."""
    inputs, filters, options = CONVOLUTIONS[name]
    random = np.random.default_rng(0)
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, (None, 16, 15, 3), name="image")
        kernels = [
            tf.constant(random.normal(0, 1, shape).astype(np.float32)) for shape in ((3, 3, 3, 12), (3, 3, inputs, filters))
        ]
        x = tf.nn.relu(tf.nn.conv2d(image, kernels[0], 1, "SAME", name="stem"))
        tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(x, kernels[1], name="grouped", **options)), (1, 2), name="scores")
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return open_network(ModelSpec(source=f"frozen:{path}", layers=["*"], preprocess="unit", head="linear"))


@pytest.mark.parametrize("have_gradients", [False, True])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_they_give_what_the_file_gives_and_no_operation_has_groups_without_gradients(
    name: str, have_gradients: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if have_gradients and not differentiates_groups():
        pytest.skip("without oneDNN")
    monkeypatch.setattr(grouped_convolutions, "differentiates_groups", lambda: have_gradients)
    network = frozen(tmp_path / "net.pb", name)
    layers = ["stem", "grouped", "scores"]
    images = np.random.default_rng(1).random((2, 16, 15, 3)).astype(np.float32)

    def answers(images: tf.Tensor) -> Any:
        traced = network.trace(images, layers)
        return traced, tf.gradients(traced["scores"], images)[0]

    run = tf.function(answers, autograph=False).get_concrete_function(tf.TensorSpec(images.shape))
    of_groups = [
        operation
        for operation in run.graph.get_operations()
        if operation.type == "Conv2D" and operation.inputs[0].shape[3] != operation.inputs[1].shape[2]
    ]
    assert len(of_groups) == (have_gradients and name in AS_THEY_ARE)
    ours, gradient = run(tf.constant(images))
    definition = tf.compat.v1.GraphDef.FromString((tmp_path / "net.pb").read_bytes())
    kept = tf.compat.v1.GraphDef(
        node=[node for node in definition.node if node.op != "Placeholder"]
    )  # which XLA does not compile
    names = [f"{layer}:0" for layer in layers]

    @tf.function(autograph=False, jit_compile=True)  # XLA has the gradients that TensorFlow lacks
    def in_the_file(images: tf.Tensor) -> Any:
        outputs = tf.graph_util.import_graph_def(kept, {"image:0": images}, names)
        return outputs, tf.gradients(outputs[2], images)[0]

    right, slopes = in_the_file(tf.constant(images))
    for layer, values in zip(layers, right, strict=True):
        np.testing.assert_allclose(np.reshape(ours[layer], values.shape), values, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-4)


def test_a_layer_of_groups_stays_one_convolution_with_its_kernel(tmp_path: Path) -> None:
    network = frozen(tmp_path / "net.pb", "four channels")
    layer = next(layer for layer in network.layers() if getattr(layer, "name", "") == "grouped")
    assert layer.kind == "Conv2D" and layer.shape == (8, 8, 6)
    (kernel,) = network.kernels(["grouped"])["grouped"]
    assert kernel.groups == 3 and kernel.inputs == 4
