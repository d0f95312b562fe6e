"""Regions of maps: found where a network responds, square, inside the image, and never larger than the map's bright part."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from pipeline.fields import solve_fields
from pipeline.fields.map_regions import MapRegions, half_peaks, region_layers, square_boxes
from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec

SIZE = 64


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A channel that answers to brightness and one to darkness, eight pixels a unit, and a layer of one unit."""
    inputs = keras.Input((SIZE, SIZE, 3))
    pooled = keras.layers.AveragePooling2D(8, name="pooled")(inputs)
    maps = keras.layers.Conv2D(2, 1, name="maps")(pooled)
    outputs = keras.layers.GlobalAveragePooling2D(name="one")(maps)
    model = keras.Model(inputs, outputs)
    model.get_layer("maps").set_weights([np.array([[[[1, -1]] * 3]], np.float32) / 3, np.zeros(2, np.float32)])
    path = tmp_path_factory.mktemp("model") / "bright.keras"
    model.save(path)
    return open_network(ModelSpec(source=f"file:{path}", layers=["maps"], preprocess="none"))


def regions_of(network: Any, images: Any, units: Any) -> Any:
    layers = [layer for layer in network.layers() if layer.name == "maps"]
    regions = MapRegions(network, layers, solve_fields(network, layers))
    return regions.find(np.array(images, np.uint8), {"maps": np.array(units)})["maps"]


def spots(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    image = np.full((SIZE, SIZE, 3), 10, np.uint8)
    for y1, x1, y2, x2 in boxes:
        image[y1:y2, x1:x2] = 250
    return image


def test_a_region_holds_the_bright_part_around_the_unit_and_no_other(network: Any) -> None:
    """Units of eight pixels: the spot of rows 16 to 40 is rows 2 to 4; the other spot is not connected with it."""
    image = spots((16, 24, 40, 48), (48, 0, 64, 8))
    boxes, maps = regions_of(network, [image], [(0, 3, 4, 0), (0, 7, 0, 0)])
    y1, x1, y2, x2 = boxes[0]
    assert abs(y1 - 16) <= 2 and abs(x1 - 24) <= 2 and abs(y2 - 40) <= 2 and abs(x2 - 48) <= 2
    assert boxes[1][0] >= 44 and boxes[1][3] <= 20
    assert maps.shape == (2, 8, 8) and (maps[0][2:5, 3:6] > 250).all() and maps[0][0, 7] < 20


def test_the_maps_that_a_scan_has_kept_give_the_regions_of_a_second_pass(network: Any) -> None:
    image = spots((16, 24, 40, 48), (48, 0, 64, 8))
    layers = [layer for layer in network.layers() if layer.name == "maps"]
    regions = MapRegions(network, layers, solve_fields(network, layers))
    unit = image.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3, 4))
    shares = np.rint(255 * unit / unit.max()).astype(np.uint8).reshape(1, 64)
    kept = regions.of_shares("maps", shares.repeat(2, axis=0), np.array([3, 7]), np.array([4, 0]))
    read = regions.find(image[np.newaxis], {"maps": np.array([(0, 3, 4, 0), (0, 7, 0, 0)])})["maps"]
    for ours, theirs in zip(kept, read, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_any_number_of_images_gives_each_unit_its_own_image(network: Any) -> None:
    corners = [(8 * (n % 6), 8 * (n // 6)) for n in range(36)]
    images = [spots((y, x, y + 16, x + 16)) for y, x in corners]
    boxes, _ = regions_of(network, images, [(n, y // 8, x // 8, 0) for n, (y, x) in enumerate(corners)])
    for (y, x), box in zip(corners, boxes, strict=True):
        assert np.abs(box - [y, x, y + 16, x + 16]).max() <= 2


def test_a_channel_that_is_always_negative_has_regions_too(network: Any) -> None:
    dark = 255 - spots((16, 16, 32, 32))
    boxes, _ = regions_of(network, [dark], [(0, 2, 2, 1)])
    assert np.abs(boxes[0] - [16, 16, 32, 32]).max() <= 2


def test_layers_of_one_unit_have_no_regions_and_small_fields_only_when_asked(network: Any) -> None:
    layers = [layer for layer in network.layers() if layer.name in ("maps", "one")]
    fields = solve_fields(network, layers)
    assert region_layers(layers, fields, (SIZE, SIZE), every=False) == []
    assert [layer.name for layer in region_layers(layers, fields, (SIZE, SIZE), every=True)] == ["maps"]


def test_boxes_are_square_inside_the_image_and_hold_what_lies_inside_it() -> None:
    edges = np.array([(-8, 10, 12, 30), (50, 60, 70, 70), (0, 0, 64, 64), (30, 30, 31, 31), (-5, -5, 80, 20)], float)
    boxes = square_boxes(edges, SIZE, SIZE)
    assert boxes.min() >= 0 and boxes.max() <= SIZE
    heights, widths = (boxes[:, 2:] - boxes[:, :2]).T
    assert np.abs(heights - widths).max() <= 1 and heights.min() >= SIZE // 5
    inside = np.clip(edges, 0, SIZE)
    assert (boxes[:, :2] <= inside[:, :2]).all() and (boxes[:, 2:] >= inside[:, 2:]).all()


def test_a_lone_peak_takes_one_unit_and_a_constant_map_is_all_of_it() -> None:
    lone = np.zeros((7, 9), np.float32)
    lone[2, 5] = 6
    maps = np.stack([lone, np.ones((7, 9), np.float32), np.zeros((7, 9), np.float32)])
    boxes = half_peaks(maps, np.array([2, 3, 0]), np.array([5, 3, 0]))
    assert boxes[0] == pytest.approx((2, 5, 3, 6), abs=0.5)
    assert boxes[1:].tolist() == [[0, 0, 7, 9]] * 2


def test_a_region_is_the_same_whatever_else_is_asked_for(network: Any) -> None:
    """More units of one map than OpenCV takes channels at a time."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (10, SIZE, SIZE, 3))
    units = np.stack([random.integers(0, most, 1200) for most in (10, 8, 8, 2)], axis=1)
    boxes, maps = regions_of(network, images, units)
    for number in (0, 127, 128, 1199):
        box, cells = regions_of(network, images, units[number : number + 1])
        assert box[0].tolist() == boxes[number].tolist() and np.abs(cells[0].astype(int) - maps[number]).max() <= 1
