"""Ends whose graph does not say what their numbers are: probabilities of several softmaxes, or of one over other axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import UnusableModel, WrongSpec
from pipeline.models.head import OutputSpec
from pipeline.models.keras.model import keras_network

layers, ops = keras.layers, keras.ops
PIXELS = np.random.default_rng(0).random((3, 8, 8, 3), np.float32)


def softmax_at_positions(x: Any) -> Any:
    return layers.Conv2D(4, 1, activation="softmax")(x)


def two(x: Any, activation: str, units: int) -> list[Any]:
    pooled = layers.GlobalAveragePooling2D()(x)
    return [layers.Dense(units, activation)(pooled), layers.Dense(units, activation)(layers.Flatten()(x))]


def pairs(x: Any) -> Any:
    return layers.Softmax()(layers.Reshape((3, 2))(layers.Dense(6)(layers.Flatten()(x))))


def divided(y: Any) -> Any:
    return y / ops.sum(y, axis=-1, keepdims=True)


# By name: the end, the kind, whether that is assumed, and whether its probabilities are the network's own outputs.
ENDS: dict[str, tuple[Callable[[Any], Any], str, bool]] = {
    "a softmax at every position, and the mean": (
        lambda x: layers.GlobalAveragePooling2D()(softmax_at_positions(x)),
        "softmax",
        False,
    ),
    "the mean of two softmaxes": (lambda x: layers.Average()(two(x, "softmax", 5)), "softmax", False),
    "sigmoids that are made to sum to one": (lambda x: divided(two(x, "sigmoid", 3)[0]), "softmax", False),
    "numbers above zero that are made to sum to one": (lambda x: divided(two(x, "softplus", 3)[0]), "softmax", True),
    "the mean of two sigmoids": (lambda x: layers.Average()(two(x, "sigmoid", 1)), "sigmoid", True),
    "two softmaxes side by side": (lambda x: layers.Concatenate()(two(x, "softmax", 2)), "sigmoid", True),
    "a softmax of pairs": (lambda x: layers.Flatten()(pairs(x)), "sigmoid", True),
    "a map that was made larger": (
        lambda x: layers.UpSampling2D(interpolation="bilinear")(softmax_at_positions(x)),
        "map",
        False,
    ),
    "a softmax over all positions": (
        lambda x: layers.Reshape((6, 6, 4))(layers.Softmax()(layers.Flatten()(layers.Conv2D(4, 1)(x)))),
        "map",
        True,
    ),
}


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """A model for each end."""
    keras.utils.set_random_seed(3)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(5, 3)(image)
    return {name: keras.Model(image, make(x)) for name, (make, *_) in ENDS.items()}


@pytest.mark.parametrize("name", ENDS)
def test_outputs_that_are_probabilities_already_are_taken_as_they_are(models: dict[str, Any], name: str) -> None:
    network = keras_network(models[name], "net", None, "none", OutputSpec(classes_named=True, loss="categorical_crossentropy"))
    head = network.head()
    assert (head.kind, head.assumed) == ENDS[name][1:]
    probabilities = head.probabilities(network.trace(tf.constant(PIXELS), ["logits"])["logits"].numpy())
    outputs = models[name](PIXELS).numpy()
    assert np.ptp(outputs) > 0.01
    np.testing.assert_allclose(probabilities[..., -outputs.shape[-1] :], outputs, atol=2e-6)


def test_features_between_zero_and_one_are_no_probabilities() -> None:
    image = keras.Input((8, 8, 3))
    x = layers.ReLU(1.0)(layers.Conv2D(5, 3, activation="tanh")(image))
    network = keras_network(keras.Model(image, layers.GlobalMaxPooling2D()(x)), "net", None, "none")
    assert network.head().kind == "embedding"


def test_probabilities_that_are_mixed_with_other_numbers_are_none() -> None:
    image = keras.Input((8, 8, 3))
    x = layers.Flatten()(layers.Conv2D(5, 3)(image))
    mixed = layers.Average()([layers.Dense(3, "softmax")(x), layers.ReLU(1.0)(layers.Dense(3)(x))])
    network = keras_network(keras.Model(image, mixed), "net", None, "none")
    assert network.head().kind == "embedding"


def test_a_softmax_named_for_numbers_that_do_not_sum_to_one_is_refused(models: dict[str, Any]) -> None:
    with pytest.raises(
        WrongSpec, match=r'"softmax".*Softmax over another axis|over another axis.*do not sum to 1.*model\.logits'
    ):
        keras_network(models["a softmax of pairs"], "net", None, "none", OutputSpec(head="softmax")).head()
    named = keras_network(models["the mean of two softmaxes"], "net", None, "none", OutputSpec(head="softmax")).head()
    assert named.of_probabilities and not named.assumed


@pytest.mark.parametrize(("scale", "kind"), [(-1.0, "linear"), (100.0, "softmax")])
def test_one_less_a_softmax_is_no_softmax_but_percent_are(scale: float, kind: str) -> None:
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, scale * layers.Dense(3, "softmax")(layers.Flatten()(image)) + (scale < 0))
    network = keras_network(model, "net", None, "none")
    evidence = network.trace(tf.constant(PIXELS), ["logits"])["logits"].numpy()
    assert network.head().kind == kind
    np.testing.assert_allclose(network.head().activation(evidence), model(PIXELS), rtol=1e-4, atol=1e-6)


def test_what_a_sigmoid_may_mean_otherwise_is_said() -> None:
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 3, padding="same", activation="sigmoid")(image)
    picture = keras_network(keras.Model(image, x), "net", None, "none").head()
    assert (picture.kind, picture.assumed) == ("map", True) and '"embedding"' in picture.why
    mean = keras.Model(image, layers.Dense(1, "sigmoid")(layers.Flatten()(x)))
    regression = keras_network(mean, "net", None, "none", OutputSpec(loss="mse")).head()
    assert (regression.kind, regression.assumed) == ("sigmoid", True) and 'model.head = "linear"' in regression.why
    assert not keras_network(mean, "net", None, "none", OutputSpec(loss="binary_crossentropy")).head().assumed


def test_a_map_of_numbers_alone_is_asked_for() -> None:
    image = keras.Input((8, 8, 3))
    with pytest.raises(UnusableModel, match="model.head"):
        keras_network(keras.Model(image, layers.Conv2D(4, 3)(image)), "net", None, "none").head()
