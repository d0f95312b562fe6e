"""Network dissection: thresholds and overlaps against brute force, point by point, on a network of two layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.concepts.dissection import QUANTILE, Dissection, Overlaps, TopValues
from pipeline.concepts.masks import MaskSet, on_grid
from pipeline.geometry import interpolation
from pipeline.models.keras.model import keras_network
from pipeline.sources.fit import Fit

STEP, SIDE = 2, 16
LAYERS = {"edges": ([0, 1, 3], 14, 1.0, 1.0), "shapes": ([0, 1, 2, 3, 4], 6, 2.0, 2.0)}  # channels, units, origin, stride


@pytest.fixture(scope="module")
def case(tiny_model: Any, in_memory: Any) -> Any:
    """Seven images, of which the fourth has no masks, and what two of three concepts cover: the dissection and the maps."""
    random = np.random.default_rng(2)
    source = in_memory(random.integers(0, 256, (7, SIDE, SIDE, 3)))
    given = random.integers(0, 3, (7, 2, SIDE, SIDE))
    given[:, 1] *= given[:, 0] == 0

    def read(image: Any) -> Any:
        number = int(image.key.removeprefix("image"))
        return None if number == 3 else list(given[number])

    matrices = {}
    for layer, (_, units, origin, stride) in LAYERS.items():
        matrix = interpolation((np.arange(0, SIDE, STEP) + STEP / 2 - origin) / stride - 0.5, units)
        matrices[layer] = matrix, matrix
    network = keras_network(tiny_model, "tiny", None, "none")
    channels = {layer: np.array(of_layer[0]) for layer, of_layer in LAYERS.items()}
    masks = MaskSet(("red", "green", "nowhere"), read)
    dissection = Dissection(network, source, Fit(SIDE, SIDE), masks, np.arange(7), STEP, channels, matrices)
    images = [0, 1, 2, 4, 5, 6]
    import tensorflow as tf

    traced = network.trace(tf.constant(np.stack([source.images[image] for image in images]), tf.float32), list(LAYERS))
    maps = {layer: np.asarray(value)[..., channels[layer]] for layer, value in traced.items()}
    fields = [[on_grid(mask, next(source.fetch([image]))[1], Fit(SIDE, SIDE), STEP) for mask in given[image]] for image in images]
    return dissection, maps, np.array(fields), matrices


def test_the_overlaps_are_those_of_every_point_of_every_image(case: Any) -> None:
    dissection, maps, fields, matrices = case
    count, overlaps = dissection.run(lambda done, total: None)
    assert count == 6
    for layer, (own, _) in overlaps.items():
        matrix = matrices[layer][0]
        thresholds = np.quantile(maps[layer].reshape(-1, maps[layer].shape[-1]), QUANTILE, axis=0).astype(np.float32)
        for channel, threshold in enumerate(thresholds):
            above = np.array([matrix @ image[..., channel] @ matrix.T > threshold for image in maps[layer]]).reshape(6, -1)
            assert above.sum() == own.active[channel]
            for concept in range(2):
                inside = (fields == concept + 1).any(axis=1)
                expected = (above & inside).sum() / (above | inside).sum()
                assert own.iou()[concept, channel] == pytest.approx(expected, abs=1e-6)
        assert np.isnan(own.iou()[2]).all() and own.active.max() > 2


def test_by_chance_the_masks_are_those_of_another_image(case: Any) -> None:
    dissection, _, _, _ = case
    for own, permuted in dissection.run(lambda done, total: None)[1].values():
        assert own.concepts.tolist() == permuted.concepts.tolist() and own.active.tolist() == permuted.active.tolist()
        assert own.both.tolist() != permuted.both.tolist()


def test_overlaps_of_any_cut_of_the_images_merge_to_the_same() -> None:
    random = np.random.default_rng(0)
    first = Overlaps(*(random.integers(0, 9, size) for size in ((3, 4), 3, 4)))
    second = Overlaps.empty(3, 4)
    second.add(np.array([2]), np.full((1, 4), 2.0), np.array([5.0]), np.full(4, 3.0))
    together, turned = first.merge(second), second.merge(first)
    for name in ("both", "concepts", "active"):
        assert np.array_equal(getattr(together, name), getattr(turned, name))
    assert (together.both - first.both)[2].tolist() == [2] * 4 and (together.concepts - first.concepts).tolist() == [0, 0, 5]


@pytest.mark.parametrize("count", [1, 2, 200, 201, 5000])
def test_the_quantile_is_that_of_all_values_however_they_come(count: int) -> None:
    values = np.random.default_rng(count).normal(size=(count, 3)).astype(np.float32).round(2)
    top = TopValues.empty(count + 700, 3)  # more were possible: some images have no masks
    for first in range(0, count, 37):
        top = top.update(values[first : first + 37])
    assert np.allclose(top.quantile(), np.quantile(values, QUANTILE, axis=0), rtol=0, atol=1e-6)
    assert len(top.values) <= count * (1 - QUANTILE) + 6


def test_values_are_put_in_order_a_few_times_each_however_small_the_batches(monkeypatch: Any) -> None:
    values = np.random.default_rng(0).normal(size=(20_000, 3)).astype(np.float32)
    ordered, partition = [0], np.partition

    def counting(rows: Any, *about: Any, **more: Any) -> Any:
        ordered[0] += len(rows)
        return partition(rows, *about, **more)

    monkeypatch.setattr(np, "partition", counting)
    top = TopValues.empty(len(values), 3)
    for first in range(0, len(values), 10):
        top = top.update(values[first : first + 10])
    assert ordered[0] < 2 * len(values) and len(top.values) < 500
    np.testing.assert_allclose(top.quantile(), np.quantile(values, QUANTILE, axis=0), rtol=1e-6)


def test_nothing_is_above_what_is_not_finite() -> None:
    values = np.array([[1.0], [np.nan], [2.0], [np.inf]], np.float32)
    assert TopValues.empty(4, 1).update(values).quantile()[0] <= 2
