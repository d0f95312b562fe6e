"""The named preprocessings, against worked figures and against the library's own."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.models.preprocessing import MODES
from pipeline.spec.model import PREPROCESSING

PIXEL = np.array([[[[255, 0, 51]]]], np.float32)


def test_the_spec_and_the_table_name_the_same_modes() -> None:
    assert set(PREPROCESSING) == {"auto", *MODES}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("none", [255, 0, 51]),
        ("unit", [1, 0, 0.2]),
        ("symmetric", [1, -1, -0.6]),
        ("caffe", [51 - 103.939, -116.779, 255 - 123.68]),
        ("torch", [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]),
        ("standardize", (np.array([255, 0, 51]) - 102) / np.std([255, 0, 51])),
    ],
)
def test_each_mode_does_what_it_says_to_one_pixel(mode: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.ravel(MODES[mode](tf.constant(PIXEL))), expected, rtol=1e-5)


@pytest.mark.parametrize(("ours", "theirs"), [("symmetric", "tf"), ("caffe", "caffe"), ("torch", "torch")])
def test_modes_of_the_library_are_matched_on_whole_images(ours: Any, theirs: Any, pixels: Any) -> None:
    images = pixels(2, 5, 7).astype(np.float32)
    expected = keras.applications.imagenet_utils.preprocess_input(images.copy(), mode=theirs)
    np.testing.assert_allclose(MODES[ours](tf.constant(images)), expected, rtol=1e-4, atol=1e-4)


def test_standardize_treats_each_image_by_itself(pixels: Any) -> None:
    images = pixels(3, 8, 8).astype(np.float32)
    images[1] *= 0.1
    actual = np.asarray(MODES["standardize"](images)).reshape(3, -1)
    np.testing.assert_allclose(actual.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(actual.std(1), 1, atol=1e-5)
