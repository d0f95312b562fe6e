"""What is kept of each image and class: the right slot, the right place, the right class, in rows and in pictures."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from pipeline.attribution import heat
from pipeline.attribution.methods import PREDICTED, Explained
from pipeline.attribution.results import Findings
from pipeline.attribution.sanity.deletion import Curves
from pipeline.attribution.sanity.similarity import Similarities
from pipeline.attribution.targets import Classes, softmax
from pipeline.compiled.guided_relu import Guide
from pipeline.geometry import Box
from pipeline.sources.fit import Fit
from pipeline.sources.picking import Picked
from pipeline.sources.source import Image
from pipeline.stages import gradcam as stage

CAM, GUIDED, PRODUCT = ("gradcam", "end"), ("guided_backprop", None), ("guided_gradcam", "end")
NAMES = Classes(4, ("ant", "bee", "cat", "dog"))


def picked(example=0, region=Box(0, 0, 30, 40), fill=0):
    pixels = np.full((30, 40, 3), fill, np.uint8)
    pixels[region.y1 : region.y2, region.x1 : region.x2, 0] = 200
    image = Image(f"{example}.png", "bee", pixels, region)
    return Picked(example, image, np.full((8, 12, 3), fill, np.uint8))


class Album:
    """Keeps what it is given instead of writing it."""

    def __init__(self):
        self.singles, self.rows = [], []

    def single(self, one, number, method, layer, pixels):
        self.singles.append((number, method, layer, pixels))
        return f"{number}-{method}.png"

    def row(self, one, number, layer, panels, caption):
        self.rows.append((layer, [panel.title for panel in panels], caption))


def test_a_batch_that_is_not_full_is_filled_with_its_last_image():
    assert stage._filled(np.arange(3), 5).tolist() == [0, 1, 2, 2, 2] and stage._filled(np.arange(3), 3).tolist() == [0, 1, 2]


def test_each_class_of_an_image_is_explained_once_and_what_is_none_not_at_all():
    assert stage._chosen([PREDICTED, None, 1], np.array([1, 0, 1])) == [0]
    assert stage._chosen([None, PREDICTED, 2, 3], np.array([0, 3, 2, 3])) == [1, 2]


def test_guided_grad_cam_is_the_product_of_its_two_factors_slot_by_slot():
    random = np.random.default_rng(0)
    pixels, cams = random.normal(size=(2, 3, 8, 12, 3)), random.random((2, 3, 2, 3))
    explained = Explained(None, None, {GUIDED: pixels, CAM: cams})
    assert stage._map_of(CAM, explained) is cams
    found = stage._map_of(PRODUCT, explained)
    for place in range(2):
        for slot in range(3):
            large = heat.enlarge(cams[place, slot], 8, 12)
            np.testing.assert_allclose(found[place, slot], pixels[place, slot] * large[..., None], rtol=1e-6)


def test_the_likeliest_classes_have_their_own_logits_and_chances():
    found = Findings(["end"], NAMES, Fit(8, 12), None, Album())
    logits = np.float32([0.5, 3.0, -1.0, 2.0])
    found.classify(picked(7), logits)
    columns = found.classification
    assert columns["class"] == [1, 3, 0, 2] and columns["name"] == ["bee", "dog", "ant", "cat"]
    assert columns["rank"] == [0, 1, 2, 3] and columns["logit"] == [3.0, 2.0, 0.5, -1.0]
    np.testing.assert_allclose(columns["probability"], softmax(logits)[[1, 3, 0, 2]])
    assert columns["example"] == [7] * 4 and found.seen == ["7.png"]


def test_a_map_is_kept_with_its_own_size_and_its_box_on_the_source():
    album, region, fit = Album(), Box(10, 20, 26, 40), Fit(8, 12, "stretch")
    found = Findings(["end"], NAMES, fit, Guide("rectifiers", 5), album)
    cam = np.zeros((4, 6), np.float32)
    cam[1, 4] = 3.0
    guided, gradient = np.ones((8, 12, 3), np.float32), np.ones((8, 12, 3), np.float32)
    one = picked(region=region)
    found.explain(one, 2, 0.25, {CAM: cam, GUIDED: guided, PRODUCT: guided, ("gradient", None): gradient})
    rows = [dict(zip(found.attributions, values, strict=True)) for values in zip(*found.attributions.values(), strict=True)]
    first = rows[0]
    assert (first["map_height"], first["map_width"], first["peak"], first["row"], first["col"]) == (4, 6, 3.0, 1, 4)
    assert [first[edge] for edge in ("y1", "x1", "y2", "x2")] == [2, 8, 4, 10]
    # The window is 16 x 20 pixels from (10, 20) on, of which the network is shown 8 x 12.
    assert [first[f"src_{edge}"] for edge in ("y1", "x1", "y2", "x2")] == pytest.approx([14, 33, 18, 37], abs=1)
    assert [(row["rule"], row["replaced"]) for row in rows] == [(None, None), *[("rectifiers", 5)] * 2, (None, None)]
    assert [row["picture"] for row in rows] == [f"2-{row['method']}.png" for row in rows]
    (layer, titles, caption) = album.rows[0]
    assert layer == "end" and caption == "cat  25.0%"
    assert titles == ["image", "GradCAM, 0 to 3", "guided backprop", "Guided-GradCAM", "gradient"]
    widths = [pixels.shape[1] for *_, pixels in album.singles]
    assert widths[0] > widths[1] == widths[2] == widths[3]  # a scale of heat beside maps that have one


def test_a_panel_shows_the_window_alone():
    album = Album()
    found = Findings(["end"], NAMES, Fit(8, 12, "stretch"), None, album)
    found.explain(picked(region=Box(10, 20, 26, 40)), 2, 0.25, {("gradient", None): np.ones((8, 12, 3), np.float32)})
    *_, pixels = album.singles[0]
    assert pixels.shape[1] == 20 * 11  # 16 x 20, as often as it goes into 224


def test_every_curve_is_of_its_own_image_class_and_map():
    """The network says of each class how bright the picture is, times the class's number."""

    def forward(images):
        bright = images[..., 0].mean(axis=(1, 2)) / 255
        return tf.constant(np.stack([number * 4 * bright for number in range(4)], axis=1), tf.float32)

    curves, several = Curves(forward, 2), [picked(0, fill=255), picked(1, fill=0)]
    images = np.stack([one.shown for one in several])
    images[1, :, 6:] = 255  # its right half
    maps = np.zeros((2, 2, 8, 12), np.float32)
    maps[1, 0, :, 6:], maps[1, 1, :, :6] = 1, 1
    curves.add(several, images, SimpleNamespace(classes=np.array([[3, 0], [1, 2]])), {CAM: maps}, [[0], [0, 1]])
    rows = list(zip(*(curves.columns[name] for name in ("example", "class", "kind", "share", "probability")), strict=True))

    def chance(number, bright):
        return softmax(np.float32([4 * bright * other for other in range(4)]))[number]

    at = {row[:3]: [] for row in rows}
    for row in rows:
        at[row[:3]].append(row[4])
    assert [key[:2] for key in at] == [(0, 3), (0, 3), (1, 1), (1, 1), (1, 2), (1, 2)]
    np.testing.assert_allclose(at[0, 3, "deletion"], chance(3, 1.0), rtol=1e-5)  # white on white
    np.testing.assert_allclose([at[1, 1, "deletion"][0], at[1, 1, "insertion"][-1]], chance(1, 0.5), rtol=1e-5)
    np.testing.assert_allclose(at[1, 2, "insertion"][-1], chance(2, 0.5), rtol=1e-5)
    # Half of its pixels gone: those that were white, or those that were black; the mean colour is grey.
    np.testing.assert_allclose(at[1, 1, "deletion"][10], chance(1, 0.25), rtol=2e-2)
    np.testing.assert_allclose(at[1, 2, "deletion"][10], chance(2, 0.75), rtol=2e-2)


def test_every_likeness_is_of_its_own_image_slot_and_method():
    random = np.random.default_rng(0)
    first = {key: random.random((2, 2, 9, 9)).astype(np.float32) for key in (CAM, PRODUCT)}
    later = {key: values.copy() for key, values in first.items()}
    later[PRODUCT][1, 1] = -first[PRODUCT][1, 1]  # of the same energy
    later[CAM][0, 0] = 1 - first[CAM][0, 0]
    cascade = SimpleNamespace(steps=lambda images, classes: [(0, "", first), (2, "end", later)])
    likeness = Similarities(cascade)
    classes = SimpleNamespace(classes=np.array([[3, 0], [1, 2]]))
    likeness.add([picked(0), picked(1)], None, classes, first, [[0, 1], [1]], lambda key, said: said[key])
    names = ("example", "method", "class", "step", "down_to", "rank_correlation")
    rows = list(zip(*(likeness.columns[name] for name in names), strict=True))
    assert len(rows) == 2 * 2 * 3
    for *row, correlation in rows:
        turned = row == [0, "gradcam", 3, 2, "end"]
        assert correlation == pytest.approx(-1.0 if turned else 1.0), row
