"""The names of a network's classes: from a file, from the data, and not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import pytest

from pipeline.errors import MissingInput, WrongSpec
from pipeline.models.keras.model import keras_network
from pipeline.models.labels import class_names, count_classes


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
