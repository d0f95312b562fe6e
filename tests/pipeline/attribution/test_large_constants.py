"""Networks whose weights are given to functions instead of lying inside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from explaining import explain, explainer_of

from pipeline.attribution.explainer import Explainer
from pipeline.compiled import large_constants
from pipeline.compiled.compile import compile_tap
from pipeline.compiled.freezing import FrozenGraph, freeze
from pipeline.compiled.gradients import gradient_of
from pipeline.models.keras.model import keras_network


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every constant of four numbers or more counts as large."""
    monkeypatch.setattr(large_constants, "SMALL_GRAPH", 0)
    monkeypatch.setattr(large_constants, "LARGE", 16)


@pytest.fixture(scope="module")
def network() -> Any:
    """Convolutions, one depthwise and one in groups, which XLA compiles, with a batch normalisation that is not the identity."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    image = x = keras.Input((16, 16, 3))
    convolutions = (
        layers.Conv2D(8, 3, padding="same"),
        layers.DepthwiseConv2D(3, 2),
        layers.Conv2D(16, 1),
        layers.Conv2D(16, 3, groups=4),
    )
    for number, convolution in enumerate(convolutions):
        x = layers.ReLU(name=f"relu{number}")(layers.BatchNormalization()(convolution(x)))
    x = layers.Dense(128, "relu")(layers.GlobalAveragePooling2D(name="mean")(x))
    model = keras.Model(image, layers.Dense(5, name="logits")(x))
    random = np.random.default_rng(0)
    model.set_weights([random.normal(0.5, 0.3, weight.shape).clip(0.1) for weight in model.get_weights()])
    return keras_network(model, "normalised", None, "symmetric")


@pytest.fixture(scope="module")
def pixels() -> Any:
    """A function: random uint8 RGB images."""
    return lambda *shape: np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)


def largest_inside(graph: FrozenGraph) -> int:
    """The largest constant of floats inside a graph, in bytes."""
    constants = (node.attr["value"].tensor for node in graph.graph.node if node.op == "Const")
    return max(len(value.tensor_content) for value in constants if value.dtype == tf.float32.as_datatype_enum)


def both(make: Callable[[], Any], request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """What is made with constants inside, and with all of them given."""
    before = make()
    request.getfixturevalue("all_large")
    return before, make()


def test_maps_are_the_same(network: Any, pixels: Any, request: pytest.FixtureRequest) -> None:
    names = [layer.name for layer in network.layers()]
    here, given = both(lambda: compile_tap(network, names, 2)(tf.constant(pixels(2, 16, 16))), request)
    assert len(names) >= 9
    for name in names:
        np.testing.assert_allclose(given[name], here[name], rtol=1e-4, atol=1e-5)


def test_explanations_are_the_same(network: Any, pixels: Any, request: pytest.FixtureRequest) -> None:
    """Also those behind masks, and those of a layer's output in the place of the network's own."""
    keys = [("gradcam", "relu1"), ("ablationcam", "relu1"), ("guided_backprop", None), ("occlusion", None)]
    images, classes = pixels(2, 16, 16), np.array([[3, 0], [1, 4]])
    here, given = both(lambda: explainer_of(network, keys, 2, 2), request)
    assert not here.graph.frozen.given and len(given.graph.frozen.given) > 5 and largest_inside(given.graph.frozen) < 16
    first, second = (explain(explainer, images, classes).maps for explainer in (here, given))
    for key in keys:
        assert np.abs(first[key]).max() > 0
        np.testing.assert_allclose(second[key], first[key], rtol=1e-3, atol=1e-4 * np.abs(first[key]).max())


def test_other_weights_take_the_place_of_large_constants(network: Any, pixels: Any, request: pytest.FixtureRequest) -> None:
    keys = [("gradcam", "relu1")]
    here, given = both(lambda: explainer_of(network, keys, 2, with_weights=True), request)

    def doubled(explainer: Explainer) -> np.ndarray:
        run = explainer.graph.with_weights({weight.source: weight.values * 2 for weight in explainer.graph.weights})
        return explainer.with_run(run).logits(pixels(2, 16, 16))

    first, second = doubled(here), doubled(given)
    assert not np.allclose(first, here.logits(pixels(2, 16, 16)), rtol=0.1)
    np.testing.assert_allclose(second, first, rtol=1e-4)


def test_a_loop_over_the_network_is_the_same(network: Any, pixels: Any, request: pytest.FixtureRequest) -> None:
    def descend(images: tf.Tensor) -> tf.Tensor:
        def step(number: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            score = tf.reduce_sum(network.trace(x, ["relu2"])["relu2"] ** 2)
            return number + 1, x - 0.01 * gradient_of(score, x)

        return tf.while_loop(lambda number, _: number < 3, step, (0, images))[1]

    start = pixels(2, 16, 16).astype(np.float32) / 255
    here, given = both(lambda: freeze(descend, tf.TensorSpec((2, 16, 16, 3)))(start).numpy(), request)
    assert np.abs(here - start).max() > 1e-3
    np.testing.assert_allclose(given, here, rtol=1e-4, atol=1e-6)


def test_a_small_graph_stays_as_it_is(network: Any) -> None:
    frozen = FrozenGraph.of(lambda x: network.trace(x, ["relu0"])["relu0"], tf.TensorSpec((1, 16, 16, 3)))
    light = frozen.without_large_constants()
    assert light.graph is frozen.graph and not light.given
