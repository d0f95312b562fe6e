"""Kernels as pictures, read back pixel by pixel: every weight in its place, with its sign, on the scale that is stated."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from pipeline.filters.colours import colour_inputs
from pipeline.filters.kernel_sheet import Limits, draw_kernel
from pipeline.models.keras.model import keras_network
from pipeline.models.network import Kernel

LAYERS = keras.layers
MARK = (255, 176, 0)


def kernel(height: Any, width: Any, inputs: Any, filters: Any, groups: Any = 1, seed: Any = 0) -> Any:
    weights = np.random.default_rng(seed).normal(size=(height, width, inputs, filters)).astype(np.float32)
    return Kernel(weights, groups)


def find(picture: Any, tile: Any) -> Any:
    """Where, and how large, a tile is drawn: y, x, pixels a weight; it must be there exactly once at its largest."""
    high, wide = tile.shape[:2]
    same = [(picture == tile[corner]).all(axis=2) for corner in ((0, 0), (-1, -1))]
    for size in range(min(48, picture.shape[0] // high, picture.shape[1] // wide), 0, -1):
        down, right = high * size - 1, wide * size - 1
        corners = same[0][: same[0].shape[0] - down, : same[0].shape[1] - right] & same[1][down:, right:]
        large = tile.repeat(size, axis=0).repeat(size, axis=1)
        actual = [
            (int(y), int(x))
            for y, x in np.argwhere(corners)
            if np.array_equal(picture[y : y + high * size : max(1, size - 1), x : x + wide * size], large[:: max(1, size - 1)])
        ]
        if actual:
            assert len(actual) == 1
            return *actual[0], size
    raise AssertionError("the tile is not on the picture")


def grey(weights: Any, largest: Any) -> Any:
    """(h, w) or (h, w, 3) as it must look: white is the largest, black its opposite, 128 nothing."""
    values = np.rint(128 + 127 * np.clip(weights / largest, -1, 1)).astype(np.uint8)
    return values if values.ndim == 3 else np.repeat(values[..., np.newaxis], 3, axis=2)


def in_reading_order(places: Any) -> Any:
    return sorted(places) == places and len(set(places)) == len(places)


@pytest.mark.parametrize(
    ("shape", "groups"), [((3, 3, 5, 4), 1), ((5, 2, 4, 6), 2), ((2, 3, 2, 2), 1)], ids=["standard", "grouped", "small"]
)
def test_a_row_is_a_filter_and_a_column_an_input(shape: Any, groups: Any) -> None:
    drawn = kernel(*shape, groups)  # type: ignore[call-arg]
    picture = draw_kernel("layer", drawn, Limits("channel")).picture
    largest = np.abs(drawn.weights).max()
    places = [
        [find(picture, grey(drawn.weights[:, :, place, filter], largest)) for place in range(shape[2])]
        for filter in range(shape[3])
    ]
    rows, columns = np.array(places)[..., 0], np.array(places)[..., 1]
    assert (rows == rows[:, :1]).all() and (np.diff(rows[:, 0]) >= shape[0] * places[0][0][2]).all()
    assert (columns == columns[:1]).all() and (np.diff(columns[0]) >= shape[1] * places[0][0][2]).all()
    assert len({size for row in places for _, _, size in row}) == 1


def test_a_kernel_of_1_x_1_is_a_matrix_of_squares() -> None:
    drawn = kernel(1, 1, 7, 5)
    picture = draw_kernel("layer", drawn, Limits("channel")).picture
    *_, size = find(picture, grey(drawn.weights[0, 0].T, np.abs(drawn.weights).max()))
    assert size >= 9


@pytest.mark.parametrize("sort", ["channel", "norm"])
def test_a_depthwise_kernel_is_a_tile_a_filter_in_the_order_asked_for(sort: Any) -> None:
    drawn = kernel(3, 3, 1, 12, groups=12)
    picture = draw_kernel("layer", drawn, Limits(sort)).picture
    norms = np.sqrt(np.square(drawn.weights).sum(axis=(0, 1, 2)))
    order = range(12) if sort == "channel" else np.argsort(-norms)
    largest = np.abs(drawn.weights).max()
    assert in_reading_order([find(picture, grey(drawn.weights[:, :, 0, filter], largest))[:2] for filter in order])


def test_the_largest_norms_come_first_and_what_is_left_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    monkeypatch.setattr(
        "pipeline.filters.kernel_sheet.contact_sheet", lambda lines, body, *rest: said.append((lines, rest)) or body
    )
    drawn = kernel(3, 3, 9, 8)
    drawn.weights[..., 5] *= 10
    drawn.weights[:, :, 7] *= 10
    actual = draw_kernel("layer", drawn, Limits("norm", filters=3, inputs=2))
    norms = np.square(drawn.weights).sum(axis=(0, 1, 2))
    assert actual.filters.sum() == 3 and actual.filters[5] and set(np.flatnonzero(actual.filters)) == set(np.argsort(-norms)[:3])
    (title, subtitle, meaning), (notes, scale) = said[0]
    assert title == "layer: standard kernel, 3 x 3, 9 inputs, 8 filters"
    assert subtitle == "A row is a filter: 3 of 8, the largest norm first. A column is an input: 2 of 9, the largest norm first."
    assert [note.text for note in notes if note.upright] == [str(filter) for filter in np.argsort(-norms)[:3]]
    assert next(note.text for note in notes if not note.upright) == "7"
    assert meaning == "White is positive, black negative, grey zero."
    assert scale.high == f"{np.abs(drawn.weights).max():.3g}" and scale.low == f"-{scale.high}"
    assert scale.palette[0].tolist() == [0, 0, 0] and scale.palette[255].tolist() == [255, 255, 255]


def test_a_few_outliers_lie_beyond_the_scale_and_this_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    monkeypatch.setattr(
        "pipeline.filters.kernel_sheet.contact_sheet", lambda lines, body, *rest: said.append((lines, rest)) or body
    )
    drawn = kernel(3, 3, 30, 30)
    drawn.weights[1, 1, 0, 0] = 1000
    draw_kernel("layer", drawn, Limits())
    (_, _, meaning), (_, scale) = said[0]
    assert float(scale.high) < 5 and "0.10% of the weights lie beyond the scale." in meaning


def test_huge_layers_make_pictures_of_bounded_size() -> None:
    for shape, groups, most in (
        ((3, 3, 400, 500), 1, 1),
        ((1, 1, 900, 1200), 1, 1),
        ((3, 3, 1, 4000), 4000, 1),
        ((31, 31, 60, 60), 1, 1),
    ):
        drawn = draw_kernel("layer", kernel(*shape, groups), Limits())
        assert max(drawn.picture.shape) < 1700 and most <= drawn.filters.sum() < shape[3]
    asked = draw_kernel("layer", kernel(1, 1, 300, 300), Limits(filters=300, inputs=300))
    assert asked.filters.all() and 9 * 300 < max(asked.picture.shape) < 3000


def test_zeros_are_grey_and_what_is_no_number_is_marked() -> None:
    weights = np.zeros((3, 3, 1, 2), np.float32)
    weights[0, 1, 0, 1], weights[2, 2, 0, 1], weights[1, 1, 0, 0] = np.nan, np.inf, -0.5
    picture = draw_kernel("layer", Kernel(weights, 2), Limits("channel")).picture
    expected = np.full((2, 3, 3, 3), 128, np.uint8)
    expected[0, 1, 1] = 1
    expected[1, 0, 1] = expected[1, 2, 2] = MARK
    assert in_reading_order([find(picture, tile)[:2] for tile in expected])


# Colours.


def colour_model(*before: Any, filters: Any = 3) -> Any:
    x = inputs = keras.Input((8, 8, 3))
    for layer in before:
        x = layer(x)
    x = LAYERS.Conv2D(filters, 3, name="first")(x)
    return keras.Model(inputs, LAYERS.Conv2D(2, 1, name="second")(x))


@pytest.mark.parametrize("mode", ["none", "unit", "symmetric", "caffe", "torch", "standardize"])
def test_a_filter_for_red_is_drawn_red_for_any_preprocessing(mode: Any) -> None:
    order = {"red": 0, "green": 1, "blue": 2} if mode != "caffe" else {"red": 2, "green": 1, "blue": 0}
    model = colour_model(LAYERS.ZeroPadding2D(1), LAYERS.Rescaling(-0.5, 3.0))
    network = keras_network(model, "net", None, mode)
    weights = np.zeros((3, 3, 3, 3), np.float32)
    for filter, colour in enumerate(order):
        weights[1, 1, order[colour], filter] = 1
    model.get_layer("first").kernel.assign(weights)
    (actual,) = network.kernels(["first"])["first"]
    colours = colour_inputs(network, "first", actual)
    assert colours == tuple(order.values())
    picture = draw_kernel("first", actual, Limits("channel"), colours).picture
    tiles = np.full((3, 3, 3, 3), 128, np.uint8)
    tiles[[0, 1, 2], 1, 1, [0, 1, 2]] = 255
    assert in_reading_order([find(picture, tile)[:2] for tile in tiles])


def test_colours_are_for_kernels_that_see_the_image_alone() -> None:
    model = colour_model()
    passing = np.zeros((3, 3, 3, 3), np.float32)
    passing[1, 1] = np.eye(3)  # what it learned is to let colours pass, and still it learned them
    model.get_layer("first").kernel.assign(passing)
    network = keras_network(model, "net", None, "none")
    kernels = network.kernels(["first", "second"])
    assert colour_inputs(network, "first", *kernels["first"]) == (0, 1, 2)
    assert colour_inputs(network, "second", *kernels["second"]) is None  # three inputs, but learned ones
    flipped = keras.Input((8, 8, 3))
    model = keras.Model(flipped, LAYERS.Conv2D(2, 3, name="first")(keras.ops.flip(flipped, axis=3)))
    network = keras_network(model, "net", None, "none")
    assert colour_inputs(network, "first", *network.kernels(["first"])["first"]) == (2, 1, 0)
    model = colour_model(LAYERS.Lambda(lambda x: keras.ops.mean(x, 3, keepdims=True) + 0 * x))
    network = keras_network(model, "net", None, "none")
    assert colour_inputs(network, "first", *network.kernels(["first"])["first"]) is None  # all three are grey


@pytest.mark.parametrize("limits", [Limits("channel"), Limits("norm"), Limits("norm", filters=3)], ids=["all", "sorted", "some"])
@pytest.mark.parametrize("colours", [None, (0, 1, 2)], ids=["matrix", "tiles"])
def test_every_filter_is_where_its_box_says(limits: Any, colours: Any) -> None:
    drawn = kernel(3, 3, 3, 6, seed=5)
    drawing = draw_kernel("layer", drawn, limits, colours)
    assert drawing.filters.sum() == (limits.filters or 6)
    for filter in np.flatnonzero(drawing.filters):
        y1, x1, y2, x2 = drawing.boxes[filter]
        end = np.abs(drawn.weights).max()
        weights = drawn.weights[..., filter] if colours else drawn.weights[:, :, 0, filter]
        inputs = np.argsort(-np.square(drawn.weights, dtype=np.float64).sum(axis=(0, 1, 3)), kind="stable")
        first = weights if colours or limits.sort == "channel" else drawn.weights[:, :, inputs[0], filter]
        y, x, size = find(drawing.picture, grey(first, end))
        assert (y, x) == (y1, x1) and y2 == y1 + 3 * size and x2 >= x1 + 3 * size


def test_a_large_kernel_of_1_x_1_shows_the_strongest_inputs_of_each_filter_in_white_and_black() -> None:
    drawn = kernel(1, 1, 40, 30)
    sheet = draw_kernel("layer", drawn, Limits("channel"), inputs_of="before")
    assert sheet.filters.all()
    for filter, (y1, x1, y2, x2) in enumerate(sheet.boxes):
        weights = drawn.weights[0, 0, :, filter]
        strongest = weights[np.argsort(-np.abs(weights))[:5]]
        line = sheet.picture[(y2 - 3), x1:x2, 0].astype(int)
        bars = [line[start : start + 44] for start in range(0, x2 - x1, 50)]
        assert len(bars) == 5
        for bar, weight in zip(bars, strongest, strict=True):
            white, black = int((bar == 255).sum()), int((bar == 0).sum())
            expected = max(1, round(min(abs(weight) / np.abs(drawn.weights).max(), 1) * 22))
            assert abs((white if weight > 0 else black) - expected) <= 1 and (black if weight > 0 else white) == 0
        assert (sheet.picture[y1 : y1 + 11, x1:x2].max(axis=(0, 2)) > 150).any()  # the inputs' numbers


def test_inputs_that_are_asked_for_make_a_matrix_of_a_large_kernel_too() -> None:
    drawn = kernel(1, 1, 40, 5)
    picture = draw_kernel("layer", drawn, Limits("channel", inputs=40)).picture
    assert find(picture, grey(drawn.weights[0, 0].T, np.abs(drawn.weights).max()))[2] >= 9
