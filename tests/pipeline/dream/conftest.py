"""Small networks to dream of: one smooth, for finite differences; one that cannot be dreamed of everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.models.keras_network import KerasNetwork


def _weighted(model, seed):
    random = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(random.normal(0, 0.3, variable.shape))
    return model


@pytest.fixture(scope="session")
def smooth():
    """12x12 RGB -> `first` (10x10x4), `second` (4x4x5), 3 classes; twice differentiable everywhere."""
    import keras

    x = inputs = keras.Input((12, 12, 3))
    x = keras.layers.Conv2D(4, 3, activation="tanh", name="first")(x)
    x = keras.layers.Conv2D(5, 3, strides=2, activation="softplus", name="second")(x)
    x = keras.layers.Flatten(name="flat")(x)
    outputs = keras.layers.Dense(3, activation="softmax", name="classes")(x)
    return KerasNetwork(_weighted(keras.Model(inputs, outputs), 1), "smooth", None, "unit")


@pytest.fixture(scope="session")
def rough():
    """12x12 RGB -> `edges` (rectified: channel 0 never wakes, channel 1 goes to infinity), `steps` (no gradient)."""
    import keras

    inputs = keras.Input((12, 12, 3))
    edges = keras.layers.Conv2D(4, 3, activation="relu", name="edges")(inputs)
    steps = keras.layers.Lambda(lambda maps: keras.ops.floor(maps), name="rounded")(edges)
    model = _weighted(keras.Model(inputs, keras.layers.Conv2D(2, 3, name="steps")(steps)), 2)
    kernel, bias = (variable.numpy() for variable in model.get_layer("edges").weights)
    kernel[..., 0], bias[0] = -abs(kernel[..., 0]), -1.0
    model.get_layer("edges").set_weights([kernel, bias])
    return KerasNetwork(model, "rough", None, "unit")
