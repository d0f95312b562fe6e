"""Whole models that Keras 2 saved, made by the real one (make_keras2_models.py): opened, and computing what it computed."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.errors import UnusableModel
from pipeline.models.keras.keras2 import SPELLINGS
from pipeline.models.keras.keras2_functions import FUNCTIONS
from pipeline.models.keras.keras_file import load_model

ARCHIVE = Path(__file__).with_name("keras2_models.zip")
with zipfile.ZipFile(ARCHIVE) as archive:
    FILES = sorted(name for name in archive.namelist() if not name.endswith(".npz"))

# Rows for what newer versions of Keras 2 no longer write: (layer, key, value that it had).
OLDER = [
    ("Attention", "causal", False),
    ("ReLU", "threshold", {"type": "ndarray", "value": 0.0}),
    ("Conv2D", "input_dtype", "float32"),
    ("InputLayer", "type_spec", None),
    ("BatchNormalization", "renorm", False),
    ("BatchNormalization", "renorm_clipping", None),
    ("BatchNormalization", "renorm_momentum", 0.99),
    ("BatchNormalization", "virtual_batch_size", None),
    ("BatchNormalization", "adjustment", None),
    ("BatchNormalization", "fused", True),
]
# What other versions called a function, and what the archive has for it.
OTHER_NAMES = {
    "math.floordiv": "compat.v1.floor_div",
    "nn.sigmoid": "math.sigmoid",
    "nn.tanh": "math.tanh",
    "nn.softplus": "math.softplus",
    "nn.max_pool": "nn.max_pool2d",
    "compat.v1.expand_dims": "expand_dims",
    "nn.swish": "nn.silu",
    "nn.l2_normalize": "math.l2_normalize",
    "math.divide": "math.truediv",
    "transpose": "compat.v1.transpose",
    "squeeze": "compat.v1.squeeze",
    "pad": "compat.v1.pad",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keras2")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(path)
    return path


def config_of(path: Path) -> Any:
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))
    with h5py.File(path) as file:
        return json.loads(file.attrs["model_config"])


def layers_of(config: Any) -> Iterator[dict[str, Any]]:
    if isinstance(config, dict):
        if isinstance(config.get("config"), dict):
            yield config
        for value in config.values():
            yield from layers_of(value)
    if isinstance(config, list):
        for value in config:
            yield from layers_of(value)


def edited(source: Path, target: Path, edit: Any) -> Path:
    target.write_bytes(source.read_bytes())
    with h5py.File(target, "a") as file:
        config = json.loads(file.attrs["model_config"])
        for layer in layers_of(config):
            edit(layer)
        file.attrs["model_config"] = json.dumps(config)
    return target


def outputs_of(path: Path, name: str) -> None:
    expected = dict(np.load(path.with_name(f"{name}.npz")))
    model = load_model(path, {})
    outputs = model(expected.pop("images"), training=False)
    half = "float16" in str([layer.compute_dtype for layer in model.layers])
    for theirs, ours in zip(expected.values(), outputs if isinstance(outputs, list | tuple) else [outputs], strict=True):
        assert np.ptp(theirs) > 1e-4  # else anything would do
        np.testing.assert_allclose(ours, theirs, atol=1e-3 if half else 1e-5, rtol=1e-5)


@pytest.mark.parametrize("file", FILES)
def test_a_file_of_keras_2_computes_what_keras_2_computed(folder: Path, file: str) -> None:
    outputs_of(folder / file, Path(file).stem)


def test_every_row_of_the_tables_is_in_a_file_of_keras_2(folder: Path) -> None:
    layers = [layer for file in FILES for layer in layers_of(config_of(folder / file))]
    keys = {(layer.get("class_name"), key) for layer in layers for key in layer["config"]} | {
        (name, key) for name, key, _ in OLDER
    }
    for spelling in SPELLINGS:
        classes = {name for name, key in keys if key == spelling.key}
        assert classes & set(spelling.layers) if spelling.layers else classes, spelling
    functions = {layer["config"].get("function") for layer in layers if "OpLambda" in layer["class_name"]}
    assert FUNCTIONS.keys() - functions == OTHER_NAMES.keys()


@pytest.mark.parametrize(("layer", "key", "value"), OLDER)
def test_settings_that_older_versions_wrote_are_left_out(folder: Path, tmp_path: Path, layer: str, key: str, value: Any) -> None:
    def edit(entry: dict[str, Any]) -> None:
        if entry["class_name"] == layer:
            entry["config"][key] = value

    name = "attention" if layer == "Attention" else "depthwise"
    path = edited(folder / f"{name}.h5", tmp_path / "old.h5", edit)
    (tmp_path / f"{name}.npz").write_bytes((folder / f"{name}.npz").read_bytes())
    outputs_of(path, name)


@pytest.mark.parametrize(("layer", "key", "value"), [("BatchNormalization", "renorm", True), ("DepthwiseConv2D", "groups", 2)])
def test_settings_that_keras_3_does_not_have_are_refused_by_name(
    folder: Path, tmp_path: Path, layer: str, key: str, value: Any
) -> None:
    def edit(entry: dict[str, Any]) -> None:
        if entry["class_name"] == layer:
            entry["config"][key] = value

    with pytest.raises(UnusableModel, match=rf"sets {key} = {value} in its layer .*load it with tf-keras.*savedmodel:"):
        load_model(edited(folder / "depthwise.h5", tmp_path / "new.h5", edit), {})


@pytest.mark.parametrize("other", sorted(OTHER_NAMES))
def test_functions_are_known_by_the_names_of_other_versions(folder: Path, tmp_path: Path, other: str) -> None:
    def edit(entry: dict[str, Any]) -> None:
        if entry["config"].get("function") == OTHER_NAMES[other]:
            entry["config"]["function"] = other

    name = next(
        Path(file).stem
        for file in FILES
        if any(layer["config"].get("function") == OTHER_NAMES[other] for layer in layers_of(config_of(folder / file)))
    )
    (tmp_path / f"{name}.npz").write_bytes((folder / f"{name}.npz").read_bytes())
    outputs_of(edited(folder / f"{name}.h5", tmp_path / "other.h5", edit), name)


@pytest.mark.parametrize(
    ("function", "arguments", "reason"),
    [
        ("io.read_file", {}, r"calls 'tf.io.read_file' in its layer 'tf.cast'"),
        ("numpy_function", {}, "calls 'tf.numpy_function'"),
        ("image.resize", {"size": [8, 8], "method": "gaussian"}, "with method = 'gaussian'"),
        ("math.reduce_mean", {"axis": ["conv2d", 0, 0]}, "with a setting that is computed"),
        ("math.reduce_mean", {"surprise": 1}, "with surprise"),
        ("math.add", {}, "without y"),
    ],
)
def test_other_functions_of_tensorflow_are_refused_by_name(
    folder: Path, tmp_path: Path, function: str, arguments: dict[str, Any], reason: str
) -> None:
    def edit(entry: dict[str, Any]) -> None:
        if entry["config"].get("function") == "cast":
            entry["config"]["function"] = function
            entry["inbound_nodes"][0][3] = arguments

    with pytest.raises(UnusableModel, match=f"{reason}.*load it with tf-keras.*savedmodel:FOLDER"):
        load_model(edited(folder / "operators.h5", tmp_path / "new.h5", edit), {})


def test_layers_that_keras_3_lacks_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    def edit(entry: dict[str, Any]) -> None:
        if entry["class_name"] == "DepthwiseConv2D":
            entry["class_name"] = "LocallyConnected2D"

    with pytest.raises(UnusableModel, match=r"uses 'LocallyConnected2D'.*model.custom.*load it with tf-keras"):
        load_model(edited(folder / "depthwise.h5", tmp_path / "new.h5", edit), {})


def test_a_call_in_training_mode_is_refused_where_it_changes_answers(folder: Path, tmp_path: Path) -> None:
    def edit(entry: dict[str, Any]) -> None:
        if entry["class_name"] in ("BatchNormalization", "ReLU"):
            entry["inbound_nodes"][0][0][3]["training"] = True

    with pytest.raises(UnusableModel, match="calls its layer 'batch_normalization.*' with training=True.*training=False"):
        load_model(edited(folder / "depthwise.h5", tmp_path / "new.h5", edit), {})

    def nested(entry: dict[str, Any]) -> None:
        if entry["config"].get("name") == "base":
            entry["inbound_nodes"][0][0][3]["training"] = True

    with pytest.raises(UnusableModel, match="calls its layer 'base' with training=True"):
        load_model(edited(folder / "frozen.h5", tmp_path / "nested.h5", nested), {})


def test_a_class_of_a_package_of_its_own_is_not_taken_for_the_one_of_keras(folder: Path, tmp_path: Path) -> None:
    def edit(entry: dict[str, Any]) -> None:
        if entry["class_name"] == "Rescaling":
            entry["class_name"] = "Custom>Rescaling"

    with pytest.raises(UnusableModel, match=r"uses 'Custom>Rescaling'.*model\.custom"):
        load_model(edited(folder / "scales.h5", tmp_path / "own.h5", edit), {})
