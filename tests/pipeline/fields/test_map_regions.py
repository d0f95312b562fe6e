"""Regions of maps: found where a network responds, square, inside the image, and never larger than the map's bright part."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from pipeline.fields import solve_fields
from pipeline.fields.map_regions import MapRegions, half_peak, region_layers, square_box
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


@pytest.mark.parametrize("edges", [(-8, 10, 12, 30), (50, 60, 70, 70), (0, 0, 64, 64), (30, 30, 31, 31), (-5, -5, 80, 20)])
def test_boxes_are_square_inside_the_image_and_hold_what_lies_inside_it(edges: Any) -> None:
    box = square_box(edges, SIZE, SIZE)
    assert min(box.y1, box.x1) >= 0 and max(box.y2, box.x2) <= SIZE
    assert abs(box.height - box.width) <= 1 and box.height >= SIZE // 5
    inside = [min(max(edge, 0), SIZE) for edge in edges]
    assert box.y1 <= inside[0] and box.x1 <= inside[1] and box.y2 >= inside[2] and box.x2 >= inside[3]


def test_a_lone_peak_takes_one_unit_and_a_constant_map_is_all_of_it() -> None:
    lone = np.zeros((7, 7), np.float32)
    lone[2, 5] = 6
    assert half_peak(lone, 2, 5) == pytest.approx((2, 5, 3, 6), abs=0.5)
    assert half_peak(np.ones((7, 9), np.float32), 3, 3) == (0, 0, 7, 9)
    assert half_peak(np.zeros((4, 4), np.float32), 0, 0) == (0, 0, 4, 4)
