"""Frozen graphs with functions, loops and branches, and how digests tell graphs apart."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parent))

from frozen_graphs import (
    classify,
    convolve,
    freeze_v1,
    freeze_v2,
    frozen_with_phase,
    opened,
    plain,
    random_images,
    v1,
    weights,
    write,
)

from pipeline.activations import Activations
from pipeline.activations.heap_members import Strongest
from pipeline.activations.plan import ScanPlan
from pipeline.activations.scan import scan
from pipeline.compiled.compile import compile_tap


def test_functions_of_tf2_are_written_out_and_loops_run(tmp_path: Path) -> None:
    kernel = weights(3, 3, 3, 3, seed=2) / 3

    @tf.function(autograph=False)
    def block(x: Any) -> Any:
        with tf.name_scope("block"):
            return tf.nn.relu(convolve(x, kernel, name="conv"), name="relu")

    def network_(image: Any) -> Any:
        x = block(image)
        x = tf.cond(tf.reduce_sum(tf.abs(x)) > 0, lambda: x + 1.0, lambda: x - 1.0)  # the images decide
        _, x = tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, tf.nn.relu(convolve(x, kernel))), [0, x])
        return tf.identity(tf.reduce_mean(block(x), (1, 2)), name="end")

    concrete = tf.function(network_, autograph=False).get_concrete_function(tf.TensorSpec((None, 8, 8, 3), name="image"))
    definition = concrete.graph.as_graph_def()
    assert {node.op for node in definition.node} >= {"PartitionedCall", "StatelessIf", "StatelessWhile"}
    network = opened(write(tmp_path, definition))
    names = [layer.name for layer in network.layers()]
    assert sum(name.endswith("block/relu") for name in names) == 2
    images = random_images(2, 8, 8, 3)
    outputs = network.trace(images, ["end", "logits"])
    np.testing.assert_allclose(outputs["end"][:, 0, 0], network_(images), rtol=1e-4, atol=1e-5)
    x = tf.constant(images)
    with tf.GradientTape() as tape, tf.GradientTape() as by_hand:
        tape.watch(x)
        by_hand.watch(x)
        ours, theirs = network.trace(x, ["end"])["end"], network_(x)
    np.testing.assert_allclose(tape.gradient(ours, x), by_hand.gradient(theirs, x), rtol=1e-3, atol=1e-5)
    raw = (images * 40 + 120).astype(np.uint8)
    tapped = compile_tap(network, ["end"], 2)(raw)["end"][:, 0, 0]
    np.testing.assert_allclose(tapped, network_(tf.constant(raw, tf.float32)), rtol=1e-3)


@pytest.mark.parametrize("lower", [False, True])
def test_graphs_with_loops_are_scanned_piece_by_piece_too(
    tmp_path: Path, in_memory: Any, monkeypatch: pytest.MonkeyPatch, lower: Any
) -> None:
    monkeypatch.setattr("pipeline.compiled.microbatches.CACHED_BYTES", 1)
    kernel = tf.Variable(weights(3, 3, 3, 3, seed=2) / 3)

    def network_(image: Any) -> Any:
        _, x = tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, tf.nn.relu(convolve(x, kernel))), [0, image])
        return tf.nn.relu(x, name="end")

    path = freeze_v2(tmp_path, network_, tf.TensorSpec((None, 8, 8, 3), name="image"), lower=lower)
    images = np.random.default_rng(1).integers(0, 256, (13, 8, 8, 3), np.uint8)
    network = opened(path)
    (end,) = (layer for layer in network.layers() if layer.name == "end")
    part, _ = scan(network, in_memory(images), ScanPlan((end,), None, 5, 13))
    expected = Activations.empty(3, 5).update(network.trace(network.preprocess(images), ["end"])["end"].numpy(), np.arange(13))
    np.testing.assert_allclose(part.of(Strongest)["end"].heap.scores, expected.scores, rtol=1e-5)
    np.testing.assert_array_equal(part.of(Strongest)["end"].heap.examples, expected.examples)


@pytest.mark.parametrize("lower", [False, True])
def test_graphs_that_tf2_froze_are_read_with_their_loops_and_branches_lowered_or_not(tmp_path: Path, lower: Any) -> None:
    kernel = tf.Variable(weights(3, 3, 3, 3, seed=2) / 3)

    def network_(image: Any) -> Any:
        x = tf.function(lambda x: tf.nn.relu(convolve(x, kernel)), autograph=False)(image)
        x = tf.cond(tf.reduce_sum(x) > 0, lambda: x + 1.0, lambda: x - 1.0)
        _, x = tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, tf.nn.relu(convolve(x, kernel))), [0, x])
        return tf.reduce_mean(x, (1, 2), name="end")

    path = freeze_v2(tmp_path, network_, tf.TensorSpec((None, 8, 8, 3), name="image"), lower=lower)
    images = random_images(2, 8, 8, 3)
    outputs = opened(path).trace(images, ["end", "logits"])
    np.testing.assert_allclose(outputs["logits"], network_(tf.constant(images)), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(outputs["end"][:, 0, 0], outputs["logits"])


def test_loops_of_tf1_run_too(tmp_path: Path, conditions_of_tf1: Any) -> None:
    def build() -> None:
        image = v1.placeholder(tf.float32, (None, 8, 8, 3), name="input")
        _, x = v1.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, x * 0.5 + 1.0), [tf.constant(0), image])
        convolve(x, weights(3, 3, 3, 4), name="end")

    path = freeze_v1(tmp_path, build)
    network = opened(path)
    images = random_images(2, 8, 8, 3)
    expected = convolve(images / 8 + 1.75, weights(3, 3, 3, 4))
    np.testing.assert_allclose(network.trace(images, ["end"])["end"], expected, rtol=1e-4, atol=1e-5)
    assert not [layer.name for layer in network.layers() if layer.name.startswith("while/Identity")]
    raw = (images * 40 + 120).astype(np.uint8)
    expected = convolve(raw / np.float32(8) + 1.75, weights(3, 3, 3, 4))
    np.testing.assert_allclose(compile_tap(network, ["end"], 2)(raw)["end"], expected, rtol=1e-3, atol=1e-2)


def test_a_branch_of_tf1_that_images_decide_runs_but_is_no_layer(tmp_path: Path, conditions_of_tf1: Any) -> None:
    def build() -> None:
        image = v1.placeholder(tf.float32, (None, 8, 8, 3), name="input")
        x = convolve(image, weights(3, 3, 3, 4), name="conv")
        bright = v1.cond(tf.reduce_mean(image) > 0, lambda: tf.nn.relu(x, name="inside"), lambda: -x)
        tf.multiply(bright, 2.0, name="end")

    network = opened(freeze_v1(tmp_path, build))
    assert [layer.name for layer in network.layers()] == ["conv", "cond/Merge", "end"]
    for shift in (5, -5):
        images = random_images(2, 8, 8, 3) + shift
        x = convolve(images, weights(3, 3, 3, 4))
        expected = 2 * (tf.nn.relu(x) if shift > 0 else -x)
        np.testing.assert_allclose(network.trace(images, ["end"])["end"], expected, rtol=1e-4, atol=1e-4)


# ---- digests


def test_the_digest_tells_weights_inputs_and_preprocessing_apart_and_nothing_else(tmp_path: Path) -> None:
    path = freeze_v1(tmp_path, plain, ["end"])
    one = opened(path).digest()
    assert len(one) == 16 and opened(path).digest() == one

    def build() -> None:
        plain()
        v1.placeholder(tf.float32, name="unused")
        tf.constant(3.0, name="nobody_takes_it")

    beside = freeze_v1(tmp_path, build, ["end", "nobody_takes_it"], name="beside")
    assert opened(beside).digest() == one
    assert opened(path, preprocess="unit").digest() != one
    assert opened(freeze_v1(tmp_path, lambda: plain((None, 8, 10, 3)), ["end"], name="wide")).digest() != one
    phase = frozen_with_phase(tmp_path, "Switch")
    digests = {opened(phase, inputs={"phase_train": False, "keep_prob": keep}).digest() for keep in (0.5, 1.0)}
    assert len(digests) == 2


def test_logits_are_found_before_the_argmax_that_a_graph_ends_in(tmp_path: Path) -> None:
    """The logits are found behind an ArgMax, which nobody can differentiate."""

    def build() -> None:
        x = convolve(v1.placeholder(tf.float32, (None, 8, 8, 3), name="input"), weights(3, 3, 3, 4))
        tf.argmax(classify(x, name="scores"), axis=1, name="answer")

    network = opened(freeze_v1(tmp_path, build, ["answer"]))
    outputs = network.trace(random_images(2, 8, 8, 3), ["logits", "scores"])
    np.testing.assert_array_equal(outputs["logits"], outputs["scores"][:, 0, 0])
