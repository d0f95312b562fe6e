"""Heads: what the outputs of a network mean, and the evidence before its last nonlinearity, whatever kind of file it is in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import UnusableModel, WrongSpec
from pipeline.models.ending import NONLINEARITIES, TRANSPARENT, Ending, Step, ending_of
from pipeline.models.head import Activation, Head, OutputSpec, describe, softmax
from pipeline.models.keras.model import keras_network
from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec

layers, ops = keras.layers, keras.ops
PIXELS = np.random.default_rng(0).random((3, 8, 8, 3), np.float32)


def ending_of_steps(steps: Any, output: str) -> Ending[str]:
    """The ending of a graph that is written down as {value: (type, inputs)}, or {value: number} for constants."""

    def step(value: str) -> Any:
        made = steps.get(value)
        return Step("Const", [], made) if isinstance(made, float) else Step(*made) if made else None

    return ending_of(output, step)


def test_the_evidence_is_what_the_nonlinearity_takes_whatever_passes_its_output_on() -> None:
    kinds = sorted(TRANSPARENT)
    behind = {kind: (kind, [made_from]) for kind, made_from in zip(kinds, ["p", *kinds], strict=False)}
    for kind, called in NONLINEARITIES.items():
        ending = ending_of_steps({"p": (kind, ["z"]), **behind}, kinds[-1])
        assert (ending.activation.name, ending.evidence) == (called, "z")


def test_without_a_nonlinearity_the_evidence_is_the_output_and_not_what_it_passes_on() -> None:
    steps = {"shaped": ("Reshape", ["z", "shape"]), "z": ("BiasAdd", ["x", "b"]), "b": ("Const", [])}
    assert ending_of_steps(steps, "shaped").evidence == "shaped" and not ending_of_steps(steps, "shaped").activation.name
    assert ending_of_steps({"same": ("Identity", ["image"])}, "same").evidence == "same"  # nothing in the graph made the image


def test_a_softmax_before_the_last_weights_is_no_head() -> None:
    steps = {"z": ("MatMul", ["attention", "w"]), "attention": ("Softmax", ["x"])}
    ending = ending_of_steps(steps, "z")
    assert not ending.activation.name and ending.weighted


def test_a_softmax_of_other_numbers_than_it_is_divided_by_is_none() -> None:
    steps = {"p": ("RealDiv", ["e", "s"]), "e": ("Exp", ["x"]), "s": ("Sum", ["other"]), "other": ("Exp", ["y"])}
    assert not ending_of_steps(steps, "p").activation.name
    assert ending_of_steps({**steps, "other": ("Exp", ["x"])}, "p").activation.name == "softmax"


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "softplus", "softsign", "elu", "relu", "exp", "softmax", "log_softmax"])
def test_activations_are_those_of_tensorflow(name: str) -> None:
    z = np.linspace(-5, 5, 12).reshape(3, 4).astype(np.float32)
    theirs = getattr(tf.nn, name, None) or getattr(tf.math, name)
    np.testing.assert_allclose(Activation(name, 2.0, -1.0)(z), 2 * theirs(z) - 1, rtol=1e-5, atol=1e-6)


def dense(units: int, **options: Any) -> Callable[[Any], Any]:
    return lambda x: layers.Dense(units, name="last", **options)(x)


def written_softmax(x: Any) -> Any:
    z = dense(4)(x)
    powers = ops.exp(z - ops.max(z, axis=-1, keepdims=True))
    return powers / ops.sum(powers, axis=-1, keepdims=True)


# An end, the head that is inferred, and the evidence by hand: from z, what Dense gives.
ENDS: dict[str, tuple[Callable[[Any], Any], str, Callable[[Any], Any]]] = {
    "sigmoid of one": (dense(1, activation="sigmoid"), "sigmoid", lambda z: np.hstack([-z, z])),
    "sigmoid layer": (lambda x: layers.Activation("sigmoid")(dense(1)(x)), "sigmoid", lambda z: np.hstack([-z, z])),
    "sigmoid written out": (lambda x: 1 / (1 + ops.exp(-dense(1)(x))), "sigmoid", lambda z: np.hstack([-z, z])),
    "sigmoid by tanh": (lambda x: 0.5 * ops.tanh(dense(1)(x)) + 0.5, "sigmoid", lambda z: np.hstack([-z, z])),
    "sigmoid taken from one": (lambda x: 1 - ops.sigmoid(dense(1)(x)), "sigmoid", lambda z: np.hstack([z, -z])),
    "hard sigmoid": (dense(1, activation="hard_sigmoid"), "sigmoid", lambda z: np.hstack([-z, z])),
    "Keras 2's hard sigmoid": (lambda x: ops.clip(0.2 * dense(1)(x) + 0.5, 0, 1), "sigmoid", lambda z: 0.2 * np.hstack([-z, z])),
    "sigmoids": (dense(14, activation="sigmoid"), "sigmoid", lambda z: z),
    "sigmoids behind Dropout": (lambda x: layers.Dropout(0.5)(dense(6, activation="sigmoid")(x)), "sigmoid", lambda z: z),
    "softmax": (dense(5, activation="softmax"), "softmax", lambda z: z),
    "log_softmax": (dense(5, activation="log_softmax"), "softmax", lambda z: z),
    "softmax written out": (written_softmax, "softmax", lambda z: z),
    "softmax at a temperature": (lambda x: layers.Softmax()(dense(4)(x) / 2.5), "softmax", lambda z: z / 2.5),
    "softmax, clipped": (lambda x: ops.clip(dense(3, activation="softmax")(x), 1e-7, 1 - 1e-7), "softmax", lambda z: z),
    "softmax, reshaped": (lambda x: layers.Reshape((1, 1, 5))(dense(5, activation="softmax")(x)), "softmax", lambda z: z),
    "tanh": (dense(2, activation="tanh"), "linear", lambda z: z),
    "a rating": (lambda x: layers.Rescaling(4.0, 1.0)(dense(1, activation="sigmoid")(x)), "linear", lambda z: z),
    "softplus": (dense(3, activation="softplus"), "linear", lambda z: z),
    "one number": (dense(1), "linear", lambda z: z),
    "several numbers": (dense(3), "softmax", lambda z: z),
    "normed": (
        lambda x: layers.UnitNormalization()(dense(8)(x)),
        "embedding",
        lambda z: z / np.linalg.norm(z, axis=1, keepdims=True),
    ),
    "features": (dense(8, activation="relu"), "embedding", lambda z: np.maximum(z, 0)),
}
ASSUMED = {"one number", "several numbers", "normed", "features"}


def model_of(end: Callable[[Any], Any]) -> tuple[Any, Any]:
    """A small network with an end, and z of its last Dense layer for PIXELS."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8, 8, 3))
    features = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, activation="relu", name="conv")(inputs))
    model = keras.Model(inputs, end(features), name="net")
    last = model.get_layer("last")
    last.kernel.assign(3 * last.kernel)
    z = keras.Model(inputs, features)(PIXELS) @ last.kernel + last.bias
    return model, np.asarray(z)


class Subclassed(keras.Model):
    """The layers of a functional model behind code of its own."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def call(self, x: Any) -> Any:
        return self.inner(x)


@pytest.mark.parametrize(
    ("end", "family"),
    [
        # A SavedModel is opened as the graph that a frozen file holds, only slower: a few ends show that.
        pytest.param(end, family, marks=[pytest.mark.slow] if family == "savedmodel" and number % 6 else [])
        for number, end in enumerate(ENDS)
        for family in ("functional", "subclassed", "frozen", "savedmodel")
    ],
)
def test_every_family_of_networks_gives_the_evidence_before_the_last_nonlinearity(
    end: str, family: str, tmp_path: Path, opened_graph: Any
) -> None:
    build, kind, evidence_of = ENDS[end]
    model, z = model_of(build)
    if family == "functional":
        network = keras_network(model, "net", None, "none")
    elif family == "subclassed":
        subclassed = Subclassed(model)
        subclassed(PIXELS)
        network = keras_network(subclassed, "net", None, "none")
    else:
        network = opened_graph(model, family, tmp_path)
    evidence = network.trace(tf.constant(PIXELS), ["logits"])["logits"].numpy()
    np.testing.assert_allclose(evidence, evidence_of(z), rtol=1e-4, atol=1e-5)
    head, outputs = network.head(), model(PIXELS).numpy().reshape(3, -1)
    assert (head.kind, head.assumed) == (kind, end in ASSUMED)
    probabilities = head.probabilities(evidence)
    if head.kind == "sigmoid":
        both = np.hstack([1 - outputs, outputs]) if outputs.shape[1] == 1 else outputs
        np.testing.assert_allclose(probabilities, both, atol=1e-5)
    elif head.kind == "softmax" and not head.assumed:
        np.testing.assert_allclose(probabilities, np.exp(outputs) if end == "log_softmax" else outputs, atol=1e-5)
    elif head.kind == "linear":
        assert probabilities is None
        np.testing.assert_allclose(head.activation(evidence), outputs, rtol=1e-4, atol=1e-5)


def head_with(end: str, **known: Any) -> Head:
    return keras_network(model_of(ENDS[end][0])[0], "net", None, "none", OutputSpec(**known)).head()


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        ("mse", "linear"),
        ("binary_crossentropy", "sigmoid"),
        ("sparse_categorical_crossentropy", "softmax"),
        ("cosine_similarity", "embedding"),
    ],
)
def test_the_loss_that_a_model_was_compiled_with_decides_what_its_graph_leaves_open(loss: str, kind: str) -> None:
    head = head_with("several numbers", loss=loss)
    assert (head.kind, head.assumed) == (kind, False) and loss in head.reason
    assert head_with("softmax", loss=loss).kind == "softmax"  # which is not open


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("loss", ["mean_squared_error", keras.losses.MeanSquaredError()])
def test_the_loss_is_read_from_the_file(suffix: str, loss: Any, tmp_path: Path) -> None:
    model, _ = model_of(dense(3))
    model.compile(loss=loss)
    path = tmp_path / f"net.{suffix}"
    model.save(path)
    head = open_network(ModelSpec(source=f"file:{path}", layers=["conv"], preprocess="none")).head()
    assert head.kind == "linear" and "mean_squared_error" in str(head)


def test_named_classes_make_raw_numbers_a_softmax_without_a_doubt() -> None:
    head = head_with("several numbers", classes_named=True)
    assert (head.kind, head.assumed) == ("softmax", False) and "model.labels" in head.reason


@pytest.mark.parametrize(
    ("end", "named", "evidence", "probabilities"),
    [
        ("one number", "sigmoid", lambda z: np.hstack([-z, z]), lambda z: 1 / (1 + np.exp(-np.hstack([-z, z])))),
        ("several numbers", "sigmoid", lambda z: z, lambda z: 1 / (1 + np.exp(-z))),
        ("several numbers", "softmax", lambda z: z, softmax),
        ("several numbers", "linear", lambda z: z, None),
        ("several numbers", "embedding", lambda z: z, None),
        ("sigmoids", "linear", lambda z: z, None),
        ("softmax", "embedding", softmax, None),
    ],
)
def test_a_head_that_the_job_names_is_taken_at_its_word(end: str, named: Any, evidence: Any, probabilities: Any) -> None:
    model, z = model_of(ENDS[end][0])
    network = keras_network(model, "net", None, "none", OutputSpec(head=named))
    given = network.trace(tf.constant(PIXELS), ["logits"])["logits"].numpy()
    np.testing.assert_allclose(given, evidence(z), rtol=1e-4, atol=1e-5)
    said = network.head().probabilities(given)
    if probabilities is None:
        assert said is None
    else:
        np.testing.assert_allclose(said, probabilities(z), rtol=1e-4)
    assert str(network.head()) == f"{named} (model.head)"


@pytest.mark.parametrize(
    ("end", "named", "words"),
    [
        ("sigmoids", "softmax", "'softmax', but net ends in a sigmoid"),
        ("softmax", "sigmoid", "'sigmoid', but net ends in a softmax"),
        ("tanh", "sigmoid", "'sigmoid', but net ends in a tanh"),
        ("several numbers", "map", "net has no logits|one vector an image"),
    ],
)
def test_a_head_that_the_network_cannot_have_is_refused(end: str, named: Any, words: str) -> None:
    with pytest.raises((WrongSpec, UnusableModel), match=words):
        head_with(end, head=named)


def test_numbers_are_said_as_what_they_are() -> None:
    assert describe("softmax", 0.931, None) == "93.1%" and describe("sigmoid", 0.931, None) == "0.93 (sigmoid)"
    assert describe("linear", None, 3.2) == "output 3.2" and describe("embedding", None, 0.71) == "similarity 0.71"
