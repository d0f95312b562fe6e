"""The scan against brute force over the network's own maps.

The tiny network's sums are exact, so its scores are compared byte for byte; networks of real numbers to
within rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
from scanned import in_bytes, one_layer

from pipeline.activations import Activations, Statistics
from pipeline.activations.heap_members import ByLabel, Strongest, Weakest
from pipeline.activations.part import Skipped, merge
from pipeline.activations.scan import ScanSession, scan
from pipeline.activations.scan_pass import ScanPass
from pipeline.compiled import microbatches
from pipeline.errors import TooManyBad
from pipeline.models.keras.model import keras_network
from pipeline.sources.registry import open_source
from pipeline.sources.source import Shard
from pipeline.spec.data import DataSpec

LAYERS = ("edges", "shapes", "classes")


@pytest.fixture(autouse=True, scope="module")
def in_small_pieces() -> Iterator[None]:
    """Batches go through the network two images at a time; networks as small as here would have them go whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(microbatches, "CACHED_BYTES", 1)
        patch.setattr(microbatches, "FEWEST_IMAGES", 2)
        yield


@pytest.fixture(scope="module")
def all_layers(network: Any, plan: Any, compiled: Any) -> ScanSession:
    """A session for scans of the three layers in batches of five, compiled once."""
    return ScanSession(scan_pass=compiled(network, plan(network, *LAYERS)))


@pytest.fixture(scope="module")
def whole(network: Any, source: Any, plan: Any, all_layers: Any) -> Any:
    """The part of one scan of the three layers in batches of five."""
    return scan(network, source, plan(network, *LAYERS), session=all_layers)[0]


def pointwise(kernel: Any, bias: Any) -> Any:
    """A 1x1 convolution of the red channel alone."""
    layer = keras.layers.Conv2D(1, 1, name="out")
    network = one_layer(layer)
    layer.set_weights([np.array([kernel, 0, 0], np.float32).reshape(1, 1, 3, 1), np.array([bias], np.float32)])
    return network


def flat_images(*levels: Any) -> Any:
    """An image of one grey for each level."""
    return [np.full((4, 4, 3), level, np.uint8) for level in levels]


def heaps_of(part: Any) -> Any:
    """The heaps of the strongest responses by layer."""
    return {layer: member.heap for layer, member in part.of(Strongest).items()}


def test_xla_finds_the_same_winners(network: Any, source: Any, plan: Any, whole: Any) -> None:
    by_xla, _ = scan(network, source, plan(network, *LAYERS, xla=True))
    for layer, heap in heaps_of(by_xla).items():
        np.testing.assert_array_equal(heap.examples, heaps_of(whole)[layer].examples)
        np.testing.assert_allclose(heap.scores, heaps_of(whole)[layer].scores, rtol=1e-5)


def brute_force(model: Any, images: Any, layer: Any, k: Any, channels: Any = None) -> Any:
    """The heap of a layer from the model's own maps of all images, in NumPy."""
    maps = keras.Model(model.inputs, model.get_layer(layer).output).predict(np.float32(images), verbose=0)
    maps = maps if maps.ndim == 4 else maps[:, None, None, :]
    maps = maps if channels is None else maps[..., list(channels)]
    flat = maps.reshape(len(images), -1, maps.shape[3])
    order = np.argsort(-flat.max(axis=1), axis=0, kind="stable")[:k].T
    every = np.arange(maps.shape[3])[:, None]
    rows, cols = np.divmod(flat.argmax(axis=1)[order, every], maps.shape[2])
    return flat.max(axis=1)[order, every], order, rows, cols


def brute_force_maxima(model: Any, images: Any, layer: Any) -> Any:
    """Spatial maxima: (images, channels)."""
    return keras.Model(model.inputs, model.get_layer(layer).output).predict(np.float32(images), verbose=0).max(axis=(1, 2))


def test_the_scan_finds_what_brute_force_over_the_models_maps_finds(
    tiny_model: Any, network: Any, source: Any, plan: Any, all_layers: Any
) -> None:
    part, times = scan(network, source, plan(network, *LAYERS), session=all_layers)
    assert list(part.channels) == list(LAYERS)
    for layer, heap in heaps_of(part).items():
        expected = brute_force(tiny_model, source.images, layer, 4)
        for ours, theirs in zip((heap.scores, heap.examples, heap.rows, heap.cols), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=layer)
    assert part.seen == times.images == 23 and part.skipped == ()


def test_the_scan_of_a_folder_is_the_scan_of_its_pictures(tiny_model: Any, network: Any, pictures: Any, plan: Any) -> None:
    from pipeline.sources.fit import Fit

    source = open_source(DataSpec(source=f"folder:{pictures}"), Fit(16, 16))
    part, _ = scan(network, source, plan(network, "shapes", batch=8))
    images = [element["image"] for element in source.stream(Shard()).as_numpy_iterator()]
    scores, examples, rows, cols = brute_force(tiny_model, images, "shapes", 4)
    heap = part.of(Strongest)["shapes"].heap
    np.testing.assert_array_equal(heap.scores, scores)
    np.testing.assert_array_equal(heap.examples, examples)
    np.testing.assert_array_equal([heap.rows, heap.cols], [rows, cols])


def test_the_statistics_are_those_of_all_responses(tiny_model: Any, network: Any, source: Any, plan: Any) -> None:
    part, _ = scan(network, source, plan(network, "shapes"))
    maps = keras.Model(tiny_model.inputs, tiny_model.get_layer("shapes").output).predict(np.float32(source.images), verbose=0)
    maxima = maps.max(axis=(1, 2)).astype(np.float64)
    actual = part.of(Statistics)["shapes"]
    np.testing.assert_array_equal(actual.seen, 23)
    np.testing.assert_allclose(actual.mean, maxima.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(actual.std, maxima.std(axis=0), rtol=1e-9)
    np.testing.assert_array_equal(actual.high, maxima.max(axis=0))
    np.testing.assert_array_equal(actual.positive, (maxima > 0).sum(axis=0))


@pytest.mark.parametrize(("batch", "shards"), [(1, 1), (7, 1), (23, 1), (64, 1), (5, 4), (4, 23), (3, 30)])
def test_where_sums_are_exact_any_batch_size_and_any_shards_give_the_same_bytes(
    network: Any, source: Any, plan: Any, compiled: Any, whole: Any, batch: Any, shards: Any
) -> None:
    asking = plan(network, *LAYERS, batch=batch)
    session = ScanSession(scan_pass=compiled(network, asking))
    parts = [scan(network, source, asking, Shard(index, shards), session)[0] for index in range(shards)]
    assert in_bytes(merge(parts[::-1])) == in_bytes(whole)


@pytest.fixture(scope="module")
def real_network() -> Any:
    """A network of real numbers, whose sums depend on their order in the last bits."""
    random = np.random.default_rng(5)
    x = inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu", name="one")(x)
    model = keras.Model(inputs, keras.layers.Conv2D(6, 3, strides=2, name="two")(x))
    for variable in model.weights:
        variable.assign(random.normal(size=variable.shape))
    return keras_network(model, "real", None, "unit")


def test_real_numbers_give_the_same_winners_in_batches_of_any_size_and_scores_to_within_rounding(
    real_network: Any, source: Any, plan: Any
) -> None:
    heaps = [
        scan(real_network, source, plan(real_network, "two", batch=batch))[0].of(Strongest)["two"].heap for batch in (1, 6, 23)
    ]
    for heap in heaps[1:]:
        np.testing.assert_array_equal(heap.examples, heaps[0].examples)
        np.testing.assert_array_equal([heap.rows, heap.cols], [heaps[0].rows, heaps[0].cols])
        np.testing.assert_allclose(heap.scores, heaps[0].scores, rtol=1e-5)


def test_real_numbers_give_the_same_bytes_where_shards_end_with_batches(
    real_network: Any, in_memory: Any, source: Any, plan: Any
) -> None:
    source = in_memory(source.images[:20])
    whole, _ = scan(real_network, source, plan(real_network, "one", "two"))
    halves = [scan(real_network, source, plan(real_network, "one", "two"), Shard(index, 2))[0] for index in (1, 0)]
    assert in_bytes(merge(halves)) == in_bytes(whole)


def test_the_padding_of_the_last_batch_never_wins_nor_counts(in_memory: Any, plan: Any) -> None:
    darkest_wins = pointwise(-1, 0)  # and padding is black
    source = in_memory(flat_images(9, 5, 7, 6, 8))
    part, _ = scan(darkest_wins, source, plan(darkest_wins, "out", k=6, batch=4))
    assert part.of(Strongest)["out"].heap.examples.tolist() == [[1, 3, 2, 4, 0, -1]]
    assert part.of(Strongest)["out"].heap.scores.tolist() == [[-5, -6, -7, -8, -9, -np.inf]]
    assert part.of(Statistics)["out"].seen.tolist() == [5] and part.of(Statistics)["out"].high.tolist() == [-5]


def logarithm(x: Any) -> Any:
    """Of red, less 100: NaN below, -inf at it."""
    return keras.ops.log(keras.ops.subtract(x[..., :1], 100.0))


def test_nan_is_counted_and_kept_out_and_minus_infinity_is_not(in_memory: Any, plan: Any) -> None:
    network = one_layer(logarithm)
    name = network.layers()[-1].name
    images = flat_images(50, 100, 110, 50)
    images[1][0, 0] = 50
    images[3][2, 1] = 105
    images[3][2, 3] = 105
    part, _ = scan(network, in_memory(images), plan(network, name, k=5, batch=3))
    heap = part.of(Strongest)[name].heap
    assert heap.examples.tolist() == [[2, 3, 1, -1, -1]]
    assert heap.rows.tolist() == [[0, 2, 0, -1, -1]] and heap.cols.tolist() == [[0, 1, 1, -1, -1]]
    np.testing.assert_allclose(heap.scores[0, :3], [np.log(10), np.log(5), -np.inf], rtol=1e-5)
    assert heap.nans.tolist() == [16 + 1 + 14]
    # What is not finite takes no part in the statistics.
    assert part.of(Statistics)[name].seen.tolist() == [2]


def test_a_single_nan_anywhere_in_a_map_is_noticed(in_memory: Any, plan: Any) -> None:
    network = one_layer(lambda x: keras.ops.sqrt(keras.ops.subtract(254.0, x)), size=7)  # NaN for white
    name = network.layers()[-1].name
    images = np.random.default_rng(0).integers(0, 200, (49, 7, 7, 3), np.uint8)
    images.reshape(49, 49, 3)[np.arange(49), np.arange(49), 1] = 255
    part, _ = scan(network, in_memory(images), plan(network, name, k=49, batch=16))
    heap = part.of(Strongest)[name].heap
    assert heap.nans.tolist() == [0, 49, 0] and not np.isnan(heap.scores).any() and (heap.examples >= 0).all()


def test_nan_of_a_later_layer_alone_is_noticed_too(in_memory: Any, plan: Any) -> None:
    inputs = keras.Input((4, 4, 3))
    first = keras.layers.Identity(name="first")(inputs)
    second = keras.layers.Identity(name="second")(logarithm(first))  # NaN for dark
    network = keras_network(keras.Model(inputs, second), "two", None, "none")
    part, _ = scan(network, in_memory(flat_images(50, 110, 120)), plan(network, "first", "second", batch=2))
    heaps = heaps_of(part)
    assert heaps["second"].nans.tolist() == [16] and heaps["second"].examples.tolist() == [[2, 1, -1, -1]]
    assert heaps["first"].examples.tolist() == [[2, 1, 0, -1]] * 3


def test_nan_in_padding_is_not_counted(in_memory: Any, plan: Any) -> None:
    network = one_layer(logarithm)  # NaN for black
    name = network.layers()[-1].name
    part, _ = scan(network, in_memory(flat_images(110, 120)), plan(network, name, batch=8))
    assert part.of(Strongest)[name].heap.nans.tolist() == [0]


def test_chosen_channels_come_in_the_order_of_the_spec(tiny_model: Any, network: Any, source: Any, plan: Any) -> None:
    part, _ = scan(network, source, plan(network, "edges", channels=(3, 1)))
    heap = part.of(Strongest)["edges"].heap
    expected = brute_force(tiny_model, source.images, "edges", 4, channels=(3, 1))
    for ours, theirs in zip((heap.scores, heap.examples, heap.rows, heap.cols), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert part.of(Statistics)["edges"].seen.shape == (2,)


def test_a_dense_layer_is_a_map_of_one_position(network: Any, source: Any, plan: Any) -> None:
    part, _ = scan(network, source, plan(network, "classes"))
    heap = part.of(Strongest)["classes"].heap
    assert heap.channels == 3 and not heap.rows.any() and not heap.cols.any()


def test_slots_beyond_the_number_of_images_stay_unfilled(network: Any, in_memory: Any, source: Any, plan: Any) -> None:
    part, _ = scan(network, in_memory(source.images[:2]), plan(network, "edges", k=5))
    heap = part.of(Strongest)["edges"].heap
    assert (heap.examples[:, 2:] == -1).all() and (heap.examples[:, :2] >= 0).all()


@pytest.mark.parametrize(("k", "bottom_k"), [(1, 12), (10, 1)])
def test_the_weakest_responses_are_kept_when_the_heaps_of_the_strongest_are_full(
    tiny_model: Any, network: Any, source: Any, plan: Any, compiled: Any, k: Any, bottom_k: Any
) -> None:
    asking = plan(network, "edges", k=k, batch=2, bottom_k=bottom_k)
    part, _ = scan(network, source, asking, session=ScanSession(scan_pass=compiled(network, asking)))
    maxima = brute_force_maxima(tiny_model, source.images, "edges")
    np.testing.assert_array_equal(part.of(Weakest)["edges"].heap.examples, np.argsort(maxima, axis=0, kind="stable")[:bottom_k].T)


@pytest.mark.parametrize(("k", "label_k", "batch"), [(1, 3, 2), (10, 1, 2), (1, 3, 5), (10, 1, 5)])
def test_the_strongest_responses_of_each_label_are_kept_when_other_heaps_are_full(
    tiny_model: Any, network: Any, in_memory: Any, source: Any, plan: Any, compiled: Any, k: Any, label_k: Any, batch: Any
) -> None:
    labels = np.array(["cat", "ant", "bee"])[np.arange(23) % 3]
    labelled = in_memory(source.images, labels=labels.tolist())
    asking = plan(network, "edges", k=k, batch=batch, label_k=label_k, labels=("ant", "cat"))
    part, _ = scan(network, labelled, asking, session=ScanSession(scan_pass=compiled(network, asking)))
    maxima = brute_force_maxima(tiny_model, source.images, "edges")
    actual = part.of(ByLabel)["edges"].heap.examples.reshape(2, 4, label_k)
    for place, label in enumerate(asking.labels):
        own = np.flatnonzero(labels == label)
        np.testing.assert_array_equal(actual[place], own[np.argsort(-maxima[own], axis=0, kind="stable")[:label_k]].T)


def test_a_batch_whose_every_response_enters_loses_none(in_memory: Any, plan: Any) -> None:
    identity = one_layer(keras.layers.Identity(name="out"), size=8)
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (150, 8, 8, 3), np.uint8)
    part, _ = scan(identity, in_memory(images), plan(identity, "out", k=150, batch=150))
    expected = Activations.empty(3, 150).update(np.float32(images), np.arange(150))
    heap = part.of(Strongest)["out"].heap
    for name in ("scores", "examples", "rows", "cols"):
        np.testing.assert_array_equal(getattr(heap, name), getattr(expected, name))


def test_images_that_cannot_be_read_are_listed_and_neither_win_nor_count(in_memory: Any, plan: Any) -> None:
    darkest_wins = pointwise(-1, 0)  # an unreadable image comes as black
    source = in_memory(flat_images(9, 5, 7, 6, 8), broken=[1, 4])
    part, times = scan(darkest_wins, source, plan(darkest_wins, "out", k=4, batch=2))
    assert part.of(Strongest)["out"].heap.examples.tolist() == [[3, 2, 0, -1]]
    assert part.of(Statistics)["out"].seen.tolist() == [3] and part.seen == times.images == 3
    assert part.skipped == (Skipped(1, "image1", "torn"), Skipped(4, "image4", "torn"))


def test_as_many_bad_images_as_allowed_pass_and_one_more_stops_the_scan(in_memory: Any, plan: Any) -> None:
    network = pointwise(1, 0)
    images = flat_images(1, 2, 3, 4)
    allowed = plan(network, "out", batch=2, max_bad=0.25)
    assert len(scan(network, in_memory(images, broken=[3]), allowed)[0].skipped) == 1
    with pytest.raises(TooManyBad, match=r"2 of 4 images cannot be read.*max_bad = 0.25.*'image3': torn") as caught:
        scan(network, in_memory(images, broken=[0, 3]), allowed)
    assert caught.value.exit_code == 3 and "\n" not in str(caught.value)


def test_on_bad_fail_stops_at_the_first_bad_image_for_any_max_bad(in_memory: Any, plan: Any) -> None:
    network = pointwise(1, 0)
    with pytest.raises(TooManyBad, match="'image2' cannot be read: torn") as caught:
        scan(network, in_memory(flat_images(1, 2, 3), broken=[2]), plan(network, "out", on_bad="fail", max_bad=1.0))
    assert caught.value.exit_code == 3


def test_a_data_set_with_nothing_readable_gives_empty_heaps_where_that_is_allowed(in_memory: Any, plan: Any) -> None:
    network = pointwise(1, 0)
    part, _ = scan(network, in_memory(flat_images(1, 2), broken=[0, 1]), plan(network, "out", max_bad=1.0))
    assert part.of(Strongest)["out"].heap.examples.max() == -1 and part.seen == 0 and len(part.skipped) == 2


def test_progress_counts_every_image_read_or_not_up_to_all(in_memory: Any, plan: Any) -> None:
    network = pointwise(1, 0)
    calls = []
    source = in_memory(flat_images(1, 2, 3, 4, 5), broken=[1])
    scan(network, source, plan(network, "out", batch=2), session=ScanSession(progress=lambda *news: calls.append(news)))
    assert calls == [(2, 5), (4, 5), (5, 5)]


def test_the_callers_model_is_not_changed(tiny_model: Any, network: Any, source: Any, plan: Any) -> None:
    before = [variable.numpy().tobytes() for variable in tiny_model.weights], tiny_model.to_json()
    scan(network, source, plan(network, *LAYERS))
    assert ([variable.numpy().tobytes() for variable in tiny_model.weights], tiny_model.to_json()) == before


def test_the_parts_that_are_kept_hold_exactly_the_examples_up_to_there(
    network: Any, source: Any, plan: Any, all_layers: Any
) -> None:
    kept = []
    whole, _ = scan(network, source, plan(network, *LAYERS), session=replace(all_layers, keep=kept.append))
    assert [part.done for part in kept] == [5, 10, 15, 20, 23]
    for part in kept:
        alone, _ = scan(network, source, plan(network, *LAYERS), session=replace(all_layers, begun=part))
        assert in_bytes(alone) == in_bytes(whole)
        assert all(heap.examples.max() < part.done for heap in heaps_of(part).values())


@pytest.mark.parametrize("small", [9_500, 16_000, 2**30])  # three images a piece, five, and all nine
def test_pieces_of_any_size_give_the_same_bytes(
    network: Any, in_memory: Any, source: Any, plan: Any, compiled: Any, monkeypatch: pytest.MonkeyPatch, small: Any
) -> None:
    labelled = in_memory(source.images, labels=(["cat", "ant", "bee"] * 8)[:23])
    asking = plan(network, *LAYERS, batch=9, bottom_k=3, label_k=2, labels=("ant", "cat"))
    by_twos, _ = scan(network, labelled, asking, session=ScanSession(scan_pass=compiled(network, asking)))
    monkeypatch.setattr(microbatches, "CACHED_BYTES", small)
    part, _ = scan(network, labelled, asking)
    assert in_bytes(part) == in_bytes(by_twos)


def test_positions_are_the_first_of_each_maximum_in_reading_order_with_and_without_nan(in_memory: Any, plan: Any) -> None:
    network = one_layer(lambda x: keras.ops.sqrt(keras.ops.subtract(x, 1.0)), size=8)  # NaN for black
    asking = plan(network, network.layers()[-1].name, k=12, batch=7)
    session = ScanSession(scan_pass=ScanPass(network, asking))
    for darkest in (1, 0):
        images = np.random.default_rng(1).integers(darkest, 4, (30, 8, 8, 3), np.uint8)
        images[:5, :6] = darkest
        part, _ = scan(network, in_memory(images), asking, session=session)
        with np.errstate(invalid="ignore"):
            maps = np.sqrt(np.float32(images) - 1)
        expected, heap = Activations.empty(3, 12).update(maps, np.arange(30)), heaps_of(part)[asking.layers[0].name]
        for column in ("examples", "rows", "cols", "nans"):
            np.testing.assert_array_equal(getattr(heap, column), getattr(expected, column), err_msg=column)
