"""Convolutions in groups by plain operations: of the same numbers as Keras's own, in graphs that hold no call."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.models.keras.grouped_convolutions import without_compiled_convolutions

layers = keras.layers

LAYERS: dict[str, dict[str, Any]] = {
    "one for every channel": {"filters": 12, "groups": 12},
    "two for every channel": {"filters": 24, "groups": 12, "padding": "same"},
    "groups": {"filters": 8, "groups": 4},
    "strides": {"filters": 12, "groups": 12, "strides": 2, "padding": "same"},
    "strides that differ": {"filters": 12, "groups": 12, "strides": (1, 2)},
    "dilated": {"filters": 12, "groups": 12, "dilation_rate": 2},
    "dilated groups": {"filters": 6, "groups": 3, "dilation_rate": (1, 2), "padding": "same"},
    "groups with strides": {"filters": 6, "groups": 3, "strides": 2},
    "all channels": {"filters": 5},
}


def traced(model: Any) -> Any:
    spec = tf.TensorSpec((2, *model.input_shape[1:]), tf.float32)
    return tf.function(lambda x: model(x, training=False), autograph=False).get_concrete_function(spec)


def kinds(function: Any) -> set[str]:
    return {operation.type for operation in function.graph.get_operations()}


@pytest.mark.parametrize("name", LAYERS)
def test_they_give_what_keras_gives_without_a_call(name: str) -> None:
    model = keras.Sequential([keras.Input((11, 13, 12)), layers.Conv2D(kernel_size=3, **LAYERS[name])])
    images = tf.random.stateless_normal((2, 11, 13, 12), (0, 1))
    with without_compiled_convolutions():
        ours = traced(model)
    np.testing.assert_allclose(ours(images), model(images), rtol=1e-5, atol=1e-5)
    assert not {kind for kind in kinds(ours) if "Call" in kind}
    every_channel = LAYERS[name].get("groups") == 12 and name != "strides that differ"
    assert ("DepthwiseConv2dNative" in kinds(ours)) == every_channel


def test_their_gradients_are_those_of_keras() -> None:
    model = keras.Sequential([keras.Input((9, 9, 6)), layers.Conv2D(12, 3, groups=3), layers.Conv2D(12, 3, groups=12)])
    images = tf.random.stateless_normal((2, 9, 9, 6), (0, 1))

    def slopes(x: tf.Tensor) -> Any:
        return tf.gradients(model(x, training=False) ** 2, x)[0]

    right = tf.function(slopes, autograph=False)(images)
    with without_compiled_convolutions():
        ours = tf.function(slopes, autograph=False)(images)
    np.testing.assert_allclose(ours, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((9, 6), lambda: layers.Conv1D(6, 3, groups=3)),
        ((9, 6), lambda: layers.Conv1D(12, 3, groups=6, strides=2, padding="same")),
        ((9, 6), lambda: layers.Conv1D(6, 3, groups=2, dilation_rate=2, padding="causal")),
        ((6, 9, 9), lambda: layers.Conv2D(6, 3, groups=3, data_format="channels_first")),
        ((6, 9, 8), lambda: layers.Conv2D(12, 3, groups=6, strides=2, padding="same", data_format="channels_first")),
    ],
)
def test_convolutions_of_rows_and_with_channels_first_are_plain_operations_too(shape: Any, layer: Any) -> None:
    model = keras.Sequential([keras.Input(shape), layer()])
    images = tf.random.stateless_normal((2, *shape), (0, 1))
    with without_compiled_convolutions():
        ours = traced(model)
    np.testing.assert_allclose(ours(images), model(images), rtol=1e-5, atol=1e-5)
    assert not {kind for kind in kinds(ours) if "Call" in kind}


def test_convolutions_of_volumes_in_groups_stay_as_keras_has_them() -> None:
    volume = keras.Sequential([keras.Input((5, 6, 7, 4)), layers.Conv3D(4, 3, groups=2)])
    with without_compiled_convolutions():
        assert {kind for kind in kinds(traced(volume)) if "Call" in kind}
