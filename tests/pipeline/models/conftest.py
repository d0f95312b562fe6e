"""Small networks of every shape of graph, and what the caller's model looks like from outside."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.compiled.tf_private import graph_with_constants
from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec


def stir(model: Any, seed: Any = 0) -> Any:
    """Give every weight a random value, so that no normalisation is an identity."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(random.uniform(0.2, 0.8, variable.shape) - (0.5 if "kernel" in variable.path else 0.0))
    return model


@pytest.fixture
def plain_model() -> Any:
    """conv, normalisation, relu, dropout, pool, dense with a softmax inside: 16x16 RGB, 5 classes."""
    x = inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(6, 3, strides=2, padding="same", name="conv")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.ReLU(name="relu")(x)
    x = keras.layers.Dropout(0.5, name="drop")(x)
    x = keras.layers.Conv2D(8, 3, name="deep")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dense(5, activation="softmax", name="classes")(x)
    return stir(keras.Model(inputs, x, name="plain"))


@pytest.fixture
def nested_model(plain_model: Any) -> Any:
    """A model in a model in a model, a shared layer, and an op that is no layer."""
    inner_input = keras.Input((None, None, 6))
    inner = keras.Model(inner_input, keras.layers.Conv2D(4, 3, name="core")(inner_input), name="inner")
    middle = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(6, 1, name="first"), inner], name="middle")
    x = inputs = keras.Input((12, 12, 3))
    shared = keras.layers.Conv2D(3, 1, name="shared")
    x = shared(shared(x))
    x = keras.ops.relu(middle(x + 0.5))
    x = keras.layers.GlobalMaxPooling2D(name="pool")(x)
    return stir(keras.Model(inputs, keras.layers.Softmax(name="end")(keras.layers.Dense(4, name="dense")(x)), name="outer"))


@pytest.fixture
def digest_of() -> Any:
    """A function: a digest of everything a stage could change in a model."""

    def digest(model: Any) -> Any:
        text = json.dumps(model.get_config(), default=str, sort_keys=True)
        nodes = [len(layer._inbound_nodes) for layer in model.layers]
        weights = b"".join(keras.ops.convert_to_numpy(value).tobytes() for value in model.variables)
        flags = [layer.trainable for layer in model.layers]
        return hashlib.sha256(text.encode() + weights).hexdigest(), nodes, flags

    return digest


@pytest.fixture
def pixels() -> Any:
    """A function: random uint8 RGB images."""
    return lambda *shape, seed=1: np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.fixture
def opened_graph() -> Any:
    """A function: a Keras model written as a graph of a kind, "frozen" or "savedmodel", in a folder, and opened."""

    def opened(model: Any, kind: Any, folder: Any) -> Any:
        path = folder / ("net.pb" if kind == "frozen" else "net")
        if kind == "frozen":
            spec = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
            concrete = tf.function(lambda x: model(x, training=False), autograph=False).get_concrete_function(spec)
            path.write_bytes(graph_with_constants(concrete).SerializeToString())
        else:
            model.export(path, verbose=False)
        return open_network(ModelSpec(source=f"{kind}:{path}", layers=["*"], preprocess="none"))

    return opened
