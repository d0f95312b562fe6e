"""The rule that finds the logits of a network: one for graphs of tensors and for tables of operations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.models.head import NONLINEARITIES, TRANSPARENT, Step, head_of
from pipeline.models.keras.model import keras_network


def head_of_steps(steps: Any, output: Any) -> Any:
    """The head of a graph that is written down as {value: (type, inputs)}."""
    return head_of(output, lambda value: Step(*steps[value]) if value in steps else None)


def test_the_logits_are_what_the_nonlinearity_takes_whatever_passes_its_output_on() -> None:
    behind = {
        kind: (kind, [made_from]) for kind, made_from in zip(sorted(TRANSPARENT), ["p", *sorted(TRANSPARENT)], strict=False)
    }
    for kind, called in NONLINEARITIES.items():
        head = head_of_steps({"p": (kind, ["z"]), **behind}, sorted(TRANSPARENT)[-1])
        assert (head.kind, head.logits) == (called, "z")


def test_without_a_nonlinearity_the_logits_are_the_output_and_not_what_it_passes_on() -> None:
    steps = {"shaped": ("Reshape", ["z", "shape"]), "z": ("BiasAdd", ["x", "b"])}
    assert head_of_steps(steps, "shaped").logits == "shaped" and head_of_steps(steps, "shaped").kind is None
    assert head_of_steps({"same": ("Identity", ["image"])}, "same").logits == "same"  # nothing in the graph made the image


def test_a_softmax_before_the_last_weights_is_no_head() -> None:
    steps = {"z": ("MatMul", ["attention", "w"]), "attention": ("Softmax", ["x"])}
    assert head_of_steps(steps, "z").kind is None


ENDS = {
    "softmax": lambda x: keras.layers.Dense(5, activation="softmax")(x),
    "log_softmax": lambda x: keras.layers.Dense(5, activation="log_softmax")(x),
    "softmax, then reshaped": lambda x: keras.layers.Reshape((1, 1, 5))(keras.layers.Dense(5, activation="softmax")(x)),
}


class Subclassed(keras.Model):
    """The layers of a functional model behind code of its own."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def call(self, x: Any) -> Any:
        return self.inner(x)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("family", ["functional", "subclassed", "frozen", "savedmodel"])
def test_every_family_of_networks_gives_the_same_logits(end: Any, family: Any, tmp_path: Path, opened_graph: Any) -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.Flatten()(keras.layers.Conv2D(4, 3, activation="relu")(inputs))
    model = keras.Model(inputs, ENDS[end](x))
    images = np.random.default_rng(0).random((3, 6, 6, 3), np.float32)
    if family == "functional":
        network = keras_network(model, "net", None, "none")
    elif family == "subclassed":
        subclassed = Subclassed(model)
        subclassed(images)
        network = keras_network(subclassed, "net", None, "none")
    else:
        network = opened_graph(model, family, tmp_path)
    logits = network.trace(tf.constant(images), ["logits"])["logits"]
    dense = next(layer for layer in model.layers if isinstance(layer, keras.layers.Dense))
    expected = keras.Model(inputs, x)(images) @ dense.kernel + dense.bias
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
