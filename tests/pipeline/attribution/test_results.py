"""What is kept of each image and class: the right slot, the right image, the right class, in rows and in pictures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.attribution import heat
from pipeline.attribution.explainer import Explained, Explainer, ImageBatch
from pipeline.attribution.explanation_graph import Answer, LayerWeights
from pipeline.attribution.methods import METHODS
from pipeline.attribution.methods.class_activation import GRADCAM
from pipeline.attribution.methods.gradients import GUIDED_BACKPROP
from pipeline.attribution.pictures import ExplanationPictures
from pipeline.attribution.plan import ExplainPlan
from pipeline.attribution.results import ExplainedOutput, ExplanationResults
from pipeline.attribution.sanity.deletion import DeletionCurves
from pipeline.attribution.sanity.similarity import RandomisationSimilarity
from pipeline.attribution.targets import PREDICTED, Classes, ClassTarget
from pipeline.compiled.guided_relu import Guide
from pipeline.geometry import Box
from pipeline.models.head import softmax
from pipeline.sources.fit import Fit
from pipeline.sources.picking import Picked
from pipeline.sources.source import Image

CAM, GUIDED, PRODUCT = ("gradcam", "end"), ("guided_backprop", None), ("guided_gradcam", "end")
NAMES = Classes(4, ("ant", "bee", "cat", "dog"))


def picked(example: Any = 0, region: Any = Box(0, 0, 30, 40), fill: Any = 0) -> Any:
    pixels = np.full((30, 40, 3), fill, np.uint8)
    pixels[region.y1 : region.y2, region.x1 : region.x2, 0] = 200
    image = Image(f"{example}.png", "bee", pixels, region)
    return Picked(example, image, np.full((8, 12, 3), fill, np.uint8))


class Recorder(ExplanationPictures):
    """Keeps the panels that it draws."""

    def __init__(self, folder: Any, fit: Any, layers: Any = ("end",)) -> None:
        super().__init__(folder, layers, fit)
        self.written = {}

    def _write(self, name: Any, pixels: Any) -> Any:
        self.written[name] = pixels
        return name


def targets_for(asked: Any) -> Any:
    return tuple(ClassTarget(NAMES, target) for target in asked)


def results(folder: Any, fit: Any, guide: Any = None) -> Any:
    pictures = Recorder(folder, fit)
    return ExplanationResults(
        ExplainedOutput(NAMES, targets_for(["predicted", "predicted"])), fit, guide, pictures, None
    ), pictures


def said(several: Any, logits: Any, classes: Any, slots: Any, maps: Any) -> Any:
    """What an explainer says of some images; the maps of one image and class are repeated for all."""
    return Explained(ImageBatch(several, np.stack([picked.fitted for picked in several]), classes), logits, classes, slots, maps)


def fake_explainer(run: Any, keys: Any = (CAM,), size: Any = 2) -> Any:
    """An explainer whose network is a function: float32 images to logits."""

    def answer(images: Any, classes: Any, quantities: Any) -> Any:
        logits = np.asarray(run(images), np.float32)
        return Answer(logits, classes[..., np.newaxis], np.take_along_axis(logits, classes, axis=1), {})

    targets = targets_for(["predicted", 0])
    return Explainer(ExplainPlan(tuple((METHODS[name], layer) for name, layer in keys), targets, size), None, answer)


def test_a_batch_that_is_not_full_is_filled_with_its_last_image() -> None:
    seen = []

    def run(images: Any) -> Any:
        seen.append(images[:, 0, 0, 0].tolist())
        return images.reshape(len(images), -1)[:, :4]

    logits = fake_explainer(run, size=3).logits(
        np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((5, 2, 2, 3), np.uint8)
    )
    assert seen == [[0, 1, 2], [3, 4, 4]] and logits.shape == (5, 4) and logits[:, 0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("asked", "logits", "slots"),
    [
        ([PREDICTED, None, 1], [0, 9, 0], [0]),
        ([None, PREDICTED, 2, 0], [0, 0, 0.5, 9], [1, 2, 3]),
        ([1, 1, 2], [9, 0, 0], [0, 2]),
    ],
)
def test_each_class_of_an_image_is_explained_once_and_what_is_none_not_at_all(asked: Any, logits: Any, slots: Any) -> None:
    def answer(images: Any, classes: Any, quantities: Any) -> Any:
        rows = np.tile(np.float32(logits), (len(images), 1))
        chosen = np.where(classes == PREDICTED, rows.argmax(axis=1)[:, None], classes)
        return Answer(rows, chosen[..., np.newaxis], np.take_along_axis(rows, chosen, axis=1), {})

    explainer = Explainer(ExplainPlan((), targets_for(asked), 1), None, answer)
    images = np.zeros((1, 2, 2, 3), np.uint8)
    assert explainer.explain(ImageBatch([], images, [asked])).slots == [slots]


def test_guided_grad_cam_is_the_product_of_its_two_factors_slot_by_slot() -> None:
    random = np.random.default_rng(0)
    pixels, cams = random.normal(size=(2, 3, 8, 12, 3)), random.random((2, 3, 2, 3))
    values = {GUIDED_BACKPROP.needs(None)[0]: pixels, GRADCAM.needs("end")[0]: cams}
    product = METHODS["guided_gradcam"].explain(SimpleNamespace(of=values.__getitem__), "end")
    for image in range(2):
        for slot in range(3):
            large = heat.enlarge(cams[image, slot], 8, 12)
            np.testing.assert_allclose(product[image, slot], pixels[image, slot] * large[..., None], rtol=1e-6)


def test_the_likeliest_classes_have_their_own_logits_and_probabilities(tmp_path: Path) -> None:
    rows, _ = results(tmp_path, Fit(8, 12))
    logits = np.float32([0.5, 3.0, -1.0, 2.0])
    rows.add(said([picked(7)], logits[np.newaxis], np.array([[0]]), [[]], {}))
    columns = rows.classification
    assert columns["class"] == [1, 3, 0, 2] and columns["name"] == ["bee", "dog", "ant", "cat"]
    assert columns["rank"] == [0, 1, 2, 3] and columns["logit"] == [3.0, 2.0, 0.5, -1.0]
    np.testing.assert_allclose(columns["probability"], softmax(logits)[[1, 3, 0, 2]])
    assert columns["example"] == [7] * 4 and rows.keys == ["7.png"]


def one_class(one: Any, maps: Any) -> Any:
    """What is said of one image and class 2, whose probability is 0.25."""
    logits = np.zeros((1, 4), np.float32)
    return said([one], logits, np.array([[2]]), [[0]], {key: values[np.newaxis, np.newaxis] for key, values in maps.items()})


def test_a_map_is_kept_with_its_own_size_and_its_box_on_the_source(tmp_path: Path) -> None:
    region, fit = Box(10, 20, 26, 40), Fit(8, 12, "stretch")
    collected, pictures = results(tmp_path, fit, Guide("relu", 5))
    cam = np.zeros((4, 6), np.float32)
    cam[1, 4] = 3.0
    guided, gradient = np.ones((8, 12, 3), np.float32), np.ones((8, 12, 3), np.float32)
    collected.add(one_class(picked(region=region), {CAM: cam, GUIDED: guided, PRODUCT: guided, ("gradient", None): gradient}))
    columns = collected.attributions
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    first = rows[0]
    assert (first["map_height"], first["map_width"], first["peak"], first["row"], first["col"]) == (4, 6, 3.0, 1, 4)
    assert [first[edge] for edge in ("y1", "x1", "y2", "x2")] == [2, 8, 4, 10]
    # The window is 16 x 20 pixels from (10, 20) on, of which the network is shown 8 x 12.
    assert [first[f"src_{edge}"] for edge in ("y1", "x1", "y2", "x2")] == pytest.approx([14, 33, 18, 37], abs=1)
    assert [(row["rule"], row["replaced"]) for row in rows] == [(None, None), *[("relu", 5)] * 2, (None, None)]
    files = ["2-gradcam-end.png", "2-guided_backprop.png", "2-guided_gradcam-end.png", "2-gradient.png"]
    assert [row["picture"] for row in rows] == [f"0/{file}" for file in files]
    widths = [pictures.written[f"0/{file}"].shape[1] for file in files]
    assert widths[0] > widths[1] == widths[2] == widths[3]  # a scale of heat beside maps that have one
    assert set(pictures.written) == {*(f"0/{file}" for file in files), "0/2-end.png"}


def test_a_panel_shows_the_window_alone(tmp_path: Path) -> None:
    collected, pictures = results(tmp_path, Fit(8, 12, "stretch"))
    collected.add(one_class(picked(region=Box(10, 20, 26, 40)), {("gradient", None): np.ones((8, 12, 3), np.float32)}))
    assert pictures.written["0/2-gradient.png"].shape[1] == 20 * 11  # 16 x 20, as often as it goes into 224


@pytest.mark.parametrize("sides", ["for", "both"])
def test_where_both_sides_are_asked_for_a_map_of_one_has_the_colours_of_both(sides: Any, tmp_path: Path) -> None:
    pictures = ExplanationPictures(tmp_path, ["end"], Fit(8, 12), sides=sides)
    one_side = np.array([[0, 1], [2, 4]], np.float32)
    other = one_side - (sides == "both")
    paths = pictures.add(picked(0), "1", "cat", {CAM: one_side, ("hirescam", "end"): other})
    pictures.close()
    drawn = [cv2.imread(str(tmp_path / path.removeprefix("mosaics/gradcam/"))) for path in paths.values()]
    strongest = (28, 159, 255)  # orange, in BGR
    assert [(pixels == strongest).all(axis=-1).any() for pixels in drawn] == [sides == "both"] * 2


def test_many_images_go_on_in_another_mosaic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.attribution.pictures._TILES", 2)
    pictures = ExplanationPictures(tmp_path, ["end"], Fit(8, 12))
    for example in range(5):
        pictures.add(picked(example), 1, "cat", {CAM: np.ones((2, 3), np.float32)})
    pictures.close()
    assert {path.name for path in tmp_path.glob("*.png")} == {"end.png", "end-2.png", "end-3.png"}


def test_every_curve_is_of_its_own_image_class_and_map() -> None:
    """The network says of each class how bright the picture is, times the class's number."""

    def forward(images: Any) -> Any:
        bright = images[..., 0].mean(axis=(1, 2)) / 255
        return np.stack([number * 4 * bright for number in range(4)], axis=1)

    curves, several = DeletionCurves(fake_explainer(forward)), [picked(0, fill=255), picked(1, fill=0)]
    images = np.stack([picked.fitted for picked in several])
    images[1, :, 6:] = 255  # its right half
    maps = np.zeros((2, 2, 8, 12), np.float32)
    maps[1, 0, :, 6:], maps[1, 1, :, :6] = 1, 1
    batch = ImageBatch(several, images, [[3, None], [1, 2]])
    curves.add(Explained(batch, np.zeros((2, 4)), np.array([[3, 0], [1, 2]]), [[0], [0, 1]], {CAM: maps}))
    rows = list(zip(*(curves.columns[name] for name in ("example", "class", "kind", "share", "probability")), strict=True))

    def chance(number: Any, bright: Any) -> Any:
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


def test_every_likeness_is_of_its_own_image_slot_and_method() -> None:
    random = np.random.default_rng(0)
    first = {key: random.random((2, 2, 9, 9)).astype(np.float32) for key in (CAM, PRODUCT)}
    later = {key: values.copy() for key, values in first.items()}
    later[PRODUCT][1, 1] = -first[PRODUCT][1, 1]  # of the same energy
    later[CAM][0, 0] = 1 - first[CAM][0, 0]
    numbers = np.array([[3, 0], [1, 2]])
    # Of one weight: the explainer's graph has maps of its own where that is random.
    graph = SimpleNamespace(
        weights=[LayerWeights("kernel", np.ones((2, 2), np.float32), "end")], with_weights=lambda values: values
    )
    explainer = SimpleNamespace(graph=graph, plan=SimpleNamespace(targets=targets_for([3, 1])))
    explainer.with_run = lambda values: SimpleNamespace(maps=lambda images, classes: later if values else first)
    similarity = RandomisationSimilarity(explainer)
    batch = ImageBatch([picked(0), picked(1)], np.zeros((2, 8, 12, 3), np.uint8), numbers.tolist())
    similarity.add(Explained(batch, np.zeros((2, 4)), numbers, [[0, 1], [1]], first))
    names = ("example", "method", "class", "step", "down_to", "rank_correlation")
    rows = list(zip(*(similarity.columns[name] for name in names), strict=True))
    assert len(rows) == 2 * 2 * 3
    for *row, correlation in rows:
        turned = row == [0, "gradcam", 3, 1, "end"]
        assert correlation == pytest.approx(-1.0 if turned else 1.0), row
