"""A Keras model read as a Network: layers, maps, logits, digest, and the caller's model left alone."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.compiled.graph_walk import last_convolution
from pipeline.errors import UnknownLayer, UnusableModel, WrongSpec
from pipeline.models.keras.model import keras_network
from pipeline.models.network import LayerInfo, UnreadableLayer
from pipeline.models.selection import select_layers


def read(model: Any, size: Any = None, mode: Any = "unit") -> Any:
    return keras_network(model, model.name, size, mode)


def test_layers_come_in_forward_order_with_the_shapes_of_their_maps(plain_model: Any) -> None:
    assert read(plain_model).layers() == [
        LayerInfo("conv", "Conv2D", (8, 8, 6)),
        LayerInfo("norm", "BatchNormalization", (8, 8, 6)),
        LayerInfo("relu", "ReLU", (8, 8, 6)),
        LayerInfo("drop", "Dropout", (8, 8, 6)),
        LayerInfo("deep", "Conv2D", (6, 6, 8)),
        LayerInfo("pool", "GlobalAveragePooling2D", (1, 1, 8)),
        LayerInfo("classes", "Dense", (1, 1, 5)),
    ]


def test_layers_that_give_tokens_several_outputs_or_integers_are_listed_with_the_reason() -> None:
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 1, name="conv")(x)
    tokens = keras.layers.Reshape((64, 4), name="tokens")(x)
    halves = keras.ops.split(tokens, 2, axis=1)
    whole = keras.ops.cast(keras.ops.max(halves[0] + halves[1], axis=1), "int32")
    network = read(keras.Model(inputs, whole))
    assert [layer.name.partition("_")[0] for layer in network.layers()] == ["conv", "tokens", "max"]  # Keras counts on
    every = [(layer.name, layer.reason if isinstance(layer, UnreadableLayer) else None) for layer in network.every_layer()]
    assert every[1:4] == [
        ("conv", None),
        ("tokens", None),
        ("split", "gives 2 tensors; name the layers that take them"),
    ]
    assert every[0][1] == "the input" and every[-1][1] == "gives int32, not floats"
    with pytest.raises(
        UnknownLayer, match="'add.*' of .* cannot be looked at: tokens without a grid: 32 x 4 .its 32 tokens are only some"
    ):
        select_layers(network, ["add*"])
    with pytest.raises(UnknownLayer, match="cannot be looked at"):
        network.feeds("split")


def test_layers_of_volumes_and_those_inside_another_layer_say_why_they_cannot_be_looked_at() -> None:
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.Reshape((8, 8, 3, 1), name="volume")(x)
    x = keras.layers.Conv3D(2, 3, padding="same", name="deep")(x)
    x = keras.layers.TimeDistributed(keras.layers.Conv2D(2, 3, name="inner"), name="frames")(x)
    x = keras.layers.GlobalAveragePooling3D(name="pool")(x)
    unreadable = {layer.name: layer for layer in read(keras.Model(inputs, x)).every_layer() if isinstance(layer, UnreadableLayer)}
    assert unreadable["deep"].reason == "Conv3D: five axes"
    assert unreadable["frames/inner"].reason == "inside the layer 'frames'" and unreadable["frames/inner"].kind == "Conv2D"


def test_every_call_of_a_shared_layer_is_a_layer_and_the_last_convolution_is_the_last_call(pixels: Any) -> None:
    x = inputs = keras.Input((16, 16, 3))
    relu, conv = keras.layers.ReLU(name="relu"), keras.layers.Conv2D(4, 3, padding="same", name="conv")
    x = keras.layers.Conv2D(4, 3, name="first")(x)
    x = relu(conv(relu(x)))
    x = keras.layers.MaxPooling2D(name="smaller")(x)
    x = relu(conv(x))
    model = keras.Model(inputs, keras.layers.Dense(3, name="dense")(keras.layers.GlobalAveragePooling2D(name="pool")(x)))
    network = read(model)
    names = ["first", "relu", "conv", "relu:1", "smaller", "conv:1", "relu:2", "pool", "dense"]
    assert [layer.name for layer in network.layers()] == names
    images = network.preprocess(pixels(2, 16, 16))
    first = tf.nn.relu(model.get_layer("first")(images))
    second = tf.nn.max_pool2d(tf.nn.relu(conv(first)), 2, 2, "VALID")
    maps = network.trace(images, ["relu", "conv:1", "relu:2"])
    for name, right in (("relu", first), ("conv:1", conv(second)), ("relu:2", tf.nn.relu(conv(second)))):
        np.testing.assert_allclose(maps[name], right, rtol=1e-4, atol=1e-5)
    assert last_convolution(network).name == "relu:2"
    assert network.convolutions() == ["first", "conv", "conv:1"]
    assert network.feeds("conv:1") == ("smaller",) and network.feeds("smaller") == ("relu:1",)
    np.testing.assert_array_equal(network.kernels(["conv:1"])["conv:1"][0].weights, conv.kernel)


def test_a_nested_model_that_is_used_twice_is_reached_both_times(pixels: Any) -> None:
    part = keras.Input((None, None, 3))
    inner = keras.Model(part, keras.layers.Conv2D(3, 3, padding="same", name="core")(part), name="inner")
    inputs = keras.Input((12, 12, 3))
    x = inner(keras.ops.relu(inner(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    network = read(model)
    images = network.preprocess(pixels(2, 12, 12))
    maps = network.trace(images, ["inner/core", "inner:1/core", "inner:1"])
    once = inner(images)
    np.testing.assert_allclose(maps["inner/core"], once, rtol=1e-4, atol=1e-5)
    for name in ("inner:1/core", "inner:1"):
        np.testing.assert_allclose(maps[name], inner(tf.nn.relu(once)), rtol=1e-4, atol=1e-5)
    assert last_convolution(network).name == "inner:1/core" and len(network.feeds("inner:1/core")) == 1


def test_the_layers_of_a_nested_model_with_several_outputs_are_layers_too(pixels: Any) -> None:
    part = keras.Input((None, None, 3))
    low = keras.layers.Conv2D(4, 3, name="low")(part)
    high = keras.layers.Conv2D(5, 3, name="high")(low)
    inner = keras.Model(part, [low, high], name="features")
    inputs = keras.Input((12, 12, 3))
    a, b = inner(inputs)
    x = keras.layers.Conv2D(2, 1, name="on_low")(a)
    y = keras.layers.Conv2D(2, 1, name="on_high")(b)
    pooled = [keras.layers.GlobalAveragePooling2D()(x), keras.layers.GlobalAveragePooling2D()(y)]
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Concatenate()(pooled)))
    network = read(model)
    names = [layer.name for layer in network.layers()]
    assert names[:2] == ["features/low", "features/high"] and "features" not in names
    assert network.feeds("on_low") == ("features/low",) and network.feeds("on_high") == ("features/high",)
    assert network.feeds("features/high") == ("features/low",)
    images = network.preprocess(pixels(2, 12, 12))
    maps = network.trace(images, ["features/high", "on_low"])
    np.testing.assert_allclose(maps["features/high"], inner(images)[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(maps["on_low"], model.get_layer("on_low")(inner(images)[0]), rtol=1e-4, atol=1e-5)
    with pytest.raises(UnknownLayer, match="'features' of .* gives 2 tensors; name the layers inside it"):
        select_layers(network, ["features"])


def test_a_sequential_model_is_read_even_after_layers_were_added_one_by_one(pixels: Any) -> None:
    model = keras.Sequential([keras.Input((8, 8, 3))])
    model.add(keras.layers.Conv2D(4, 3, name="a"))
    model.add(keras.layers.Conv2D(2, 3, name="b"))
    network = read(model)
    assert [layer.shape for layer in network.layers()] == [(6, 6, 4), (4, 4, 2)]
    images = network.preprocess(pixels(2, 8, 8))
    np.testing.assert_allclose(network.trace(images, ["b"])["b"], model(images), rtol=1e-5)


def test_nested_models_are_reached_by_path_at_any_depth(nested_model: Any) -> None:
    layers = {layer.name: layer.shape for layer in read(nested_model).layers()}
    named = [name for name in layers if not name.startswith(("add", "relu"))]  # Keras numbers what nobody named
    assert named == ["shared", "shared:1", "middle/first", "middle/inner/core", "middle/inner", "middle", "pool", "dense", "end"]
    assert layers["middle/inner/core"] == layers["middle"] == (10, 10, 4)  # though the nested models leave their size open


def test_maps_equal_what_the_layers_give_when_called_by_hand(nested_model: Any, pixels: Any) -> None:
    network = read(nested_model)
    images = network.preprocess(pixels(2, 12, 12))
    maps = network.trace(images, ["shared", "middle/first", "middle/inner/core", "middle", "dense"])
    shared, middle = nested_model.get_layer("shared"), nested_model.get_layer("middle")
    first = middle.get_layer("first")(shared(shared(images)) + 0.5)
    core = middle.get_layer("inner").get_layer("core")(first)
    dense = nested_model.get_layer("dense")(tf.reduce_max(tf.nn.relu(core), (1, 2)))
    np.testing.assert_allclose(maps["shared"], shared(images), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(maps["middle/first"], first, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(maps["middle/inner/core"], core, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(maps["middle"], core, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(maps["dense"], dense[:, None, None, :], rtol=1e-4, atol=1e-5)


def test_a_model_whose_first_layer_is_a_model_is_reached_too(plain_model: Any, pixels: Any) -> None:
    network = read(keras.Sequential([keras.Input((16, 16, 3)), plain_model]))
    images = network.preprocess(pixels(2, 16, 16))
    outputs = network.trace(images, ["plain/conv", "logits"])
    np.testing.assert_allclose(outputs["plain/conv"], plain_model.get_layer("conv")(images), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tf.nn.softmax(outputs["logits"]), plain_model(images), rtol=1e-4, atol=1e-6)


def test_dropout_and_batch_statistics_are_off(plain_model: Any, pixels: Any) -> None:
    network = read(plain_model)
    images = network.preprocess(pixels(4, 16, 16))
    whole, alone = network.trace(images, ["drop"])["drop"], network.trace(images[:1], ["drop"])["drop"]
    np.testing.assert_allclose(whole[:1], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("end", ["dense softmax", "softmax layer", "activation layer", "softmax op", "conv and reshape", "none"])
def test_logits_are_what_the_softmax_gets(end: Any, pixels: Any) -> None:
    x = inputs = keras.Input((8, 8, 3))
    if end == "conv and reshape":
        x = keras.layers.Conv2D(5, 8, activation="softmax")(x)
        x = keras.layers.Reshape((5,))(x)
    else:
        x = keras.layers.Flatten()(x)
        x = keras.layers.Dense(5, activation="softmax" if end == "dense softmax" else None)(x)
        ends = {
            "softmax layer": keras.layers.Softmax(),
            "activation layer": keras.layers.Activation("softmax"),
            "softmax op": keras.ops.softmax,
        }
        x = ends.get(end, lambda x: x)(x)
    model = keras.Model(inputs, x)
    network = read(model)
    images = network.preprocess(pixels(3, 8, 8))
    logits = network.trace(images, ["logits"])["logits"]
    assert logits.shape == (3, 5) and np.ptp(logits) > 0.1 and not np.allclose(np.sum(logits, -1), 1)
    expected = model(images)
    np.testing.assert_allclose(logits if end == "none" else tf.nn.softmax(logits), expected, rtol=1e-4, atol=1e-6)


def test_a_layer_that_is_called_logits_gives_way_to_the_logits(pixels: Any) -> None:
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(5, 8, name="logits")(inputs)
    network = read(keras.Model(inputs, keras.layers.Softmax()(keras.layers.Flatten(name="flat")(x))))
    assert "logits" not in [layer.name for layer in network.layers()]
    outputs = network.trace(network.preprocess(pixels(2, 8, 8)), ["logits", "flat"])
    np.testing.assert_array_equal(outputs["logits"], outputs["flat"][:, 0, 0])


def test_a_network_that_ends_in_a_map_has_no_logits_and_says_so(pixels: Any) -> None:
    inputs = keras.Input((8, 8, 3))
    network = read(keras.Model(inputs, keras.layers.Conv2D(5, 3)(inputs)))
    with pytest.raises(UnusableModel, match="no logits.*model.top = true"):
        network.trace(network.preprocess(pixels(1, 8, 8)), ["logits"])


def test_only_the_part_up_to_the_deepest_layer_is_in_the_graph(plain_model: Any) -> None:
    network = read(plain_model)
    function = tf.function(lambda images: network.trace(images, ["relu"]))
    graph = function.get_concrete_function(tf.TensorSpec((1, 16, 16, 3))).graph
    assert [op.type for op in graph.get_operations()].count("Conv2D") == 1


def test_maps_of_a_mixed_precision_model_come_as_float32(pixels: Any) -> None:
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, dtype="mixed_float16", name="half")(x)
    network = read(
        keras.Model(inputs, keras.layers.Dense(2, activation="softmax", dtype="mixed_float16")(keras.layers.Flatten()(x)))
    )
    outputs = network.trace(network.preprocess(pixels(1, 8, 8)), ["half", "logits"])
    assert {value.dtype for value in outputs.values()} == {tf.float32}


def test_tracing_leaves_the_callers_model_as_it_was(nested_model: Any, digest_of: Any, pixels: Any) -> None:
    before = digest_of(nested_model), digest_of(nested_model.get_layer("middle"))
    network = read(nested_model)
    network.trace(network.preprocess(pixels(2, 12, 12)), ["middle/inner/core", "dense", "logits"])
    network.digest()
    assert (digest_of(nested_model), digest_of(nested_model.get_layer("middle"))) == before


def test_gradients_flow_from_maps_and_logits_to_pixels(plain_model: Any, pixels: Any) -> None:
    network = read(plain_model)

    @tf.function
    def gradients(images: Any) -> Any:
        outputs = network.trace(network.preprocess(images), ["deep", "logits"])
        return [tf.gradients(outputs[name], images)[0] for name in ("deep", "logits")]

    for gradient in gradients(tf.cast(pixels(1, 16, 16), tf.float32)):
        assert float(tf.reduce_max(tf.abs(gradient))) > 0


def test_an_unknown_layer_is_named_with_the_nearest(plain_model: Any, pixels: Any) -> None:
    with pytest.raises(UnknownLayer, match="'conb' is not in plain; nearest: conv.*convscope layers SPEC"):
        read(plain_model).trace(tf.zeros((1, 16, 16, 3)), ["conb"])


def test_a_grey_network_gets_the_luma_of_the_pixels() -> None:
    inputs = keras.Input((4, 4, 1))
    network = read(keras.Model(inputs, keras.layers.Conv2D(2, 1)(inputs)), mode="none")
    primaries = np.diag([255, 255, 255]).astype(np.uint8).reshape(1, 1, 3, 3)
    np.testing.assert_allclose(np.ravel(network.preprocess(primaries)), [76.245, 149.685, 29.07], rtol=1e-5)


@pytest.mark.parametrize("mode", ["caffe", "torch"])
def test_colour_preprocessing_of_a_grey_network_is_refused(mode: Any) -> None:
    inputs = keras.Input((4, 4, 1))
    with pytest.raises(WrongSpec, match="grey"):
        read(keras.Model(inputs, keras.layers.Conv2D(2, 1)(inputs)), mode=mode)


def test_the_size_is_asked_for_where_the_network_leaves_it_open() -> None:
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 3, name="conv")(inputs))
    with pytest.raises(WrongSpec, match="model.size"):
        read(model)
    network = read(model, size=(10, 20))
    assert network.input_shape == (10, 20, 3) and network.layers()[0].shape == (8, 18, 2)


def test_a_size_that_contradicts_the_network_is_refused(plain_model: Any) -> None:
    with pytest.raises(WrongSpec, match=r"takes 16 x 16 pixels"):
        read(plain_model, size=(16, 32))


def test_models_of_no_image_or_of_no_graph_are_refused() -> None:
    vector, volume = keras.Input((4,)), keras.Input((4, 4, 4, 3))

    class Subclassed(keras.Model):
        def call(self, inputs: Any) -> Any:
            return inputs

    for model, reason in [
        (keras.Model(vector, keras.layers.Dense(2)(vector)), "not images"),
        (keras.Model(volume, keras.layers.Conv3D(2, 1)(volume)), r"Volumes \(3D\) and films are not read"),
        (Subclassed(), "subclassed"),
        (keras.Sequential([keras.layers.Dense(2)]), "unbuilt"),
    ]:
        with pytest.raises(UnusableModel, match=reason):
            read(model)


def test_the_digest_changes_with_weights_preprocessing_and_size_and_with_nothing_else(plain_model: Any) -> None:
    inputs = keras.Input((None, None, 3))
    anywhere = keras.Model(inputs, keras.layers.Conv2D(2, 3, name="conv")(inputs))
    assert read(plain_model).digest() == read(plain_model).digest()
    assert read(plain_model).digest() != read(plain_model, mode="none").digest()
    assert read(anywhere, size=(8, 8)).digest() != read(anywhere, size=(9, 8)).digest()
    before = read(plain_model).digest()
    norm = plain_model.get_layer("norm").moving_variance
    norm.assign(np.nextafter(np.asarray(norm), 2))
    assert read(plain_model).digest() != before
