"""Integrated gradients: complete on networks of several kinds, exact where a hand can calculate them, and alike in any batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from explaining import explain, explainer_of
from stirring import stir

from pipeline.attribution.methods.method import MethodSettings

layers = keras.layers
KEY = ("integrated_gradients", None)


def maps_of(network: Any, images: Any, classes: Any, batch: Any = None, **settings: Any) -> Any:
    explainer = explainer_of(network, [KEY], batch or len(images), classes.shape[1], settings=MethodSettings(**settings))
    return explainer, explain(explainer, images, classes).maps[KEY]


def network_of(build: Any) -> Any:
    inputs = keras.Input((16, 16, 3))
    return stir(keras.Model(inputs, build(inputs), name="built"))


def smooth(x: Any) -> Any:
    x = layers.Conv2D(6, 3, activation="gelu")(x)
    return layers.Dense(4, activation="softmax")(layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, activation="swish")(x)))


def clipped(x: Any) -> Any:
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, strides=2)(x))
    return layers.Dense(4)(layers.Flatten()(layers.DepthwiseConv2D(3)(layers.ReLU(6)(x))))


def pooled(x: Any) -> Any:
    x = layers.MaxPooling2D()(layers.Conv2D(8, 3, activation="relu")(x))
    return layers.Dense(4)(layers.GlobalMaxPooling2D()(layers.Conv2D(8, 3, activation="leaky_relu")(x)))


def grouped(x: Any) -> Any:
    x = layers.Conv2D(4, 3, activation="relu")(x)
    return layers.Dense(4)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, groups=2, activation="relu")(x)))


@pytest.mark.parametrize("build", [smooth, clipped, pooled, grouped])
def test_the_map_sums_to_the_difference_of_the_scores_within_one_percent(build: Any, opened: Any, photos: Any) -> None:
    images, classes = photos(2, 16, 16), np.array([[0, 3], [1, 2]], np.int32)
    explainer, maps = maps_of(opened(network_of(build)), images, classes)
    ends = (np.take_along_axis(explainer.logits(shown), classes, axis=1) for shown in (images, np.zeros_like(images)))
    image, black = ends
    assert maps.shape == (2, 2, 16, 16)
    np.testing.assert_allclose(maps.sum(axis=(2, 3)), image - black, rtol=0.01, atol=1e-4)


def test_a_linear_network_is_given_its_weights_times_the_pixels(opened: Any, photos: Any) -> None:
    inputs = keras.Input((4, 4, 3))
    model = stir(keras.Model(inputs, layers.Dense(3)(layers.Flatten()(inputs)), name="linear"))
    images = photos(1, 4, 4)
    _, maps = maps_of(opened(model), images, np.array([[2]], np.int32))
    by_hand = (images[0] / 255 * model.layers[-1].kernel.numpy()[:, 2].reshape(4, 4, 3)).sum(axis=-1)
    np.testing.assert_allclose(maps[0, 0], by_hand, rtol=1e-4, atol=1e-6)


def test_a_map_is_the_same_in_any_batch_and_more_steps_bring_it_nearer_to_completeness(opened: Any, photos: Any) -> None:
    network, images, classes = opened(network_of(clipped)), photos(3, 16, 16), np.array([[0], [1], [2]], np.int32)
    explainer, together = maps_of(network, images, classes)
    _, apart = maps_of(network, images, classes, batch=2)
    np.testing.assert_allclose(apart, together, rtol=1e-3, atol=1e-5)
    image, black = (np.take_along_axis(explainer.logits(shown), classes, axis=1) for shown in (images, np.zeros_like(images)))
    gaps = [
        np.abs(maps_of(network, images, classes, steps=steps)[1].sum(axis=(2, 3)) - (image - black)).max() for steps in (2, 256)
    ]
    assert gaps[1] < gaps[0] / 5


def test_any_number_of_steps_and_samples_runs_the_graph_that_was_compiled_once(rectified: Any, opened: Any, photos: Any) -> None:
    keys = [("integrated_gradients", None), ("smoothgrad", None)]
    explainer = explainer_of(opened(rectified), keys, 2, settings=MethodSettings(steps=4, samples=2))
    images, classes = photos(2, 16, 16), np.array([[1], [2]])
    with mock.patch.object(tf.graph_util, "import_graph_def", wraps=tf.graph_util.import_graph_def) as traced:
        explain(explainer, images, classes)
        assert traced.call_count == 1
        more = replace(explainer.plan, settings=MethodSettings(steps=40, samples=20))
        explain(replace(explainer, plan=more), images, classes)
        assert traced.call_count == 1
