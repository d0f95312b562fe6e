"""Guided backpropagation: every ReLU is replaced, wherever it stands, and nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from explaining import compile_explanations
from stirring import stir

from pipeline.attribution.explanation_graph import check_explanations
from pipeline.attribution.methods.method import AtPixels
from pipeline.errors import UnusableModel

layers = keras.layers
BOTH = [("gradient", None), ("guided_backprop", None)]


@tf.custom_gradient
def guided_relu(x: Any) -> Any:
    return tf.nn.relu(x), lambda dy: dy * tf.cast((x > 0) & (dy > 0), dy.dtype)


@tf.custom_gradient
def guided_relu6(x: Any) -> Any:
    return tf.nn.relu6(x), lambda dy: dy * tf.cast((x > 0) & (x < 6) & (dy > 0), dy.dtype)


class Guided(layers.Layer):  # type: ignore[name-defined]
    """A ReLU with the gradient of Springenberg's paper, written by hand."""

    def __init__(self, function: Any, **options: Any) -> None:
        super().__init__(**options)
        self.function = function

    def call(self, x: Any) -> Any:
        return self.function(x)

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


def rebuilt(model: Any) -> Any:
    """The same network with every ReLU written by hand: layers, fused activations, nested models."""

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if isinstance(layer, keras.Model):
            inner = keras.models.clone_model(layer, clone_function=clone)
            inner.name = layer.name
            return inner
        if isinstance(layer, layers.ReLU) or (
            config.get("activation") in ("relu", "relu6") and isinstance(layer, layers.Activation)
        ):
            six = config.get("max_value") == 6 or config.get("activation") == "relu6"
            return Guided(guided_relu6 if six else guided_relu, name=layer.name)
        copy = layer.__class__.from_config(config)
        if config.get("activation") == "relu":
            copy.activation = guided_relu
        return copy

    twin = keras.models.clone_model(model, clone_function=clone)
    twin.set_weights(model.get_weights())
    return twin


def by_tape(model: Any, images: Any, number: Any) -> Any:
    """The gradient of a logit by pixels, by the model's own gradients, one image at a time."""
    actual = []
    for image in images:
        pixels = tf.constant(image[np.newaxis], tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            score = model(tf.cast(pixels / 255, model.dtype), training=False)[0, number]
        actual.append(tape.gradient(score, pixels).numpy()[0])
    return np.stack(actual)


def guided(network: Any, images: Any, number: Any = 1) -> Any:
    run = compile_explanations(network, BOTH, len(images), 1)
    outputs = run(images, np.full((len(images), 1), number, np.int32))
    return outputs.maps["gradient", None][:, 0], outputs.maps["guided_backprop", None][:, 0], run.guide, outputs.logits


def small(build: Any, seed: Any = 0) -> Any:
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(6, 3, name="stem")(inputs)
    x = layers.Conv2D(5, 3, name="end")(build(x))
    return stir(keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)), name="small"), seed)


def test_guided_backprop_is_that_of_a_network_rebuilt_by_hand(opened: Any, photos: Any) -> None:
    inner_input = keras.Input((10, 10, 6))
    inner = keras.Model(inner_input, layers.ReLU()(layers.BatchNormalization()(inner_input)), name="inner")
    model = small(lambda x: layers.Activation("relu")(layers.Conv2D(6, 3, activation="relu")(layers.ReLU(6)(inner(x) * 3))))
    images = photos(3, 12, 12)
    plain, ours, guide, logits = guided(opened(model), images)
    reference = by_tape(rebuilt(model), images, 1)
    assert guide.rule == "relu" and guide.replaced == 4
    assert np.abs(ours - reference).max() < 1e-4 * np.abs(reference).max()
    assert np.abs(ours - plain).max() > 0.05 * np.abs(plain).max()
    np.testing.assert_allclose(plain, by_tape(model, images, 1), rtol=1e-3, atol=1e-6 * np.abs(plain).max() + 1e-9)
    assert np.allclose(logits, model(images / 255.0, training=False), atol=1e-4)


@pytest.fixture
def double() -> Iterator[Any]:
    """Networks of float64: in float32 a last bit opens a ReLU in one batch that is shut in another, now and then."""
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VGG16", "ResNet50", "MobileNetV2", "DenseNet121", "Xception"])
def test_five_great_networks_agree_with_their_copies_by_hand(name: Any, opened: Any, photos: Any, double: Any) -> None:
    model = stir_lightly(
        getattr(keras.applications, name)(weights=None, input_shape=(96, 96, 3), classes=10, classifier_activation=None)
    )
    images = photos(2, 96, 96)
    plain, ours, guide, _ = guided(opened(model), images)
    reference = by_tape(rebuilt(model), images, 1)
    assert guide.rule == "relu" and guide.replaced > 10
    assert np.abs(ours - reference).max() < 1e-4 * np.abs(reference).max()
    assert np.abs(ours - plain).max() > 0.05 * np.abs(plain).max()


def stir_lightly(model: Any) -> Any:
    """Normalisation that does something: what was just built has means of 0 and variances of 1."""
    random = np.random.default_rng(0)
    for variable in model.weights:
        if variable.path.endswith(("moving_mean", "beta", "bias")):
            variable.assign(random.normal(0, 0.1, variable.shape))
    return model


def test_the_forward_pass_is_the_same_to_the_last_bit(rectified: Any, opened: Any, photos: Any) -> None:
    network, images = opened(rectified), photos(4, 16, 16)
    classes = np.zeros((4, 1), np.int32)
    plain = compile_explanations(network, [("gradient", None)], 4, 1)(images, classes)
    both = compile_explanations(network, BOTH, 4, 1)(images, classes)
    assert np.array_equal(plain.logits, both.logits)
    assert np.array_equal(plain.maps["gradient", None], both.maps["gradient", None])
    assert not np.array_equal(both.maps["gradient", None], both.maps["guided_backprop", None])


def through(activation: Any, values: Any, above: Any) -> Any:
    """What comes back through one activation: by the rule, for some inputs and some gradients from above."""

    class One:
        name, input_shape = "one", (1, len(values), 3)

        def trace(self, images: Any, names: Any) -> Any:
            x = tf.constant(values)[tf.newaxis, tf.newaxis, :, tf.newaxis] + 0 * images
            return {"logits": tf.reduce_sum(activation(x) * tf.constant(above)[:, tf.newaxis], axis=(1, 2))}

        def preprocess(self, images: Any) -> Any:
            return images

    class Fed(One):  # the activation's input is the pixels themselves, so that what comes back can be read there
        def trace(self, images: Any, names: Any) -> Any:
            x = images - tf.stop_gradient(images) + tf.constant(values)[:, tf.newaxis]
            return {"logits": tf.reduce_sum(activation(x) * tf.constant(above)[:, tf.newaxis], axis=(1, 2))}

    images = np.zeros((1, 1, len(values), 3), np.uint8)
    run = compile_explanations(Fed(), BOTH, 1, 1)
    outputs = run(images, np.zeros((1, 1), np.int32))
    return outputs.maps["guided_backprop", None][0, 0, 0, :, 0], outputs.maps["gradient", None][0, 0, 0, :, 0], run.guide


VALUES = np.array([-2, -0.5, 0.5, 5.9, 6.0, 7.0] * 2, np.float32)
ABOVE = np.array([1.0] * 6 + [-1.0] * 6, np.float32)


@pytest.mark.parametrize(
    ("activation", "expected", "replaced"),
    [
        (tf.nn.relu, [0, 0, 1, 1, 1, 1], 1),
        (tf.nn.relu6, [0, 0, 1, 1, 0, 0], 1),  # open below 6, shut at 6
        (lambda x: tf.nn.leaky_relu(x, 0.25), [0.25, 0.25, 1, 1, 1, 1], 1),
        (lambda x: tf.maximum(x, 0.0), [0, 0, 1, 1, 1, 1], 1),
        (lambda x: tf.maximum(0.25 * x, x), [0.25, 0.25, 1, 1, 1, 1], 1),
        (lambda x: keras.ops.relu(x), [0, 0, 1, 1, 1, 1], 1),
        (lambda x: keras.activations.relu(x, max_value=6.5), [0, 0, 1, 1, 1, 0], 1),
        (lambda x: keras.activations.relu(x, threshold=0.7), [0, 0, 0, 1, 1, 1], 1),
        (lambda x: tf.where(x >= 0.7, x, 0.0), [0, 0, 0, 1, 1, 1], 1),
        (lambda x: keras.activations.relu(x, negative_slope=0.25, max_value=6.5), [0.25, 0.25, 1, 1, 1, 0], 1),
        (lambda x: keras.activations.relu(x, negative_slope=0.25, threshold=0.7), [0.25, 0.25, 0.25, 1, 1, 1], 1),
        (lambda x: tf.nn.relu(x) - 0.25 * tf.nn.relu(-x), [0.25, 0.25, 1, 1, 1, 1], 1),
        (lambda x: tf.nn.relu(tf.nn.relu6(x)), [0, 0, 1, 1, 0, 0], 2),
        (lambda x: tf.nn.relu(tf.nn.elu(x)), [0, 0, 1, 1, 1, 1], 1),  # where there are ReLUs, what is smooth stays
    ],
)
def test_every_form_of_rectifier_lets_nothing_negative_back(activation: Any, expected: Any, replaced: Any) -> None:
    back, plain, guide = through(activation, VALUES, ABOVE)
    assert guide.rule == "relu" and guide.replaced == replaced
    np.testing.assert_allclose(back, [*expected, *[0] * 6], atol=1e-6)
    np.testing.assert_allclose(plain[6:], -plain[:6], atol=1e-6)


@pytest.mark.parametrize(
    "activation",
    [
        tf.nn.silu,
        lambda x: x * tf.sigmoid(x),
        lambda x: x * tf.sigmoid(1.702 * x),
        tf.nn.gelu,
        lambda x: tf.nn.gelu(x, approximate=True),
        keras.activations.mish,
        tf.nn.elu,
        tf.nn.selu,
        tf.nn.softplus,
    ],
)
def test_a_network_of_smooth_activations_has_a_rule_for_them(activation: Any) -> None:
    back, plain, guide = through(activation, VALUES, ABOVE)
    assert guide == type(guide)("smooth", 1)
    np.testing.assert_allclose(back, [*plain[:6], *[0] * 6], atol=1e-6)
    assert plain[6:].any()


def test_what_is_no_activation_is_left_alone() -> None:
    with pytest.raises(UnusableModel, match="no ReLU"):
        through(lambda x: x * tf.sigmoid(tf.reduce_mean(x, axis=2, keepdims=True)), VALUES, ABOVE)  # a gate of all places
    for other in (tf.tanh, lambda x: tf.maximum(x, 0.25 * tf.reverse(x, [2]))):  # the larger of two places
        with pytest.raises(UnusableModel, match="no ReLU"):
            through(other, VALUES, ABOVE)


def test_a_network_without_anything_to_guide_is_refused_at_once(opened: Any) -> None:
    network = opened(small(lambda x: layers.Activation("tanh")(x)))
    check_explanations(network, ["end"])
    with pytest.raises(UnusableModel, match="would be the plain gradient"):
        check_explanations(network, ["end"], [AtPixels("guided")])


def test_a_rectifier_inside_a_function_is_never_passed_over(opened: Any) -> None:
    hidden = tf.function(tf.nn.relu, jit_compile=True)

    class Hidden(layers.Layer):  # type: ignore[name-defined]
        def call(self, x: Any) -> Any:
            return hidden(x)

        def compute_output_shape(self, shape: Any) -> Any:
            return shape

    network = opened(small(lambda x: Hidden()(layers.ReLU()(x))))
    with pytest.raises(UnusableModel, match="inside a function"):
        check_explanations(network, ["end"], [AtPixels("guided")])
