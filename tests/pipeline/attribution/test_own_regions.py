"""Own regions: a class is explained where the network predicts it in the image as it was; against plain Keras."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from explaining import stored

import convscope
from pipeline import load_spec, run
from pipeline.run import open_job
from pipeline.store.tables import read_index

layers = keras.layers
SIDE, PATCH = 16, 4


def segmenter() -> tuple[Any, Any]:
    """A network of three classes at every position, of which the last is never predicted; and the same without its softmax."""
    keras.utils.set_random_seed(4)
    inputs = keras.Input((SIDE, SIDE, 3))
    maps = layers.Conv2D(8, 5, activation="relu", padding="same", name="conv")(inputs)
    last = layers.Conv2D(3, 1, name="last", kernel_initializer=keras.initializers.RandomNormal(stddev=2.0, seed=3))
    z = last(maps)
    last.bias.assign([0.0, 0.0, -50.0])
    return keras.Model(inputs, layers.Softmax()(z), name="net"), keras.Model(inputs, z)


@pytest.fixture
def job(write_spec: Any, tmp_path: Path) -> Any:
    """A function: the spec of a job that explains two images of a model."""

    def job(source: str, lines: str) -> Any:
        path = write_spec(tmp_path / "job.toml", model={"source": source, "layers": ["*"], "preprocess": "unit"})
        path.write_text(f"{path.read_text()}[gradcam]\nfirst = 2\n{lines}\n")
        return load_spec(path, ['stages=["gradcam"]'])

    return job


def first_images(job: Any) -> Any:
    """The first two images as the network is given them."""
    return np.stack([job.fit.apply(image.seen) for _, image in job.source.fetch([0, 1])]) / np.float32(255)


def occlusion_by_hand(plain: Any, image: np.ndarray, number: int, region: np.ndarray) -> np.ndarray:
    """What the mean of a class's number over a region loses behind each square, averaged over the squares of a pixel."""
    starts = range(0, SIDE - PATCH + 1, PATCH // 2)
    squares = [(slice(y, y + PATCH), slice(x, x + PATCH)) for y in starts for x in starts]
    images = np.stack([image] * (len(squares) + 1))
    for black, square in zip(images[1:], squares, strict=True):
        black[square] = 0
    scores = (plain(images).numpy()[..., number] * region).sum(axis=(1, 2)) / region.sum()
    sums, times = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE))
    for square, score in zip(squares, scores[1:], strict=True):
        sums[square] += scores[0] - score
        times[square] += 1
    return sums / times


@pytest.mark.parametrize("kind", ["file", "frozen"])
def test_the_region_of_a_class_stays_as_the_image_is_changed(kind: str, job: Any, quiet: Any, tmp_path: Path) -> None:
    model, plain = segmenter()
    lines = 'methods = ["occlusion", "integrated_gradients"]\narrays = true\npatch = 0.25\nsanity = "curves"'
    spec = job(stored(model, kind, tmp_path), lines)
    folder = run(spec, tmp_path / "out", reporter=quiet)
    images, results = first_images(open_job(spec, folder, quiet)), convscope.open(folder)
    maps = list(results.maps("occlusion"))
    assert len(maps) == 2
    for stored_map, image in zip(maps, images, strict=True):
        region = plain(image[np.newaxis]).numpy()[0].argmax(axis=-1) == stored_map.number
        assert 0 < region.sum() < SIDE * SIDE and stored_map.target.endswith(" in its own region")
        expected = occlusion_by_hand(plain, image, stored_map.number, region)
        np.testing.assert_allclose(stored_map.values, expected, atol=2e-3 * np.abs(expected).max())
    for example, (path, image) in enumerate(zip(results.maps("integrated_gradients"), images, strict=True)):
        several = plain(np.stack([image, np.zeros_like(image)])).numpy()[..., path.number]
        region = plain(image[np.newaxis]).numpy()[0].argmax(axis=-1) == path.number
        ends = several[:, region].mean(axis=1)
        assert path.values.sum() == pytest.approx(ends[0] - ends[1], rel=0.01)
        curve = [
            row["value"]
            for row in read_index(folder, "curves").to_pylist()
            if (row["example"], row["kind"], row["method"]) == (example, "deletion", "occlusion")
        ]
        gone = np.broadcast_to((image * 255).mean(axis=(0, 1)).round() / np.float32(255), image.shape)
        assert curve[-1] == pytest.approx(model(gone[np.newaxis]).numpy()[0, ..., path.number][region].mean(), abs=1e-4)


def test_a_class_that_is_predicted_nowhere_has_no_map_and_the_stage_says_so(job: Any, reporter: Any, tmp_path: Path) -> None:
    lines = 'targets = [{ class = 2, region = "predicted" }, 2]\nmethods = "gradcam"\nlayers = "conv"\narrays = true'
    spec = job(stored(segmenter()[0], "file", tmp_path), lines)
    folder = run(spec, tmp_path / "out", reporter=reporter)
    assert {row["target"] for row in read_index(folder, "attributions").to_pylist()} == {"2"}
    said = [line for line in reporter.lines if line.startswith("2 in its own region: 2 images left out, such as ")]
    assert len(said) == 1 and "predicts the class at none of their positions" in said[0]
    assert said[0] in json.loads((folder / "run.json").read_text())["stages"]["gradcam"]["blanks"]


def test_a_picture_of_what_was_left_out_says_why_there_is_none(job: Any, quiet: Any, command: Any, tmp_path: Path) -> None:
    lines = 'targets = [{ class = 2, region = "predicted" }, { class = 0, region = "predicted" }]\nmethods = "gradcam"'
    spec = job(stored(segmenter()[0], "file", tmp_path), f'{lines}\nlayers = "conv"\npictures = 1')
    folder = run(spec, tmp_path / "out", reporter=quiet)
    undrawn = read_index(folder, "attributions").to_pylist()[-1]
    asked = ("picture", folder, "--image", undrawn["key"], "--target")
    status, _, error = command(*asked, "2 in its own region")
    assert status == 2 and "no map of '2 in its own region' can be drawn. 2 in its own region: 1 image left out" in error
    assert "predicts the class at none of their positions" in error
    status, path, error = command("picture", folder, "--image", 7, "--target", undrawn["target"])
    assert status == 0 and Path(path.strip()).is_file(), error
    status, _, error = command(*asked, "zebra")
    assert status == 2 and "'zebra': that is no class, and no title of a target" in error
