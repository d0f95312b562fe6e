"""One small network, and images for it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest


@pytest.fixture
def plain_model() -> Any:
    """conv, normalisation, relu, a deeper convolution, pooling: 16x16 RGB, random weights."""
    x = inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(6, 3, strides=2, padding="same", name="conv")(x)
    x = keras.layers.ReLU(name="relu")(keras.layers.BatchNormalization(name="norm")(x))
    x = keras.layers.Conv2D(8, 3, name="deep")(x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="pool")(x), name="plain")
    random = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(random.uniform(0.2, 0.8, variable.shape) - (0.5 if "kernel" in variable.path else 0.0))
    return model


@pytest.fixture
def pixels() -> Any:
    """A function: random uint8 RGB images."""
    return lambda *shape: np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
