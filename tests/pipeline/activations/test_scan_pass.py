"""The compiled pass of a scan beside NumPy on the layer's own values."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.activations.member import Thresholds
from pipeline.activations.plan import ScanPlan
from pipeline.activations.scan_pass import ScanPass
from pipeline.models.keras.model import keras_network

CLAMPS: dict[str, tuple[Any, float]] = {  # and the floor of each
    "ReLU6": (keras.layers.ReLU(6), 0),
    "hard tanh": (lambda x: keras.ops.clip(x, -1, 1), -1),
}


@pytest.mark.parametrize("clamp", CLAMPS)
def test_a_map_that_never_leaves_its_lower_clamp_has_its_maximum_at_the_first_position(clamp: str) -> None:
    layer, floor = CLAMPS[clamp]
    inputs = keras.Input((6, 5, 3))
    kernel, bias = keras.initializers.RandomNormal(seed=0), keras.initializers.Constant([0, -9, 40, floor])
    network = keras_network(
        keras.Model(inputs, layer(keras.layers.Conv2D(4, 1, kernel_initializer=kernel, bias_initializer=bias)(inputs))),
        "net",
        None,
        "none",
    )
    name = network.layers()[-1].name
    images = np.random.default_rng(0).integers(0, 99, (3, 6, 5, 3), np.uint8)
    read = tf.function(lambda images: network.unclipped(images, [name])[name].value)
    raw = read(images.astype(np.float32)).numpy()
    every = Thresholds(*np.full((2, 1, 4), np.nan, np.float32))
    peaks = ScanPass(network, ScanPlan((network.layers()[-1],), None, 1, 3)).run(images, {name: every})[name]
    flat = raw.reshape(3, 30, 4)
    assert peaks.unclipped is not None
    np.testing.assert_allclose(peaks.unclipped, flat.max(axis=1), rtol=1e-5)
    positions = np.empty((3, 4), int)
    positions[peaks.images, peaks.channels] = peaks.rows * 5 + peaks.cols
    assert (flat.max(axis=1)[:, 1] == floor).any() and (flat.max(axis=1)[:, 2] > floor).all()
    np.testing.assert_array_equal(positions, flat.argmax(axis=1))
