"""The names of a network's classes: from a file, from the data, and not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from pipeline.errors import MissingInput, WrongSpec
from pipeline.job import Job
from pipeline.load import parse_spec
from pipeline.models.keras.model import keras_network
from pipeline.models.labels import class_names, count_classes
from pipeline.sources.fit import Fit


@pytest.fixture(scope="module")
def network() -> Any:
    images = keras.Input((8, 8, 3))
    maps = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(images))
    return keras_network(keras.Model(images, keras.layers.Dense(3, activation="softmax")(maps)), "three", None, "none")


def test_classes_are_counted_at_the_logits(network: Any) -> None:
    assert count_classes(network) == 3


def test_a_file_names_the_classes_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\n dog \nbird\n", encoding="utf-8")
    assert class_names(str(tmp_path / "names.txt"), "three", 3, ["x", "y", "z"]) == ("cat", "dog", "bird")


def test_the_data_name_the_classes_where_there_are_as_many() -> None:
    assert class_names(None, "three", 3, ["x", "y", "z"]) == ("x", "y", "z")
    assert class_names(None, "three", 3, ["x", "y"]) is None
    assert class_names(None, "three", 3, None) is None


def test_a_file_of_another_length_is_refused_with_both_numbers(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\n", encoding="utf-8")
    with pytest.raises(WrongSpec, match="2 names, but three has 3 classes"):
        class_names(str(tmp_path / "names.txt"), "three", 3, None)


def test_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"none\.txt"):
        class_names(str(tmp_path / "none.txt"), "three", 3, None)


def job_of(classes: int, data: Any, tmp_path: Path, quiet: Any, **model: Any) -> Job:
    images = keras.Input((8, 8, 3))
    logits = keras.layers.Dense(classes)(keras.layers.GlobalAveragePooling2D()(images))
    network = keras_network(keras.Model(images, keras.layers.Softmax()(logits)), "small", None, "none")
    spec = parse_spec({"name": "a", "model": {"layers": ["dense"], **model}, "data": {"source": "folder:."}})
    return Job(spec, network, (), data, Fit(8, 8), tmp_path, quiet)


def test_a_classifier_of_keras_applications_has_the_names_of_imagenet_where_nothing_else_names_its_classes(
    in_memory: Any, tmp_path: Path, quiet: Any
) -> None:
    pixels = np.zeros((2, 8, 8, 3))
    source, trained = in_memory(pixels, ["cat", "dog"]), {"source": "keras:VGG16", "weights": "vgg16.h5"}
    named = job_of(1000, source, tmp_path, quiet, **trained)
    names = named.class_names()
    assert names is not None and len(names) == 1000 and names[281] == "tabby"
    assert str(named.settings["labels"]) == "imagenet (the classes of keras.applications)"
    for model in ({**trained, "weights": "none"}, {"source": "file:own.keras"}):
        own = job_of(1000, source, tmp_path, quiet, **model)
        assert own.class_names() is None and "labels" not in own.settings
    thousand = in_memory(np.zeros((1000, 8, 8, 3)), [f"n{number:04}" for number in range(1000)])
    of_data = job_of(1000, thousand, tmp_path, quiet, **trained)
    assert of_data.class_names() == tuple(thousand.labels) and "labels" not in of_data.settings
