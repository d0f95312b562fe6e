"""Small networks for ascents: a smooth one, for finite differences; and those on which an ascent may fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.models.keras.model import keras_network


def _network(build: Any, seed: Any = 0) -> Any:
    """A network of 12x12 RGB, from a function of its input; random weights."""
    import keras

    inputs = keras.Input((12, 12, 3))
    model = keras.Model(inputs, build(keras, inputs), name=build.__name__.strip("_"))
    random = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(random.normal(0, 0.3, variable.shape))
    return keras_network(model, model.name, None, "unit")


@pytest.fixture(scope="session")
def smooth() -> Any:
    """`first` (10x10x4), `second` (4x4x5), 3 classes; twice differentiable everywhere."""

    def smooth(keras: Any, x: Any) -> Any:
        x = keras.layers.Conv2D(4, 3, activation="tanh", name="first")(x)
        x = keras.layers.Conv2D(5, 3, strides=2, activation="softplus", name="second")(x)
        return keras.layers.Dense(3, activation="softmax", name="classes")(keras.layers.Flatten(name="flat")(x))

    return _network(smooth, 1)


@pytest.fixture(scope="session")
def cliff() -> Any:
    """`light`: the picture itself, but NaN everywhere as soon as its mean red is over 0.6."""

    def cliff(keras: Any, x: Any) -> Any:
        red = keras.ops.mean(x[..., :1], axis=(1, 2), keepdims=True)
        return keras.layers.Activation("linear", name="light")(x + 0.0 * keras.ops.log(0.6 - red))

    return _network(cliff)


@pytest.fixture(scope="session")
def silent() -> Any:
    """`eyes`, with ReLU: channel 0 always fires, 1 where it is very red, 2 never, 3 in the dark; `cut`, behind a floor."""

    def silent(keras: Any, x: Any) -> Any:
        x = keras.layers.Conv2D(4, 3, activation="relu", name="eyes")(x)
        return keras.layers.Conv2D(2, 3, name="cut")(keras.ops.floor(x))

    network = _network(silent)
    kernel = np.zeros((3, 3, 3, 4), np.float32)
    kernel[..., 0] = 0.1
    kernel[:, :, 0, 1] = 1
    kernel[..., 2], kernel[..., 3] = -1, -1
    network.reader.model.get_layer("eyes").set_weights([kernel, np.array([0, -7, -1, 3], np.float32)])
    return network
