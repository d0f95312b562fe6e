"""Network dissection: thresholds and overlaps against brute force, point by point, on a network of two layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.concepts.dissection import Dissection, HeldCells, Overlaps
from pipeline.concepts.map_cells import MapCells, Side, cells_above
from pipeline.concepts.masks import MaskSet, on_grid
from pipeline.concepts.top_values import LEAST, QUANTILE, TopValues
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


def test_the_cells_that_do_not_fit_into_memory_are_found_again(case: Any, monkeypatch: Any) -> None:
    dissection, _, _, _ = case
    totals: list[int] = []
    expected = dissection.run(lambda done, total: totals.append(done))[1]
    assert totals == [1, 6, 8]  # one image for the first floors, the others, and the first again after all seven
    monkeypatch.setattr("pipeline.concepts.dissection._MOST_HELD", 1)
    totals.clear()
    again = dissection.run(lambda done, total: totals.append(done))[1]
    assert totals == [1, 6, 13]
    for layer, pair in expected.items():
        for overlaps, same in zip(pair, again[layer], strict=True):
            for name in ("both", "concepts", "active"):
                assert np.array_equal(getattr(overlaps, name), getattr(same, name))


def test_cells_below_the_floors_are_let_go_before_those_of_whole_images() -> None:
    first, corners = np.arange(4), np.array([[1, 0, 0, 0], [0, 0, 0, 2], [0, 0, 3, 0], [0, 4, 0, 0]], np.float32).T
    cells = {"layer": MapCells((2, 2, 1), first, corners)}
    held = HeldCells(2 * cells["layer"].nbytes - 1)
    held.add([0], cells, {})
    held.add([1], cells, {"layer": np.array([2.0], np.float32)})
    assert [(examples, layers["layer"].first.tolist()) for examples, layers in held.batches] == [([0], [2, 3])]


def test_overlaps_of_any_cut_of_the_images_merge_to_the_same() -> None:
    random = np.random.default_rng(0)
    first = Overlaps(*(random.integers(0, 9, size) for size in ((3, 4), 3, 4)))
    second = Overlaps.of_masks(np.array([0, 0, 5]), 4)
    second.add(np.array([[3, 0, 3], [0, 2, 2]]), np.array([0, 1, 1]))
    together, turned = first.merge(second), second.merge(first)
    for name in ("both", "concepts", "active"):
        assert np.array_equal(getattr(together, name), getattr(turned, name))
    assert (together.both - first.both).tolist() == [[0] * 4, [0, 2, 0, 0], [1, 1, 0, 0]]
    assert (together.concepts - first.concepts).tolist() == [0, 0, 5] and second.active.tolist() == [1, 2, 0, 0]


def _always(masks: list[Any]) -> Any:
    return lambda image: masks


def test_a_concept_that_two_masks_have_at_a_point_counts_once(in_memory: Any, tiny_model: Any) -> None:
    coarse = np.random.default_rng(3).integers(0, 256, (4, 4, 4, 3))
    source = in_memory(coarse.repeat(4, axis=1).repeat(4, axis=2))
    given = np.ones((SIDE, SIDE), np.int64)
    matrix = interpolation((np.arange(0, SIDE, STEP) + STEP / 2 - 1.0) - 0.5, 14)
    network = keras_network(tiny_model, "tiny", None, "none")
    channels, matrices = {"edges": np.arange(4)}, {"edges": (matrix, matrix)}
    counted = []
    for masks in ([given], [given, given]):
        of_every_image = MaskSet(("red",), _always(masks))
        dissection = Dissection(network, source, Fit(SIDE, SIDE), of_every_image, np.arange(4), STEP, channels, matrices)
        own, _ = dissection.run(lambda done, total: None)[1]["edges"]
        assert own.both[0].tolist() == own.active.tolist() and own.active.max() > 0
        counted.append(own.concepts.tolist())
    assert counted[0] == counted[1] == [4 * (SIDE // STEP) ** 2]


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 3), (7, 7)])
@pytest.mark.parametrize("spacing", [0.25, 1.0, 2.5])
def test_the_points_of_cells_are_those_of_whole_maps(shape: tuple[int, int], spacing: float) -> None:
    import tensorflow as tf

    random = np.random.default_rng(shape[0])
    maps = random.integers(-4, 5, (3, *shape, 2)).astype(np.float32)  # with plateaus, and equal to the thresholds
    maps[1, 0, 0, 0] = np.nan
    matrices = [interpolation(np.arange(-1, units + 1, spacing), units) for units in shape]
    sides = (Side.of(matrices[0]), Side.of(matrices[1]))
    floor, thresholds = np.array([1, 2], np.float32), np.array([1, 3], np.float32)
    first, *corners = (np.asarray(values) for values in cells_above(tf.constant(maps), tf.constant(floor)))
    cells = MapCells((*shape, 2), first, np.stack(corners)).on(sides)
    whole = [[matrices[0].astype(float) @ image[..., channel] @ matrices[1].T for channel in range(2)] for image in maps[[0, 2]]]
    above = np.array(whole) > thresholds[:, np.newaxis, np.newaxis]
    images, points, channels = cells.points(sides, thresholds)
    expected = np.argwhere(above.reshape(2, 2, -1))
    real = images != 1
    assert sorted(zip(images[real] // 2, channels[real], points[real], strict=True)) == [tuple(row) for row in expected]


def _topped(top: TopValues, values: np.ndarray, all_at_once: bool) -> TopValues:
    if all_at_once:
        return top.update_all(values)
    order = np.random.default_rng(len(values)).permutation(values.size)
    return top.update(values.reshape(-1)[order], np.arange(values.size)[order] % values.shape[1], len(values))


@pytest.mark.parametrize("all_at_once", [True, False])
@pytest.mark.parametrize("count", [1, 2, 200, 201, 5000])
def test_the_quantile_is_that_of_all_values_however_they_come(count: int, all_at_once: bool) -> None:
    values = np.random.default_rng(count).normal(size=(count, 3)).astype(np.float32).round(2)
    top = TopValues.empty(count + 700, 3)  # more were possible: some images have no masks
    for first in range(0, count, 37):
        top = _topped(top, values[first : first + 37], all_at_once)
    assert np.allclose(top.quantile(), np.quantile(values, QUANTILE, axis=0), rtol=0, atol=1e-6)
    assert top.values.shape[1] <= count * (1 - QUANTILE) + 6 and (top.floor <= top.quantile()).all()


def test_values_are_put_in_order_a_few_times_each_however_small_the_batches(monkeypatch: Any) -> None:
    values = np.random.default_rng(0).normal(size=(20_000, 3)).astype(np.float32)
    ordered, partition = [0], np.partition

    def counting(rows: Any, *about: Any, **more: Any) -> Any:
        ordered[0] += rows.shape[1]
        return partition(rows, *about, **more)

    monkeypatch.setattr(np, "partition", counting)
    top = TopValues.empty(len(values), 3)
    for first in range(0, len(values), 10):
        top = _topped(top, values[first : first + 10], False)
    assert ordered[0] < 2 * len(values) and top.values.shape[1] < 500
    np.testing.assert_allclose(top.quantile(), np.quantile(values, QUANTILE, axis=0), rtol=1e-6)


@pytest.mark.parametrize("all_at_once", [True, False])
def test_nothing_is_above_what_is_not_finite(all_at_once: bool) -> None:
    values = np.array([[1.0], [np.nan], [2.0], [np.inf]], np.float32)
    assert _topped(TopValues.empty(4, 1), values, all_at_once).quantile()[0] <= 2
    assert _topped(TopValues.empty(400, 1), np.full((400, 1), np.nan, np.float32), all_at_once).quantile()[0] == LEAST
