"""Checks of maps: likeness, random weights from the top, pixels taken away and brought back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from explaining import compile_explanations, explain, explainer_of, stored
from scipy.stats import spearmanr
from stirring import stir

from pipeline.attribution.explainer import Explained, ImageBatch
from pipeline.attribution.methods.method import LayerOutput
from pipeline.attribution.sanity.deletion import STEPS, DeletionCurves, deleted, inserted, ranks
from pipeline.attribution.sanity.similarity import rank_correlation, structure
from pipeline.attribution.sanity.weight_randomisation import WeightRandomisation
from pipeline.compiled.graph_walk import last_convolution
from pipeline.drawing import plots
from pipeline.drawing.pixels import decode_png
from pipeline.geometry import Box
from pipeline.models.head import softmax
from pipeline.models.registry import open_network
from pipeline.sources.picking import Picked
from pipeline.sources.source import Image
from pipeline.spec.model import ModelSpec

layers = keras.layers


def randomised(network: Any, keys: Any, images: Any, classes: Any, **options: Any) -> Any:
    """For each step: how many weights are random, the layer of the last, and what is said then."""
    randomisation = WeightRandomisation(explainer_of(network, keys, len(images), with_weights=True), **options)
    return randomisation.weights, [
        (step, layer, explain(random, images, classes)) for step, layer, random in randomisation.steps()
    ]


def test_rank_correlation_is_spearmans_with_ties() -> None:
    random = np.random.default_rng(0)
    for _ in range(5):
        first, other = random.integers(0, 6, (2, 7, 7)).astype(np.float32)
        assert rank_correlation(first, other) == pytest.approx(spearmanr(first.ravel(), other.ravel()).statistic)
    assert rank_correlation(first, first) == pytest.approx(1) and rank_correlation(first, -first) == pytest.approx(-1)
    assert rank_correlation(first, np.ones_like(first)) == 0


def test_structure_is_one_for_the_same_map_and_near_zero_for_noise() -> None:
    random = np.random.default_rng(0)
    first, other = random.random((2, 64, 64))
    assert structure(first, 3 * first) == pytest.approx(1)
    assert abs(structure(first, other)) < 0.2
    small = random.random((4, 4))
    assert structure(small, small) == pytest.approx(1) and structure(small, small[::-1]) < 0.9


def test_random_weights_start_at_the_logits_and_the_network_stays_as_it_was(rectified: Any, opened: Any, photos: Any) -> None:
    network, images = opened(rectified), photos(2, 16, 16)
    keys, classes = [("gradcam", "last"), ("guided_backprop", None)], np.array([[1], [3]], np.int32)
    before = [value.numpy().copy() for value in rectified.weights]
    weights, steps = randomised(network, keys, images, classes)
    assert [weight.layer for weight in weights] == ["logits", "hidden", "end", "inner/deep", "inner/core", "first"]
    assert [step for step, _, _ in steps] == [0, 1, 2, 3, 4, 5, 6]
    assert [layer for _, layer, _ in steps] == ["", "logits", "hidden", "end", "inner/deep", "inner/core", "first"]
    own = compile_explanations(network, keys, 2, 1)(images, classes)
    np.testing.assert_allclose(steps[0][2].logits, own.logits, rtol=1e-5)
    for key in keys:
        np.testing.assert_allclose(steps[0][2].maps[key], own.maps[key], rtol=1e-4, atol=1e-7)
    differences = [np.abs(actual.logits - own.logits).max() for _, _, actual in steps[1:]]
    assert min(differences) > 1e-3
    assert all(np.array_equal(value.numpy(), kept) for value, kept in zip(rectified.weights, before, strict=True))
    _, again = randomised(network, keys, images, classes, most_steps=3)
    assert [step for step, _, _ in again] == [0, 1, 2, 4, 6]
    assert np.array_equal(again[3][2].logits, steps[4][2].logits)  # the same random numbers every time
    # The same random numbers put in by hand, those of one layer after the other, and none taken back.
    own_weights, random = rectified.get_weights(), np.random.default_rng(0)
    try:
        for _, name, actual in steps:
            if name:
                outer, _, inner = name.replace("logits", "classes").partition("/")
                layer = rectified.get_layer(outer)
                kernel = (layer.get_layer(inner) if inner else layer).kernel
                kernel.assign(random.normal(0, float(kernel.numpy().std()), kernel.shape))
            np.testing.assert_allclose(softmax(actual.logits), rectified(images / 255.0, training=False), rtol=1e-3, atol=1e-6)
    finally:
        rectified.set_weights(own_weights)


@pytest.mark.parametrize("kind", ["live", "frozen"])
def test_weights_of_grouped_convolutions_are_made_random_too(kind: str, opened: Any, photos: Any, tmp_path: Path) -> None:
    x = inputs = keras.Input((10, 10, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="stem")(x)
    x = layers.Conv2D(4, 3, groups=2, name="pairs")(x)
    x = layers.Conv2D(4, 3, groups=4, activation="relu", name="alone")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = stir(keras.Model(inputs, layers.Dense(3, name="classes")(x), name="grouped"))
    before, own_network, images = model.get_weights(), opened(model), photos(2, 10, 10)
    saved = ModelSpec(source=stored(model, "frozen", tmp_path), layers=["*"], preprocess="unit")
    network = own_network if kind == "live" else open_network(saved)
    keys, classes = [("gradcam", last_convolution(network).name), ("guided_backprop", None)], np.array([[1], [2]], np.int32)
    weights, steps = randomised(network, keys, images, classes)
    names = ["classes", "alone", "pairs", "stem"]
    assert kind == "frozen" or [weight.layer for weight in weights] == names
    assert [weight.values.shape for weight in weights] == [model.get_layer(name).kernel.shape for name in names]
    assert [layer for _, layer, _ in steps] == ["", *(weight.layer for weight in weights)]
    assert all(np.array_equal(weight, kept) for weight, kept in zip(model.get_weights(), before, strict=True))
    _, again = randomised(network, keys, images, classes)
    # The same network, the same random numbers put in by hand.
    random = np.random.default_rng(0)
    for name, (_, _, actual), (_, _, repeated) in zip(["", *names], steps, again, strict=True):
        if name:
            kernel = model.get_layer(name).kernel
            kernel.assign(random.normal(0, float(kernel.numpy().std()), kernel.shape))
        own_keys = [("gradcam", "alone"), keys[1]]
        own = compile_explanations(own_network, own_keys, 2, 1)(images, classes)
        np.testing.assert_allclose(actual.logits, own.logits, rtol=1e-5)
        for key, own_key in zip(keys, own_keys, strict=True):
            np.testing.assert_allclose(actual.maps[key], own.maps[own_key], rtol=1e-4, atol=1e-7)
            assert np.array_equal(actual.maps[key], repeated.maps[key])
    assert np.abs(steps[0][2].logits - steps[-1][2].logits).max() > 1e-2


def test_weights_of_attention_and_of_matrix_products_are_randomised_too(opened: Any) -> None:
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Reshape((9, 4))(layers.Conv2D(4, 3, strides=2, name="stem")(x))
    x = layers.EinsumDense("abc,cd->abd", output_shape=(9, 4), name="mixed")(x)
    x = layers.MultiHeadAttention(2, 2, name="looked")(x, x)
    model = stir(keras.Model(inputs, layers.Dense(3, name="classes")(layers.GlobalAveragePooling1D()(x)), name="attentive"))
    weights = explainer_of(opened(model), [("gradient", None)], 1, with_weights=True).graph.weights
    looked = [(2, 2, 4), (4, 2, 2), (4, 2, 2), (4, 2, 2)]  # from its output back to its value, key and query
    assert [weight.values.shape for weight in weights] == [(4, 3), *looked, (4, 4), (3, 3, 3, 4)]


def test_deletion_and_insertion_are_plotted_apart() -> None:
    def drawn(**changed: Any) -> Any:
        columns = {"method": [], "layer": [], "kind": [], "share": [], "probability": [], "value": []}
        for kind, height in ({"deletion": 0.4, "insertion": 0.6} | changed).items():
            for share in (0.0, 0.5, 1.0):
                for name, value in zip(columns, ("gradcam", "end", kind, share, height * share, height * share), strict=True):
                    columns[name].append(value)
        picture = decode_png(plots.curves(columns))
        return picture[:, : picture.shape[1] // 2], picture[:, picture.shape[1] // 2 :]

    plain, less, more = drawn(), drawn(deletion=0.2), drawn(insertion=0.9)
    assert (plain[0] != less[0]).any() and (plain[1] == less[1]).all()
    assert (plain[0] == more[0]).all() and (plain[1] != more[1]).any()


def test_pixels_go_and_come_in_the_order_of_the_map() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    values = np.arange(64, dtype=np.float32).reshape(8, 8)  # the last pixel matters most
    order, shares = ranks(values, 8, 8), np.linspace(0, 1, 5)
    assert order[7, 7] == 0 and order[0, 0] == 63 / 64
    signed = np.zeros((8, 8, 3), np.float32)
    signed[2, 5], signed[6, 1] = (-2, 3, -2), (0, 6, 0)  # what speaks against the class matters too
    assert ranks(signed, 8, 8)[2, 5] == 0 and ranks(signed, 8, 8)[6, 1] == 1 / 64
    gone, come = deleted(image, order, shares), inserted(image, order, shares)
    assert (gone[0] == image).all() and (come[-1] == image).all()
    mean = image.reshape(-1, 3).mean(axis=0).round()
    assert (gone[-1] == mean).all()
    assert (gone[2, 4:] == mean).all() and (gone[2, :4] == image[:4]).all()  # half
    assert (come[2, 4:] == image[4:]).all() and (come[2, :4] == come[0, :4]).all()
    assert np.abs(np.diff(come[0].astype(int), axis=1)).max() < np.abs(np.diff(image.astype(int), axis=1)).max()


def test_curves_fall_and_rise_for_a_map_that_points_at_what_the_network_looks_at() -> None:
    import tensorflow as tf

    class Corner:
        """Sees how rough its upper left quarter is, and nothing else."""

        name, input_shape = "corner", (32, 32, 3)

        def preprocess(self, images: Any) -> Any:
            return tf.cast(images, tf.float32) / 255

        def trace(self, images: Any, layers: Any) -> Any:
            steps = tf.abs(images[:, :16, 1:16] - images[:, :16, :15])
            seen = tf.reduce_mean(steps, axis=(1, 2, 3))
            return {"logits": tf.stack([40 * seen, tf.zeros_like(seen) + 7], axis=1)}

    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    right, wrong = np.zeros((2, 32, 32), np.float32)
    right[:16, :16], wrong[16:, 16:] = 1, 1
    curves = DeletionCurves(explainer_of(Corner(), [("gradient", None)], 4))
    picked = Picked(0, Image("a.png", None, image, Box(0, 0, 32, 32)), image)
    maps = {("gradcam", "right"): right[None, None], ("gradcam", "wrong"): wrong[None, None]}
    batch = ImageBatch([picked], image[np.newaxis], [[0]])
    curves.add(Explained(batch, np.zeros((1, 2)), np.array([[0]]), [[0]], maps))
    columns = curves.columns
    area = {
        (layer, kind): np.mean(
            [
                p
                for p, of_layer, of_kind in zip(columns["probability"], columns["layer"], columns["kind"], strict=True)
                if (of_layer, of_kind) == (layer, kind)
            ]
        )
        for layer in ("right", "wrong")
        for kind in ("deletion", "insertion")
    }
    assert len(columns["share"]) == 84 and columns["share"][0] == 0 and columns["share"][20] == 1
    assert area["right", "deletion"] < area["wrong", "deletion"] - 0.2
    assert area["right", "insertion"] > area["wrong", "insertion"] + 0.1
    assert curves.plot().startswith(b"\x89PNG")


def test_independent_randomisation_leaves_the_layers_above_as_they_were(rectified: Any, opened: Any) -> None:
    network = opened(rectified)
    explainer = explainer_of(network, [("gradcam", "last")], 2, with_weights=True)
    weights = explainer.graph.weights
    changed = []

    class Graph:
        def __init__(self) -> None:
            self.weights = weights

        def with_weights(self, values: Any) -> Any:
            changed.append([weight.layer for weight in weights if weight.source in values])
            return explainer.run

    steps = list(WeightRandomisation(replace(explainer, graph=Graph())).steps(cascading=False))
    layers = [weight.layer for weight in weights]
    assert [layer for _, layer, _ in steps] == ["", *layers] and changed == [[], *([layer] for layer in layers)]


def test_passes_with_other_weights_use_them_behind_a_layer_and_behind_masks_too(rectified: Any, opened: Any) -> None:
    explainer = explainer_of(opened(rectified), [("ablationcam", "last")], 2, with_weights=True)
    graph, images, classes = explainer.graph, np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)), np.array([[0], [1]])
    last = graph.weights[0]
    run = graph.with_weights({last.source: 2 * last.values})
    answer = run(images, classes, [LayerOutput("last")])
    assert not np.allclose(answer.scores, graph.run(images, classes, ()).scores)
    behind_layer = run.scores_from("last", answer.values[LayerOutput("last")], images, classes)
    np.testing.assert_allclose(behind_layer, answer.scores, rtol=1e-5)
    pairs = tf.constant(np.stack([images, np.zeros_like(images)], axis=1), tf.float32)
    behind_masks = run.behind(pairs, np.array([1, 0]), np.ones((2, 16, 16), np.float32), classes[::-1])
    np.testing.assert_allclose(behind_masks, answer.scores[::-1], rtol=1e-5)


def test_every_step_of_a_curve_deletes_as_many_pixels() -> None:
    """Also where a share is a hair more than a number of pixels, as 3 / 20 of 400 is."""
    order = ranks(np.arange(400.0).reshape(20, 20), 20, 20)
    images = deleted(np.arange(1200, dtype=np.float32).reshape(20, 20, 3), order, np.linspace(0, 1, STEPS + 1))
    changed = (images != images[0]).any(axis=-1).sum(axis=(1, 2))
    np.testing.assert_array_equal(changed, np.arange(0, 401, 20))
