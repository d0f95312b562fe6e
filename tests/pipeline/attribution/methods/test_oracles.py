"""Every method against a calculation of its own: loops in NumPy around the network, and gradients by a tape."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from explaining import explain, explainer_of, stored
from stirring import stir

from pipeline.attribution import heat
from pipeline.attribution.baselines import baseline
from pipeline.attribution.methods import METHODS
from pipeline.attribution.methods.method import MethodSettings
from pipeline.attribution.methods.rise import masks
from pipeline.attribution.methods.superpixel_models import lime_coefficients, shapley_coalitions, shapley_values
from pipeline.attribution.plan import MERGED
from pipeline.errors import UnusableModel
from pipeline.models.head import softmax
from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec

layers = keras.layers
LAYER = "last"
TESTED_APART = ("deconvnet", *(name for name in METHODS if name.startswith(("lrp_", "attention_"))))
KEYS = [(name, LAYER if method.looks_at == "layer" else None) for name, method in METHODS.items() if name not in TESTED_APART]
CLASSES = np.array([[4, 1], [0, 3]], np.int32)
SETTINGS = MethodSettings(
    steps=48,
    baseline="mean",
    samples=20,
    patch=0.25,
    segments=4,
    references=np.random.default_rng(5).integers(0, 256, (3, 16, 16, 3)).astype(np.float32),
)


@dataclass
class Bench:
    """A network of several parts, the maps that convscope makes of two images and two classes each, and calls of the parts."""

    network: Any
    images: np.ndarray
    explainer: Any
    explained: Any
    head: Any
    tail: Any

    def maps(self, name: str) -> np.ndarray:
        """Signed maps: what one image's and class's map was before a side of it was left out."""
        return self.explained.maps[name, LAYER if METHODS[name].looks_at == "layer" else None]

    def score(self, images: np.ndarray, number: int, slot: int) -> np.ndarray:
        return self.tail(self.head(tf.constant(images, tf.float32) / 255)).numpy()[:, CLASSES[number, slot]]

    def empty(self, number: int) -> np.ndarray:
        return baseline(self.images[number].astype(np.float32), "mean", 3)

    def behind(self, number: int, mask: np.ndarray) -> np.ndarray:
        empty = self.empty(number)
        return empty + mask[..., None] * (self.images[number] - empty)

    def at_layer(self, number: int, slot: int) -> tuple[np.ndarray, np.ndarray]:
        maps = self.head(tf.constant(self.images[number : number + 1], tf.float32) / 255)
        with tf.GradientTape() as tape:
            tape.watch(maps)
            score = self.tail(maps)[0, int(CLASSES[number, slot])]
        return maps[0].numpy(), tape.gradient(score, maps)[0].numpy()

    def gradients(self, images: np.ndarray, number: int, slot: int) -> np.ndarray:
        pixels = tf.constant(images, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            total = tf.reduce_sum(self.tail(self.head(pixels / 255))[:, int(CLASSES[number, slot])])
        return tape.gradient(total, pixels).numpy()


@pytest.fixture(scope="module")
def bench(rectified: Any) -> Bench:
    from pipeline.models.head import OutputSpec
    from pipeline.models.keras.model import keras_network

    head = keras.Model(rectified.input, rectified.get_layer(LAYER).output)
    x = inputs = keras.Input(head.output_shape[1:])
    for name in ("mean", "hidden"):
        x = rectified.get_layer(name)(x)
    last = rectified.get_layer("classes")
    tail = keras.Model(inputs, keras.ops.matmul(x, last.kernel) + last.bias)
    network = keras_network(rectified, "rectified", None, "unit", OutputSpec())
    images = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    explainer = explainer_of(network, KEYS, 2, 2, settings=SETTINGS, sides="both")
    return Bench(network, images, explainer, explain(explainer, images, CLASSES), head, tail)


def xgradcam(bench: Bench, number: int, slot: int) -> np.ndarray:
    maps, slopes = bench.at_layer(number, slot)
    sums = maps.sum(axis=(0, 1))
    weights = np.divide((maps * slopes).sum(axis=(0, 1)), sums, out=np.zeros_like(sums), where=sums != 0)
    return maps @ weights


def layercam(bench: Bench, number: int, slot: int) -> np.ndarray:
    maps, slopes = bench.at_layer(number, slot)
    return (maps * np.maximum(slopes, 0)).sum(axis=-1)


def scorecam(bench: Bench, number: int, slot: int) -> np.ndarray:
    maps, _ = bench.at_layer(number, slot)
    scores = []
    for channel in range(maps.shape[-1]):
        large = heat.enlarge(maps[..., channel], 16, 16)
        spread = large.max() - large.min()
        scores.append(bench.score(bench.behind(number, (large - large.min()) / (spread or 1))[None], number, slot)[0])
    return maps @ softmax(np.array(scores))


def ablationcam(bench: Bench, number: int, slot: int) -> np.ndarray:
    maps, _ = bench.at_layer(number, slot)
    score, lost = bench.score(bench.images[number : number + 1], number, slot)[0], []
    for channel in range(maps.shape[-1]):
        without = maps.copy()
        without[..., channel] = 0
        lost.append(score - bench.tail(without[None]).numpy()[0, CLASSES[number, slot]])
    return maps @ (np.array(lost) / abs(score))


def eigencam(bench: Bench, number: int, slot: int) -> np.ndarray:
    maps, _ = bench.at_layer(number, slot)
    rows = maps.reshape(-1, maps.shape[-1]).astype(np.float64)
    projected = rows @ np.linalg.eigh(rows.T @ rows)[1][:, -1]
    return (projected * np.sign(projected.sum())).reshape(maps.shape[:2])


def input_x_gradient(bench: Bench, number: int, slot: int) -> np.ndarray:
    return (bench.gradients(bench.images[number : number + 1], number, slot)[0] * bench.images[number]).sum(axis=-1)


def noisy(bench: Bench, number: int, slot: int) -> np.ndarray:
    image = bench.images[number].astype(np.float32)
    noise = [np.random.default_rng(sample).normal(size=image.shape) for sample in range(SETTINGS.samples)]
    return bench.gradients(np.stack([image + 0.15 * np.ptp(image) * added for added in noise]), number, slot)


def smoothgrad(bench: Bench, number: int, slot: int) -> np.ndarray:
    return noisy(bench, number, slot).mean(axis=0)


def squaregrad(bench: Bench, number: int, slot: int) -> np.ndarray:
    return (noisy(bench, number, slot) ** 2).mean(axis=0).sum(axis=-1)


def vargrad(bench: Bench, number: int, slot: int) -> np.ndarray:
    return noisy(bench, number, slot).astype(np.float64).var(axis=0).sum(axis=-1)


def expected_gradients(bench: Bench, number: int, slot: int) -> np.ndarray:
    random, image, count = np.random.default_rng(0), bench.images[number].astype(np.float32), SETTINGS.samples
    points = (random.permutation(count) + random.random(count)) / count
    starts = SETTINGS.references[np.arange(count) % 3]
    between = starts + points[:, None, None, None] * (image - starts)
    return (bench.gradients(between, number, slot) * (image - starts)).sum(axis=(0, -1)) / count


def occlusion(bench: Bench, number: int, slot: int) -> np.ndarray:
    corners = [(top, left) for top in range(0, 13, 2) for left in range(0, 13, 2)]
    images, total, times = np.repeat(bench.images[number : number + 1], 50, axis=0).astype(np.float32), *np.zeros((2, 16, 16))
    for image, (top, left) in zip(images, corners, strict=False):
        image[top : top + 4, left : left + 4] = bench.empty(number)[0, 0]
    scores = bench.score(images, number, slot)
    for score, (top, left) in zip(scores, corners, strict=False):
        total[top : top + 4, left : left + 4] += scores[-1] - score
        times[top : top + 4, left : left + 4] += 1
    return total / times


def rise(bench: Bench, number: int, slot: int) -> np.ndarray:
    several = np.stack(list(masks(SETTINGS.samples, 16, 16)))
    scores = bench.score(np.stack([bench.behind(number, mask) for mask in several]), number, slot)
    return ((scores - scores.mean())[:, None, None] * several).sum(axis=0) / (SETTINGS.samples * 0.5)


def segments_of(bench: Bench, number: int) -> np.ndarray:
    from skimage.segmentation import slic

    return slic(bench.images[number], n_segments=4, compactness=10, start_label=0)


def kernelshap(bench: Bench, number: int, slot: int) -> np.ndarray:
    """The Shapley values themselves: the mean of what a superpixel adds over all orders in which they may come."""
    segments = segments_of(bench, number)
    count = segments.max() + 1
    value = {}

    def of(coalition: frozenset[int]) -> float:
        if coalition not in value:
            mask = np.isin(segments, list(coalition)).astype(np.float32)
            value[coalition] = float(bench.score(bench.behind(number, mask)[None], number, slot)[0])
        return value[coalition]

    orders = list(permutations(range(count)))
    added = [
        np.mean([of(frozenset(order[: order.index(part) + 1])) - of(frozenset(order[: order.index(part)])) for order in orders])
        for part in range(count)
    ]
    return np.array(added)[segments]


def lime(bench: Bench, number: int, slot: int) -> np.ndarray:
    """Ridge regression as least squares with rows of its own for the penalty."""
    segments = segments_of(bench, number)
    count = segments.max() + 1
    there = np.random.default_rng(0).random((SETTINGS.samples, count)) < 0.5
    there[0] = True
    scores = bench.score(np.stack([bench.behind(number, row[segments].astype(np.float32)) for row in there]), number, slot)
    roots = np.exp(-((1 - np.sqrt(there.mean(axis=1))) ** 2) / 0.25**2 / 2)
    rows = np.concatenate([np.hstack([there, np.ones((len(there), 1))]) * roots[:, None], np.eye(count, count + 1)])
    return np.linalg.lstsq(rows, np.concatenate([scores * roots, np.zeros(count)]), rcond=None)[0][:-1][segments]


ORACLES = [
    *(xgradcam, layercam, scorecam, ablationcam, eigencam, input_x_gradient, smoothgrad, squaregrad, vargrad),
    *(expected_gradients, occlusion, rise, kernelshap, lime),
]


@pytest.mark.parametrize("oracle", ORACLES)
def test_a_method_gives_what_its_formula_gives(oracle: Any, bench: Bench) -> None:
    maps = bench.maps(oracle.__name__)
    for number in range(2):
        for slot in range(2):
            right = oracle(bench, number, slot)
            assert right.any()
            np.testing.assert_allclose(maps[number, slot], right, atol=2e-4 * np.abs(right).max(), rtol=1e-3)


def test_a_deconvnet_lets_back_all_that_is_positive_whatever_a_relu_was_given(opened: Any, photos: Any) -> None:
    inputs = keras.Input((6, 6, 3))
    x = layers.Flatten()(layers.Conv2D(4, 6, activation="relu", name="only")(inputs))
    model = stir(keras.Model(inputs, layers.Dense(3)(x)))
    explainer = explainer_of(opened(model), [("deconvnet", None), ("gradient", None), ("guided_backprop", None)], 1)
    maps = explain(explainer, photos(1, 6, 6), np.array([[2]])).maps
    slopes = model.layers[-1].kernel.numpy()[:, 2]
    assert (slopes < 0).any()
    right = model.get_layer("only").kernel.numpy() @ np.maximum(slopes, 0) / 255
    np.testing.assert_allclose(maps["deconvnet", None][0, 0], right, rtol=1e-4)
    assert np.abs(maps["gradient", None][0, 0] - right).max() > 1e-4 * right.max()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["frozen", "savedmodel"])
def test_every_method_gives_the_same_of_a_graph(kind: str, bench: Bench, rectified: Any, tmp_path: Path) -> None:
    twin = open_network(ModelSpec(source=stored(rectified, kind, tmp_path), layers=["*"], preprocess="unit"))
    layer = next(info.name for info in twin.layers() if info.name.endswith(("last_1/Relu", "last/Relu")))
    keys = [(name, layer if own else None) for name, own in KEYS]
    maps = explain(explainer_of(twin, keys, 2, 2, settings=SETTINGS, sides="both"), bench.images, CLASSES).maps
    for name, own in KEYS:
        right = bench.explained.maps[name, own]
        np.testing.assert_allclose(maps[name, layer if own else None], right, atol=1e-3 * np.abs(right).max(), rtol=1e-3)


def test_the_sides_of_a_map_are_its_positive_and_its_negative_part_and_their_sums_are_said(bench: Bench) -> None:
    key, signed = ("gradcam", LAYER), bench.maps("gradcam")
    for side, right in (("for", np.maximum(signed, 0)), ("against", np.maximum(-signed, 0))):
        plan = replace(bench.explainer.plan, methods=((METHODS["gradcam"], LAYER),), sides=side)
        explainer = replace(bench.explainer, plan=plan)
        explained = explain(explainer, bench.images, CLASSES)
        np.testing.assert_allclose(explained.maps[key], right, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(explained.sums[key][..., 0], np.maximum(signed, 0).sum(axis=(2, 3)), rtol=1e-5)
        np.testing.assert_allclose(explained.sums[key][..., 1], np.minimum(signed, 0).sum(axis=(2, 3)), rtol=1e-5)


def test_a_merged_map_is_the_mean_of_several_layers_each_by_its_peak(bench: Bench) -> None:
    keys = [("gradcam", "first"), ("gradcam", LAYER)]
    maps = explain(explainer_of(bench.network, keys, 2, 2, merged=True), bench.images, CLASSES).maps
    first, last = (maps[key][1, 0] for key in keys)
    right = (first / (first.max() or 1) + heat.enlarge(last / (last.max() or 1), *first.shape)) / 2
    assert right.any()
    np.testing.assert_allclose(maps["gradcam", MERGED][1, 0], right, rtol=1e-5)


def test_integrated_gradients_are_complete_from_every_baseline(bench: Bench) -> None:
    for kind in ("black", "blur", "mean"):
        plan = replace(bench.explainer.plan, methods=((METHODS["integrated_gradients"], None),))
        explainer = replace(bench.explainer, plan=replace(plan, settings=MethodSettings(baseline=kind)))
        explained = explain(explainer, bench.images, CLASSES)
        for number in range(2):
            start = baseline(bench.images[number].astype(np.float32), kind, 3)
            for slot in range(2):
                image, empty = bench.score(np.stack([bench.images[number], start]), number, slot)
                total = explained.maps["integrated_gradients", None][number, slot].sum()
                np.testing.assert_allclose(total, image - empty, rtol=0.01, atol=1e-4)
        assert explained.gaps["integrated_gradients"].max() < 0.05  # of a difference of nearly nothing


def test_methods_of_the_score_alone_explain_a_network_without_gradients(opened: Any, photos: Any) -> None:
    inputs = keras.Input((8, 8, 3))
    x = keras.ops.round(4 * layers.Conv2D(4, 3, activation="relu", name="maps")(inputs))
    model = stir(keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)), name="steps"))
    names = ["occlusion", "rise", "kernelshap", "lime", "scorecam", "ablationcam", "eigencam"]
    keys = [(name, "maps" if METHODS[name].looks_at == "layer" else None) for name in names]
    settings = MethodSettings(samples=40, segments=4)
    explainer = explainer_of(opened(model), keys, 1, settings=settings, sides="both")
    maps = explain(explainer, photos(1, 8, 8), np.array([[1]])).maps
    assert all(maps[key].any() for key in keys)
    with pytest.raises(UnusableModel, match="by no gradient.*occlusion"):
        explainer_of(opened(model), [("gradient", None)], 1)


def test_sampled_shapley_values_come_near_those_of_all_coalitions_and_always_add_up() -> None:
    random = np.random.default_rng(0)
    adds, pairs = random.normal(size=9), np.triu(random.normal(size=(9, 9)), 1)

    def scores(there: np.ndarray) -> np.ndarray:
        rows = there.astype(float)
        return (rows @ adds + np.einsum("ni,ij,nj->n", rows, pairs, rows))[:, None]

    right = adds + (pairs + pairs.T).sum(axis=0) / 2  # of a pair, each has half
    ends = scores(np.array([[False] * 9, [True] * 9]))
    for samples, off in ((510, 1e-9), (300, 0.2)):
        there, weights = shapley_coalitions(9, samples)
        assert len(there) == samples
        values = shapley_values(there, weights, scores(there), ends)[:, 0]
        assert np.abs(values - right).max() < off and np.isclose(values.sum(), ends[1, 0] - ends[0, 0])


def test_lime_finds_the_superpixels_that_count() -> None:
    there = np.random.default_rng(3).random((400, 6)) < 0.5
    actual = lime_coefficients(there, np.stack([there @ [3.0, 0, 0, -2, 0, 0], there[:, 1] * 1.0], axis=1))
    np.testing.assert_allclose(actual[:, 0], [3, 0, 0, -2, 0, 0], atol=0.15)
    np.testing.assert_allclose(actual[:, 1], [0, 1, 0, 0, 0, 0], atol=0.15)
