"""Small networks with every kind of ReLU, and how they are opened."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from stirring import stir

from pipeline.models.head import OutputSpec
from pipeline.models.keras.model import keras_network

layers = keras.layers


@pytest.fixture(scope="session")
def rectified() -> Any:
    """16x16: fused relu, a ReLU6 layer, keras.ops.relu in a nested model, an Activation, and two convolutions at the end."""
    inner = inner_input = keras.Input((14, 14, 8))
    inner = keras.ops.relu(layers.BatchNormalization(name="norm")(layers.Conv2D(6, 3, padding="same", name="core")(inner)))
    nested = keras.Model(inner_input, layers.Conv2D(8, 3, strides=2, name="deep")(inner), name="inner")
    x = inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="first")(x)
    x = layers.ReLU(6, name="six")(nested(x))
    x = layers.Activation("relu", name="last")(layers.Conv2D(7, 3, name="end")(x) + 0.25)
    x = layers.Dense(9, activation="relu", name="hidden")(layers.GlobalAveragePooling2D(name="mean")(x))
    return stir(keras.Model(inputs, layers.Dense(5, activation="softmax", name="classes")(x), name="rectified"))


@pytest.fixture
def opened() -> Any:
    """A function: a Keras model as a network whose pixels are divided by 255."""
    return lambda model, **options: keras_network(model, model.name, None, "unit", OutputSpec(**options))


@pytest.fixture
def photos() -> Any:
    """A function: random uint8 RGB images."""
    return lambda *shape, seed=1: np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
