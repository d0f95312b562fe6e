"""Networks that take their images as whole numbers: pixels as they are, gradients after the cast, nothing truncated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import UnusableModel, WrongSpec
from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec


def whole_numbers(*steps: Any) -> Any:
    """A classifier whose input is uint8, as saved for serving, behind some steps."""
    x = inputs = keras.Input((16, 16, 3), dtype="uint8")
    for step in steps:
        x = step(x)
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="dense")(keras.layers.GlobalAveragePooling2D()(x)))


STEPS = {
    "Rescaling": (keras.layers.Rescaling(1 / 127.5, -1),),
    "a cast, then arithmetic": (lambda x: keras.ops.cast(x, "float32"), lambda x: x / 255.0),
    "division": (lambda x: x / 255.0,),
    "resized": (keras.layers.Resizing(12, 12), keras.layers.Rescaling(1 / 255)),
}


@pytest.fixture(params=["file", "savedmodel"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A function: a model as a file or as a SavedModel, opened."""

    def opened(model: Any, **keys: Any) -> Any:
        path = tmp_path / ("net.keras" if request.param == "file" else "net")
        if request.param == "file":
            model.save(path)
        else:
            model.export(path, verbose=False)
        return open_network(ModelSpec(source=f"{request.param}:{path}", layers=["*"], **keys))

    return opened


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_pixels_are_given_as_they_are_and_gradients_pass(steps: Any, opened: Any, pixels: Any) -> None:
    model = whole_numbers(*steps)
    network = opened(model)
    assert str(network.settings["preprocess"]) == "none (its input takes uint8)"
    images = pixels(2, 16, 16)

    def gradient(images: tf.Tensor) -> tf.Tensor:
        prepared = network.preprocess(images)
        logits = network.trace(prepared, ["logits"])["logits"]
        return logits, tf.gradients(tf.reduce_sum(logits[:, 0]), prepared)[0]

    logits, slopes = tf.function(gradient, autograph=False)(tf.constant(images))
    np.testing.assert_allclose(logits, model.predict(images, verbose=0), rtol=1e-3, atol=1e-4)
    # By hand: the same steps on floats, by a tape.
    given = tf.Variable(images.astype(np.float32))
    with tf.GradientTape() as tape:
        x = tf.convert_to_tensor(given)
        for step in steps:
            x = step(x)
        x = model.get_layer("dense")(tf.reduce_mean(model.get_layer("conv")(x), (1, 2)))
        total = tf.reduce_sum(x[:, 0])
    right = tape.gradient(total, given)
    assert np.abs(right).max() > 0
    np.testing.assert_allclose(slopes, right, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("mode", ["symmetric", "unit", "caffe"])
def test_a_preprocessing_that_makes_fractions_is_refused(mode: Any, opened: Any) -> None:
    with pytest.raises(WrongSpec, match=f"'{mode}' gives fractions, but .* takes its images as uint8.*preprocess = \"none\""):
        opened(whole_numbers(*STEPS["Rescaling"]), preprocess=mode)


def test_arithmetic_of_whole_numbers_alone_is_refused_by_name_before_work_starts(tmp_path: Path) -> None:
    halves = whole_numbers(lambda x: keras.ops.cast(x // 2, "float32"))
    halves.save(tmp_path / "net.keras")
    with pytest.raises(UnusableModel, match="takes its images as uint8 and computes with them before they become floats"):
        open_network(ModelSpec(source=f"file:{tmp_path / 'net.keras'}", layers=["*"]))
