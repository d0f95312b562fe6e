"""The door: kinds of networks, globs over layers, and what importing the package costs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from pipeline.errors import UnknownLayer, UnknownName
from pipeline.models.keras.model import keras_network
from pipeline.models.registry import KINDS, open_network, select_layers
from pipeline.spec.model import ModelSpec


@pytest.fixture
def network(plain_model: Any) -> Any:
    return keras_network(plain_model, "plain", None, "unit")


@pytest.mark.parametrize("source", ["torch:resnet18", "VGG16", ""])
def test_an_unknown_kind_is_named_with_the_known(source: Any) -> None:
    with pytest.raises(UnknownName, match=f"not a kind of model.source .*known: {':, '.join(sorted(KINDS))}:"):
        open_network(ModelSpec(source=source, layers=["*"]))


def test_importing_the_door_imports_neither_keras_nor_tensorflow() -> None:
    code = "import pipeline.models.registry, sys; sys.exit(bool({'keras', 'tensorflow', 'h5py'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["deep", "conv"], ["conv", "deep"]),
        (["*o*", "pool"], ["conv", "norm", "drop", "pool"]),
        (["[cd]*"], ["conv", "drop", "deep", "classes"]),
        (["*"], ["conv", "norm", "relu", "drop", "deep", "pool", "classes"]),
    ],
)
def test_names_and_globs_choose_layers_once_in_the_networks_order(network: Any, patterns: Any, expected: Any) -> None:
    assert [layer.name for layer in select_layers(network, patterns)] == expected


@pytest.mark.parametrize(("pattern", "near"), [("Conv", "nearest: conv"), ("con", "nearest: conv"), ("block*", "known: ")])
def test_a_pattern_that_matches_nothing_is_an_error_though_others_match(network: Any, pattern: Any, near: Any) -> None:
    with pytest.raises(UnknownLayer, match=f"is not in plain; .*{near}.*convscope layers SPEC"):
        select_layers(network, ["deep", pattern])


def test_a_glob_reaches_nested_layers(nested_model: Any) -> None:
    network = keras_network(nested_model, "outer", None, "unit")
    assert [layer.name for layer in select_layers(network, ["middle/*"])] == ["middle/first", "middle/inner/core", "middle/inner"]
