"""The kernels of every kind of convolution in one layout, and what each layer is made from; Keras and graphs alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import frozen_graphs as graphs
import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import UnknownLayer
from pipeline.models.keras.model import keras_network

LAYERS = keras.layers
SHAPE = (10, 10, 6)

# name -> the layer, its groups, whether it is transposed
KINDS = {
    "standard": (lambda: LAYERS.Conv2D(4, (3, 2), name="it", padding="same"), 1),
    "pointwise": (lambda: LAYERS.Conv2D(5, 1, name="it"), 1),
    "dilated": (lambda: LAYERS.Conv2D(4, 3, dilation_rate=2, name="it"), 1),
    "grouped": (lambda: LAYERS.Conv2D(9, 3, groups=3, name="it"), 3),
    "depthwise": (lambda: LAYERS.DepthwiseConv2D(3, depth_multiplier=2, name="it", padding="same"), 6),
    "transposed": (lambda: LAYERS.Conv2DTranspose(4, 3, strides=2, padding="same", name="it"), 1),
    "dense": (lambda: LAYERS.Dense(4, name="it"), 1),
}


def network(model: Any) -> Any:
    return keras_network(model, "net", None, "none")


def around(layer: Any, shape: Any = SHAPE) -> Any:
    """A network of an image, a convolution to six channels, and the layer."""
    inputs = keras.Input((*shape[:2], 3))
    return keras.Model(inputs, layer(LAYERS.Conv2D(shape[2], 1, name="before")(inputs)))


def by_hand(kernel: Any, channels: Any) -> Any:
    """A kernel written out: (height, width, channels of the input, filters), with zeros where a filter takes nothing."""
    height, width, inputs, filters = kernel.weights.shape
    whole = np.zeros((height, width, channels, filters), np.float32)
    for filter in range(filters):
        first = kernel.first_input(filter)
        whole[:, :, first : first + inputs, filter] = kernel.weights[..., filter]
    return whole


def applied(layer: Any, kernels: Any, images: Any) -> Any:
    """What plain TensorFlow makes of images with the kernels, with the layer's own strides and padding."""
    for kernel in kernels:
        whole = by_hand(kernel, images.shape[3])
        options = {"strides": 1, "padding": getattr(layer, "padding", "valid").upper()}
        if kernel.transposed:
            size = [len(images), *(2 * side for side in images.shape[1:3]), kernel.filters]
            images = tf.nn.conv2d_transpose(images, whole.transpose(0, 1, 3, 2), size, strides=2, padding="SAME")
        else:
            images = tf.nn.conv2d(images, whole, **options, dilations=getattr(layer, "dilation_rate", 1))
    return np.asarray(images)


@pytest.fixture
def images() -> Any:
    return np.random.default_rng(3).normal(size=(2, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kernel_does_by_hand_what_its_layer_does(kind: Any, images: Any) -> None:
    make, groups = KINDS[kind]
    model = around(make())  # type: ignore[no-untyped-call]
    layer = model.get_layer("it")
    (kernel,) = network(model).kernels(["it"])["it"]
    assert kernel.groups == groups and kernel.part == "kernel" and kernel.transposed == (kind == "transposed")
    assert kernel.weights.dtype == np.float32 and kernel.filters == layer.output.shape[-1]
    layer.bias.assign(np.zeros(layer.bias.shape))
    np.testing.assert_allclose(applied(layer, [kernel], images), np.asarray(layer(images)), rtol=1e-4, atol=1e-5)


def test_a_separable_convolution_has_two_kernels_one_after_the_other(images: Any) -> None:
    model = around(LAYERS.SeparableConv2D(4, 3, depth_multiplier=2, use_bias=False, padding="same", name="it"))
    depthwise, pointwise = network(model).kernels(["it"])["it"]
    assert (depthwise.part, depthwise.groups, depthwise.filters) == ("depthwise", 6, 12)
    assert (pointwise.part, pointwise.groups, pointwise.weights.shape) == ("pointwise", 1, (1, 1, 12, 4))
    layer = model.get_layer("it")
    np.testing.assert_allclose(applied(layer, [depthwise, pointwise], images), np.asarray(layer(images)), rtol=1e-4, atol=1e-5)


def test_layers_without_a_kernel_are_left_out_and_nested_and_wrapped_ones_found(nested_model: Any) -> None:
    opened = network(nested_model)
    actual = opened.kernels([layer.name for layer in opened.layers()])
    assert list(actual) == ["shared", "shared:1", "middle/first", "middle/inner/core"]
    core = nested_model.get_layer("middle").get_layer("inner").get_layer("core")
    assert np.array_equal(actual["middle/inner/core"][0].weights, np.asarray(core.kernel))
    wrapped = around(LAYERS.SpectralNormalization(LAYERS.Conv2D(4, 3), name="it"))
    assert network(wrapped).kernels(["it"])["it"][0].weights.shape == (3, 3, 6, 4)
    with pytest.raises(UnknownLayer, match="'shard' is not in net; nearest: shared"):
        opened.kernels(["shard"])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dense"])
def test_a_frozen_graph_gives_the_same_kernels_as_its_keras_twin(kind: Any, tmp_path: Path) -> None:
    model = around(KINDS[kind][0]())  # type: ignore[no-untyped-call]
    path = graphs.freeze_v2(tmp_path, lambda x: model(x, training=False), tf.TensorSpec((None, 10, 10, 3), tf.float32))
    frozen = graphs.opened(path)
    actual = frozen.kernels([layer.name for layer in frozen.layers()])
    assert len(actual) == 2
    (own,) = network(model).kernels(["it"])["it"]
    (twin,) = list(actual.values())[1]
    assert np.array_equal(twin.weights, own.weights)
    assert (twin.groups, twin.transposed) == (own.groups, own.transposed)


def test_the_kernels_of_a_graph_of_tf1_are_found_behind_reads_and_folded_normalisation(tmp_path: Path) -> None:
    kernel, scale = graphs.weights(3, 3, 3, 4), np.float32([1, 2, 3, 4])

    def build() -> None:
        image = graphs.v1.placeholder(tf.float32, (None, 8, 8, 3), name="input")
        read = tf.identity(graphs.variable("kernel", kernel), name="kernel/read")
        x = graphs.convolve(image, tf.multiply(read, scale), name="folded")
        spaced = tf.space_to_batch_nd(x, (2, 2), [[2, 2], [2, 2]])
        x = graphs.convolve(spaced, graphs.variable("wide", graphs.weights(3, 3, 2, 6, seed=1)), name="inside")
        x = tf.batch_to_space(x, (2, 2), [[2, 2], [2, 2]], name="dilated")
        made = tf.reshape(tf.reduce_mean(x, (0, 1, 2)), (1, 1, 6, 1))  # an image can change it: nobody learned it
        graphs.convolve(x, made, name="made")

    frozen = graphs.opened(graphs.freeze_v1(tmp_path, build, ["made"]))
    actual = frozen.kernels([layer.name for layer in frozen.layers()])
    assert set(actual) == {"folded", "dilated"}
    np.testing.assert_allclose(actual["folded"][0].weights, kernel * scale, rtol=1e-6)
    assert actual["dilated"][0].groups == 2 and actual["dilated"][0].weights.shape == (3, 3, 2, 6)


def test_what_feeds_a_layer_is_the_nearest_on_every_way_back(nested_model: Any, plain_model: Any) -> None:
    opened = network(nested_model)
    feeds = {layer.name: opened.feeds(layer.name) for layer in opened.layers()}
    assert feeds["shared"] == () and opened.feeds("logits") == ("end",)
    assert feeds["middle/inner/core"] == ("middle/first",) and feeds["middle/inner"] == ("middle/inner/core",)
    assert feeds["middle"] == ("middle/inner",) and feeds["pool"] == (next(name for name in feeds if name.startswith("relu")),)
    assert feeds["middle/first"] == (next(name for name in feeds if name.startswith("add")),)
    x = inputs = keras.Input((8, 8, 3))
    left, right = LAYERS.Conv2D(4, 1, name="left")(x), LAYERS.Conv2D(4, 3, padding="same", name="right")(x)
    halves = keras.ops.split(left, 2, axis=3)  # no layer, since it gives two outputs
    joined = LAYERS.Concatenate(name="joined")([*halves, LAYERS.Add(name="sum")([left, right])])
    opened = network(keras.Model(inputs, joined))
    assert opened.feeds("joined") == ("sum", "left") or opened.feeds("joined") == ("left", "sum")
    assert set(opened.feeds("sum")) == {"left", "right"} and opened.feeds("left") == ()


def test_what_feeds_a_tensor_of_a_graph_leaves_shapes_out(tmp_path: Path) -> None:
    def build() -> None:
        image = graphs.v1.placeholder(tf.float32, (None, 8, 8, 3), name="input")
        a = graphs.convolve(image * 2.0, graphs.variable("a/k", graphs.weights(3, 3, 3, 4)), name="a")
        b = tf.nn.relu(a, name="b")
        c = tf.reshape(b[..., :2] + tf.reduce_sum(tf.cast(tf.shape(a), tf.float32)), (-1, 8, 8, 2), name="c")
        tf.concat([tf.nn.top_k(a, 2).values, c], 3, name="d")

    frozen = graphs.opened(graphs.freeze_v1(tmp_path, build, ["d"]))
    assert frozen.feeds("a") == ("mul",) and frozen.feeds("mul") == () and frozen.feeds("b") == ("a",)
    below = set(frozen.feeds("c"))
    while below and not below & {"a", "b"}:
        below = {feed for name in below for feed in frozen.feeds(name)}
    assert below == {"b"}
    assert frozen.feeds("d")[-1] == "c"
