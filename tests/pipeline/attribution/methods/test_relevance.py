"""Relevance propagation: against hand calculations, conserving on every shape of network, alike on Keras models and graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from explaining import explain, explainer_of, stored
from stirring import stir

from pipeline.attribution.explainer import Explainer
from pipeline.attribution.methods.relevance import LRP, relevance
from pipeline.attribution.plan import ExplainPlan
from pipeline.errors import UnusableModel
from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec

layers = keras.layers
NAMES = [method.name for method in LRP]
KEYS = [(name, None) for name in NAMES]
CLASSES = np.array([[1], [3]], np.int32)


@pytest.fixture(scope="module")
def varied() -> Any:
    """Batch normalisation of either sign, depthwise, a gate, a residual sum, a swish, pooling of two kinds, dense layers."""
    x = inputs = keras.Input((16, 16, 3))
    x = layers.BatchNormalization(name="b1")(layers.Conv2D(6, 3, padding="same", name="c1")(x))
    x = y = layers.MaxPooling2D()(layers.ReLU()(x))
    x = layers.BatchNormalization(name="b2")(layers.DepthwiseConv2D(3, padding="same", name="d2")(x))
    x = layers.Activation("swish")(x)
    gate = layers.Dense(6, activation="sigmoid", name="gate")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Multiply()([x, gate])
    x = layers.Add()([layers.BatchNormalization(name="b3")(layers.Conv2D(6, 1, use_bias=False, name="c3")(x)), y])
    x = layers.ReLU(6)(layers.Concatenate()([x, layers.Conv2D(2, 3, padding="same", dilation_rate=2, name="c4")(x)]))
    x = layers.Dense(8, activation="relu", name="f1")(layers.Flatten()(layers.AveragePooling2D(2)(x)))
    model = stir(keras.Model(inputs, layers.Dense(5, activation="softmax", name="f2")(x), name="varied"))
    random = np.random.default_rng(0)
    for name in ("b1", "b2", "b3"):
        gamma, beta, mean, variance = model.get_layer(name).get_weights()
        gamma = np.where(random.random(gamma.shape) < 0.4, -1.0, 1.0) * np.abs(gamma)
        model.get_layer(name).set_weights([gamma, beta, mean, variance])
    return model


@pytest.fixture(scope="module")
def images() -> Any:
    return np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)


def test_what_reaches_the_pixels_adds_up_to_the_logit_on_keras_models_and_graphs_alike(
    varied: Any, opened: Any, images: Any, tmp_path: Path
) -> None:
    ours = explain(explainer_of(opened(varied), KEYS, 2), images, CLASSES)
    scores = np.take_along_axis(ours.logits, CLASSES, axis=1)
    twin = open_network(ModelSpec(source=stored(varied, "frozen", tmp_path), layers=["*"], preprocess="unit"))
    graph = explain(explainer_of(twin, KEYS[2:3], 2), images, CLASSES)
    maps = ours.maps[KEYS[2]]
    np.testing.assert_allclose(graph.maps[KEYS[2]], maps, atol=1e-3 * np.abs(maps).max())
    for key in KEYS:
        maps = ours.maps[key]
        np.testing.assert_allclose(maps.sum(axis=(2, 3)), scores, rtol=0.01)
        assert ours.gaps[key[0]].max() < 0.01
    assert len({ours.maps[key].tobytes() for key in KEYS}) == len(KEYS)


def test_layer_normalisation_passes_relevance_to_what_it_scales_and_none_to_the_scale(opened: Any, images: Any) -> None:
    """Of maps, and of a vector, where the mean is smaller than the scale that multiplies it: as in ConvNeXt."""
    inputs = keras.Input((16, 16, 3))
    x = layers.LayerNormalization(name="n1")(layers.Conv2D(6, 3, name="c1")(inputs))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, activation="gelu", name="c2")(x))
    x = layers.LayerNormalization(name="n2")(x)
    model = stir(keras.Model(inputs, layers.Dense(5, name="f")(x), name="normalised"))
    ours = explain(explainer_of(opened(model), KEYS, 2), images, CLASSES)
    for key in KEYS:
        sums = ours.maps[key].sum(axis=(2, 3))
        np.testing.assert_allclose(sums, np.take_along_axis(ours.logits, CLASSES, axis=1), rtol=0.01)


def shared(x: Any, w: Any, b: Any, above: Any, rule: str) -> Any:
    """What each input of a dense layer is given, by the definition: float64 of the shape of x."""
    products = x[:, None] * w  # of each input to each output
    plus, output = products * (products > 0), products.sum(axis=0) + b
    if rule == "flat":
        return np.full(products.shape, 1 / len(x)) @ above
    if rule == "box":
        box = products - np.maximum(w, 0) * 0 - np.minimum(w, 0) * 1  # pixels lie from 0 to 1
        parts, rest = box / box.sum(axis=0), np.zeros(len(b))
    elif rule == "epsilon":
        parts, rest = products / output, b / output
    elif rule == "zplus":
        total = plus.sum(axis=0) + np.maximum(b, 0)
        parts = np.divide(plus, total, out=np.zeros_like(plus), where=total > 0)
        rest = 1 - parts.sum(axis=0)  # of a unit that nothing speaks for, all
    else:  # what agrees with the sign of the output counts a quarter more
        agrees = np.where(np.sign(products) == np.sign(output), 1.25, 1.0) * products
        bias = b * np.where(np.sign(b) == np.sign(output), 1.25, 1.0)
        total = agrees.sum(axis=0) + bias
        parts, rest = agrees / total, bias / total
    sizes = (np.abs(x) + 1e-6)[:, None] * np.abs(w)
    return parts @ above + sizes / sizes.sum(axis=0) @ (rest * above)


@pytest.mark.parametrize("name", NAMES)
def test_two_layers_give_what_the_definition_gives(name: str, opened: Any) -> None:
    inputs = keras.Input((3, 3, 1))
    x = layers.Flatten()(layers.Conv2D(5, 3, activation="relu", name="seen")(inputs))
    x = layers.Reshape((1, 1, 5))(layers.Dense(5, activation="relu", name="middle")(x))
    model = stir(keras.Model(inputs, layers.Flatten()(layers.Conv2D(4, 1, name="scores")(x))))
    grey = np.random.default_rng(2).integers(1, 256, (3, 3), dtype=np.uint8)
    explainer = explainer_of(opened(model, head="softmax"), [(name, None)], 1)
    explained = explain(explainer, np.dstack([grey] * 3)[None], np.array([[2]]))
    weights = [values.astype(np.float64) for values in model.get_weights()]
    first, dense, last = (weights[n].reshape(-1, weights[n].shape[-1]) for n in (0, 2, 4))
    pixels = grey.ravel() / 255
    seen = np.maximum(pixels @ first + weights[1], 0)
    middle = np.maximum(seen @ dense + weights[3], 0)
    above = np.zeros(4)
    above[2] = (middle @ last + weights[5])[2]
    rules = {
        "lrp_epsilon": ("epsilon", "epsilon", "epsilon"),
        "lrp_zplus": ("zplus", "zplus", "zplus"),
        "lrp_epsilon_plus_flat": ("zplus", "epsilon", "flat"),
        "lrp_epsilon_gamma_box": ("gamma", "epsilon", "box"),
    }[name]
    above = shared(middle, last, weights[5], above, rules[0])
    above = shared(seen, dense, weights[3], above, rules[1])
    right = shared(pixels, first, weights[1], above, rules[2])
    np.testing.assert_allclose(explained.maps[name, None][0, 0].ravel(), right, rtol=2e-3, atol=1e-4 * np.abs(right).max())


def test_the_maps_through_each_channel_of_a_layer_add_up_to_the_whole(opened: Any, images: Any) -> None:
    x = inputs = keras.Input((16, 16, 3))
    for name in ("first", "second"):
        x = layers.Conv2D(3, 3, activation="relu", name=name)(x)
    network = opened(stir(keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))))
    several = [(relevance("lrp_zplus", "first", channel), f"first:{channel}") for channel in range(3)]
    target = explainer_of(network, [("occlusion", None)], 2).plan.targets
    plan = ExplainPlan((*several, (relevance("lrp_zplus"), None)), target, 2)
    maps = explain(Explainer.of(network, plan), images, np.array([[1], [2]])).maps
    whole = maps.pop(("lrp_zplus", None))
    assert len({values.tobytes() for values in maps.values()}) == 3
    np.testing.assert_allclose(sum(maps.values()), whole, atol=1e-4 * np.abs(whole).max())


def in_groups(whole: bool) -> Any:
    """Convolutions in groups, each with a bias and a normalisation of either sign; or the same with kernels over all channels."""

    def convolution(x: Any, filters: int, groups: int, **options: Any) -> Any:
        x = layers.Conv2D(filters, 3, groups=1 if whole else groups, **options)(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    x = inputs = keras.Input((16, 16, 3))
    x = convolution(layers.Conv2D(6, 3, name="first")(x), 6, 6, padding="same", name="every_channel")
    x = convolution(x, 12, 6, strides=2, padding="same", name="two_of_every_channel")
    x = convolution(x, 8, 4, name="four_groups")
    x = convolution(x, 8, 2, dilation_rate=2, padding="same", name="apart")
    x = layers.Dense(5, name="classes")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x, name="whole" if whole else "groups")


def test_convolutions_in_groups_share_as_those_over_all_channels_with_zeros_between_groups_do(
    opened: Any, images: Any, tmp_path: Path
) -> None:
    groups, whole = in_groups(False), in_groups(True)
    stir(groups)
    random = np.random.default_rng(0)
    for own, other in zip(groups.layers, whole.layers, strict=True):
        weights = own.get_weights()
        weights = [values if values.ndim > 1 else values * random.choice([-1, 1], values.shape) for values in weights]
        if isinstance(own, layers.BatchNormalization):
            weights[-1] = np.abs(weights[-1])
        own.set_weights(weights)
        if getattr(own, "groups", 1) > 1:
            kernel = np.zeros(other.kernel.shape, np.float32)
            inputs, filters = own.kernel.shape[2], own.filters // own.groups
            for group in range(own.groups):
                columns = slice(group * filters, (group + 1) * filters)
                kernel[:, :, group * inputs : (group + 1) * inputs, columns] = weights[0][..., columns]
            weights[0] = kernel
        other.set_weights(weights)
    right = explain(explainer_of(opened(whole), KEYS, 2), images, CLASSES)
    saved = open_network(ModelSpec(source=stored(groups, "frozen", tmp_path), layers=["*"], preprocess="unit"))
    for network in (opened(groups), saved):
        ours = explain(explainer_of(network, KEYS, 2), images, CLASSES)
        np.testing.assert_allclose(ours.logits, right.logits, rtol=1e-4, atol=1e-6)
        for key in KEYS:
            np.testing.assert_allclose(ours.maps[key], right.maps[key], atol=1e-3 * np.abs(right.maps[key]).max())


def rows_in_groups(whole: bool) -> Any:
    """Two convolutions of rows, the second in two groups, or the same with a kernel over all channels."""
    x = inputs = keras.Input((16, 16, 3))
    x = layers.Reshape((64, 8))(layers.Conv2D(8, 3, strides=2, padding="same", name="first")(x))
    x = layers.ReLU()(layers.Conv1D(6, 5, strides=2, groups=1 if whole else 2, padding="same", use_bias=False, name="rows")(x))
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)), name="whole" if whole else "rows")


def test_convolutions_of_rows_in_groups_share_as_those_over_all_channels_do(opened: Any, images: Any) -> None:
    groups, whole = rows_in_groups(False), rows_in_groups(True)
    stir(groups)
    for own, other in zip(groups.layers, whole.layers, strict=True):
        weights = own.get_weights()
        if own.name == "rows":
            kernel = np.zeros(other.kernel.shape, np.float32)
            kernel[:, :4, :3], kernel[:, 4:, 3:] = weights[0][..., :3], weights[0][..., 3:]
            weights = [kernel]
        other.set_weights(weights)
    ours, right = (explain(explainer_of(opened(model), KEYS, 2), images, CLASSES) for model in (groups, whole))
    np.testing.assert_allclose(ours.logits, right.logits, rtol=1e-4, atol=1e-6)
    for key in KEYS:
        np.testing.assert_allclose(ours.maps[key], right.maps[key], atol=1e-3 * np.abs(right.maps[key]).max())


def test_convolutions_in_groups_of_channels_first_are_those_of_channels_last(tmp_path: Path) -> None:
    from pipeline.models.keras.grouped_convolutions import without_compiled_convolutions

    random = np.random.default_rng(0)
    x, kernel = (random.normal(size=shape).astype(np.float32) for shape in ((2, 9, 8, 4), (3, 3, 2, 6)))
    options = {"strides": 2, "padding": "same"}
    with without_compiled_convolutions():
        last = keras.ops.conv(x, kernel, data_format="channels_last", **options)
        first = keras.ops.conv(np.moveaxis(x, -1, 1), kernel, data_format="channels_first", **options)
    np.testing.assert_allclose(np.moveaxis(first, 1, -1), last, atol=1e-5)


class Wrapped(keras.layers.Layer):
    """A convolution in a function of its own, which XLA compiles and which is given its weights."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(3, 3, 3, 6))

    def call(self, x: Any) -> Any:
        return tf.function(lambda x, kernel: tf.nn.conv2d(x, kernel, 1, "SAME"), jit_compile=True)(
            x, tf.convert_to_tensor(self.kernel)
        )


@pytest.mark.parametrize("keys", [[("lrp_zplus", None)], [("gradient", None), ("lrp_zplus", None)]])
def test_a_convolution_in_a_compiled_function_that_is_given_its_weights_is_named(keys: Any, opened: Any, images: Any) -> None:
    inputs = keras.Input((16, 16, 3))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(Wrapped(name="wrapped")(inputs)))
    model = keras.Model(inputs, layers.Dense(5)(x), name="wrapping")
    with pytest.raises(UnusableModel, match="wrapping computes '.*wrapped.*' by a compiled function"):
        explainer_of(opened(model), keys, 2)


class Held(keras.layers.Layer):
    """A convolution in a function of its own, which XLA compiles."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(3, 3, 3, 6))

    def call(self, x: Any) -> Any:
        return tf.function(lambda x: tf.nn.conv2d(x, self.kernel, 1, "SAME"), jit_compile=True)(x)


def test_a_convolution_that_keeps_its_weights_in_a_compiled_function_is_named(opened: Any) -> None:
    inputs = keras.Input((16, 16, 3))
    x = layers.GlobalAveragePooling2D()(Held(name="held")(inputs))
    model = keras.Model(inputs, layers.Dense(5)(x), name="holding")
    with pytest.raises(UnusableModel, match="holding computes '.*held.*' by a compiled function that holds its weights"):
        explainer_of(opened(model), KEYS, 2)


def test_an_operation_without_a_rule_is_named(opened: Any) -> None:
    inputs = keras.Input((8, 8, 3))
    x = keras.ops.cumsum(layers.Conv2D(4, 3, name="maps")(inputs), axis=1)
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)), name="summed")
    with pytest.raises(UnusableModel, match="summed computes .* by Cumsum, for which relevance propagation has no rule"):
        explainer_of(opened(model), [("lrp_zplus", None)], 1)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "float64"])
def test_a_network_of_another_precision_is_refused_by_name(opened: Any, policy: str) -> None:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu", dtype=policy)(inputs)
    model = keras.Model(inputs, layers.Dense(3, dtype=policy)(layers.GlobalAveragePooling2D(dtype=policy)(x)), name="reduced")
    with pytest.raises(UnusableModel, match=f"reduced computes in {policy.removeprefix('mixed_')} .*float32 alone"):
        explainer_of(opened(model), [("lrp_zplus", None)], 1)
