"""Explanations of transformers, against a forward pass written out by hand and differentiated by a tape."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import token_networks
from explaining import compile_explanations

from pipeline.attribution.explanation_graph import check_explanations
from pipeline.attribution.methods.method import AtAttention
from pipeline.errors import UnusableModel
from pipeline.models.keras.model import keras_network

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
CLASSES = np.array([[0, 2], [1, 0]], np.int32)
METHODS = [("attention_rollout", None), ("attention_gradients", None), ("gradcam", "norm1a")]


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(1)
    made = token_networks.vit()
    for variable in made.weights:
        if "kernel" in variable.path:
            variable.assign(variable * 2.0)
    return made


@pytest.fixture(scope="module")
def maps(model: keras.Model) -> dict[Any, np.ndarray]:
    network = keras_network(model, "vit", None, "unit")
    return compile_explanations(network, METHODS, 2, 2)(IMAGES, CLASSES).maps


def by_hand(model: keras.Model, image: np.ndarray, target: int) -> tuple[list[Any], list[Any], Any, Any]:
    """The attention of the blocks, its gradients, the input norm of the last block, and its gradient."""

    def layer(name: str) -> Any:
        return model.get_layer(name)

    with tf.GradientTape(persistent=True) as tape:
        x = layer("places")(layer("embed")(layer("patches")(tf.constant(image[np.newaxis] / np.float32(255)))))
        attention = []
        for number in range(2):
            norm = layer(f"norm{number}a")(x)
            tape.watch(norm)
            mha = layer(f"mha{number}")
            query, key, value = (dense(norm) for dense in (mha.query_dense, mha.key_dense, mha.value_dense))
            scores = tf.nn.softmax(tf.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(4.0), axis=-1)
            tape.watch(scores)
            attention.append(scores)
            x = x + mha.output_dense(tf.einsum("bhqk,bkhd->bqhd", scores, value))
            x = x + layer(f"mlp{number}")(layer(f"hidden{number}")(layer(f"norm{number}b")(x)))
        classes = layer("classes")
        score = (tf.matmul(layer("norm")(x)[:, 0], classes.kernel) + classes.bias)[0, target]
    gradients = [tape.gradient(score, weights) for weights in attention]
    return attention, gradients, norm, tape.gradient(score, norm)


def test_rollout_and_weighed_attention_are_what_their_papers_say(model: keras.Model, maps: Any) -> None:
    for number, target in np.ndindex(2, 2):
        attention, gradients, _, _ = by_hand(model, IMAGES[number], int(CLASSES[number, target]))
        rollout, weighed = np.eye(17), np.eye(17)
        for weights, gradient in zip(attention, gradients, strict=True):
            heads = np.asarray(weights)[0]
            rollout = (heads.mean(axis=0) + np.eye(17)) / 2 @ rollout
            weighed = weighed + np.maximum(heads * np.asarray(gradient)[0], 0).mean(axis=0) @ weighed
        for name, expected in (("attention_rollout", rollout), ("attention_gradients", weighed)):
            own = expected[0, 1:].reshape(4, 4)
            assert own.max() > 0
            np.testing.assert_allclose(maps[name, None][number, target], own, rtol=1e-4, atol=1e-7)


def test_gradcam_at_a_layer_of_tokens_is_that_of_a_tape(model: keras.Model, maps: Any) -> None:
    for number, target in np.ndindex(2, 2):
        _, _, norm, gradient = by_hand(model, IMAGES[number], int(CLASSES[number, target]))
        tokens, slopes = (np.asarray(values)[0, 1:].reshape(4, 4, 8) for values in (norm, gradient))
        expected = np.maximum((tokens * slopes.mean(axis=(0, 1))).sum(axis=-1), 0)
        np.testing.assert_allclose(maps["gradcam", "norm1a"][number, target], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("convmixer", "it has no attention between tokens"),
        ("swin", "looks at other tokens than it looks from, or within windows"),
    ],
)
def test_what_has_no_attention_of_all_with_all_is_refused_before_work_starts(name: str, reason: str) -> None:
    network = keras_network(getattr(token_networks, name)(), name, None, "none")
    with pytest.raises(UnusableModel, match=reason):
        check_explanations(network, [], [AtAttention()])
