"""`file:` models: loaded safely, or refused with the reason."""

from __future__ import annotations

import json
import zipfile
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from pipeline.errors import MissingInput, UnusableModel, WrongSpec
from pipeline.models.keras.allowed import APPLICATIONS
from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec

OF_THE_PROGRAM = 2.0  # a name that code of models uses, and no file holds


def opened(path: Any, **keys: Any) -> Any:
    return open_network(ModelSpec(**{"source": f"file:{path}", "layers": ["*"], "preprocess": "unit", **keys}))


@pytest.fixture(params=[".keras", ".h5"])
def suffix(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_a_saved_model_gives_the_same_maps_again(plain_model: Any, tmp_path: Path, suffix: Any, pixels: Any) -> None:
    plain_model.save(tmp_path / f"net{suffix}")
    network = opened(tmp_path / f"net{suffix}")
    assert (network.name, network.input_shape) == ("net", (16, 16, 3))
    images = network.preprocess(pixels(2, 16, 16))
    logits = network.trace(images, ["logits"])["logits"]
    np.testing.assert_allclose(keras.ops.softmax(logits), plain_model(images), rtol=1e-5, atol=1e-7)


def test_layers_that_keras_applications_define_for_themselves_load(tmp_path: Path, suffix: Any, pixels: Any) -> None:
    package = import_module("keras.src.applications")
    names = [found.name for found in iter_modules(package.__path__) if not found.name.endswith("_test")]
    modules = [import_module(f"{package.__name__}.{name}") for name in names]
    kinds = {
        name: kind
        for module in modules
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, keras.layers.Layer) and kind.__module__ == module.__name__
    }
    assert {name: kind.__module__ for name, kind in kinds.items()} == APPLICATIONS
    x = inputs = keras.Input((16, 16, 3))
    x = kinds["LayerScale"](0.5, 4, name="scaled")(keras.layers.Conv2D(4, 1, name="conv")(x))
    model = keras.Model(
        inputs, kinds["CustomScaleLayer"](0.25, name="added")([x, kinds["StochasticDepth"](0.5, name="dropped")(x)])
    )
    model.get_layer("scaled").gamma.assign([1.0, -2.0, 3.0, 0.5])
    model.save(tmp_path / f"net{suffix}")
    network = opened(tmp_path / f"net{suffix}", preprocess="none", head="map")
    images = pixels(1, 16, 16)
    np.testing.assert_allclose(network.trace(images, ["added"])["added"], model(images), rtol=1e-6)


def test_an_h5_file_of_keras_two_loads(plain_model: Any, tmp_path: Path) -> None:
    path = tmp_path / "old.h5"
    plain_model.save(path)
    with h5py.File(path, "a") as file:
        config = json.loads(file.attrs["model_config"])
        config["class_name"] = "Functional"
        for layer in config["config"]["layers"]:
            layer["config"]["dtype"] = "float32"
            if layer["class_name"] == "InputLayer":
                layer["config"]["batch_input_shape"] = layer["config"].pop("batch_shape")
                layer["config"].pop("optional", None)
            calls = layer["inbound_nodes"]
            layer["inbound_nodes"] = [[[*call["args"][0]["config"]["keras_history"], {}]] for call in calls]
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "2.4.0"
    assert [layer.name for layer in opened(path).layers()][:2] == ["conv", "norm"]


def with_lambda(suffix: Any, tmp_path: Any, nested: Any = False) -> Any:
    """A model whose Lambda writes a file when its bytecode runs: proof of what loading does."""
    proof = str(tmp_path / "ran")
    x = inputs = keras.Input((8, 8, 3))
    # The path stands in the bytecode itself, which has no variables to take it from.
    trap = keras.layers.Lambda(eval(f"lambda x: (open({proof!r}, 'w').close(), x * 2.0)[1]"), name="trap")
    if nested:
        inner = keras.Input((8, 8, 3))
        trap = keras.Model(inner, trap(inner), name="inside")
    x = keras.layers.Conv2D(2, 1, name="conv")(trap(x))
    keras.Model(inputs, x).save(tmp_path / f"net{suffix}")
    (tmp_path / "ran").unlink()
    return tmp_path / f"net{suffix}", tmp_path / "ran"


@pytest.mark.parametrize("nested", [False, True])
def test_bytecode_in_a_lambda_is_refused_by_layer_and_never_run(suffix: Any, tmp_path: Path, nested: Any) -> None:
    path, proof = with_lambda(suffix, tmp_path, nested)
    with pytest.raises(UnusableModel, match=r"layer 'trap'.*model.trusted = true"):
        opened(path)
    assert not proof.exists()


def test_bytecode_runs_once_the_spec_trusts_the_file(suffix: Any, tmp_path: Path) -> None:
    path, proof = with_lambda(suffix, tmp_path)
    assert [layer.name for layer in opened(path, trusted=True).layers()] == ["trap", "conv"]
    assert proof.exists()


def test_a_lambda_in_the_older_form_of_keras_two_is_refused_too(tmp_path: Path) -> None:
    path, _ = with_lambda(".h5", tmp_path)
    with h5py.File(path, "a") as file:
        config = json.loads(file.attrs["model_config"])
        trap = next(layer for layer in config["config"]["layers"] if layer["class_name"] == "Lambda")["config"]
        code = trap["function"]["config"]
        trap.update(function=[code["code"], code["defaults"], code["closure"]], function_type="lambda")
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(UnusableModel, match="layer 'trap'"):
        opened(path)


def test_bytecode_that_this_python_cannot_read_is_an_error_not_a_crash(tmp_path: Path) -> None:
    path, _ = with_lambda(".h5", tmp_path)
    with h5py.File(path, "a") as file:
        config = json.loads(file.attrs["model_config"])
        trap = next(layer for layer in config["config"]["layers"] if layer["class_name"] == "Lambda")["config"]
        trap["function"]["config"]["code"] = "4wEAAAA="
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(UnusableModel, match="cannot be loaded by Keras"):
        opened(path, trusted=True)


def test_a_class_that_keras_lacks_is_named(suffix: Any, tmp_path: Path) -> None:
    class Odd(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return inputs

    inputs = keras.Input((8, 8, 3))
    keras.Model(inputs, Odd()(inputs)).save(tmp_path / f"net{suffix}")
    with pytest.raises(UnusableModel, match="uses 'Odd', which is not part of Keras"):
        opened(tmp_path / f"net{suffix}")


def test_a_weights_file_is_distinguished_from_a_model(plain_model: Any, tmp_path: Path) -> None:
    plain_model.save_weights(tmp_path / "net.weights.h5")
    with h5py.File(tmp_path / "old.h5", "w") as file:  # as save_weights of Keras 2 wrote it
        file.attrs["layer_names"] = [b"conv"]
    for file in ("net.weights.h5", "old.h5"):
        with pytest.raises(UnusableModel, match="holds weights alone.*model.weights"):
            opened(tmp_path / file)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["numbers"] = [1, 2]
    with pytest.raises(UnusableModel, match="holds no Keras model"):
        opened(tmp_path / "data.h5")


def test_missing_truncated_and_foreign_files_give_different_errors(plain_model: Any, tmp_path: Path, suffix: Any) -> None:
    whole = tmp_path / f"net{suffix}"
    plain_model.save(whole)
    half = tmp_path / f"half{suffix}"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    text = tmp_path / f"text{suffix}"
    text.write_text("not a model")
    (tmp_path / "net.pt").write_bytes(b"")
    for path in (half, text):
        with pytest.raises(UnusableModel, match="cut short or something else"):
            opened(path)
    with pytest.raises(UnusableModel, match="no known format"):
        opened(tmp_path / "net.pt")
    with pytest.raises(MissingInput, match="missing"):
        opened(tmp_path / f"nowhere{suffix}")
    with pytest.raises(MissingInput, match="folder"):
        opened(tmp_path)


def test_a_zip_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("letter.txt", "hello")
    with pytest.raises(UnusableModel, match="cannot be read as a .keras model"):
        opened(tmp_path / "a.keras")


def test_keys_that_are_for_keras_networks_are_refused_rather_than_passed_over(plain_model: Any, tmp_path: Path) -> None:
    plain_model.save(tmp_path / "net.keras")
    for key, value in (("weights", "none"), ("top", False)):
        with pytest.raises(WrongSpec, match=f"model.{key} is for keras: (and hub: )?networks"):
            opened(tmp_path / "net.keras", **{key: value})


def test_a_model_that_rescales_inside_gets_its_pixels_as_they_are(tmp_path: Path, pixels: Any) -> None:
    def chain(*layers: Any) -> Any:
        return keras.Sequential([keras.Input((8, 8, 3)), *layers, keras.layers.Conv2D(2, 3)])

    x = inputs = keras.Input((8, 8, 3))
    by_ops = keras.Model(inputs, keras.layers.Conv2D(2, 3)(keras.ops.divide(x, 255.0)))
    for index, model in enumerate(
        [
            chain(keras.layers.ZeroPadding2D(), keras.layers.Rescaling(1 / 255)),
            chain(keras.layers.Normalization(mean=[120.0, 115.0, 100.0], variance=[3600.0, 3500.0, 3700.0])),
            keras.Sequential([keras.Input((8, 8, 3)), chain(keras.layers.Rescaling(1 / 255))]),
            by_ops,
        ]
    ):
        model.save(tmp_path / f"{index}.keras")
        network = opened(tmp_path / f"{index}.keras", preprocess="auto")
        np.testing.assert_array_equal(network.preprocess(pixels(1, 8, 8)), pixels(1, 8, 8).astype(np.float32))


def test_unknown_preprocessing_is_an_error_that_asks_for_it(plain_model: Any, tmp_path: Path) -> None:
    plain_model.save(tmp_path / "net.keras")
    late = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3), keras.layers.Rescaling(0.5)])
    late.save(tmp_path / "late.keras")
    for file in ("net.keras", "late.keras"):
        with pytest.raises(WrongSpec, match="model.preprocess: none, unit, symmetric, caffe, torch, standardize"):
            opened(tmp_path / file, preprocess="auto")


def test_a_saved_application_is_preprocessed_as_its_builder_wants(tmp_path: Path, pixels: Any) -> None:
    base = keras.applications.MobileNetV2(weights=None, alpha=0.35, include_top=False, input_shape=(32, 32, 3))
    base.save(tmp_path / "bare.h5")
    keras.Sequential([keras.Input((32, 32, 3)), base, keras.layers.GlobalMaxPooling2D()]).save(tmp_path / "tuned.keras")
    for file in ("bare.h5", "tuned.keras"):
        actual = opened(tmp_path / file, preprocess="auto").preprocess(pixels(1, 32, 32))
        np.testing.assert_allclose(actual, pixels(1, 32, 32) / 127.5 - 1, atol=1e-6)


def test_a_lambda_that_uses_names_of_its_program_is_refused_with_what_to_do(tmp_path: Path, suffix: Any) -> None:
    image = keras.Input((8, 8, 3))
    keras.Model(image, keras.layers.Lambda(lambda x: OF_THE_PROGRAM * x)(image)).save(tmp_path / f"net{suffix}")
    with pytest.raises(UnusableModel, match=r"Lambda that uses 'OF_THE_PROGRAM'.*model\.export.*savedmodel:FOLDER"):
        opened(tmp_path / f"net{suffix}", trusted=True)


def test_a_layer_of_ones_own_that_is_called_as_one_of_keras_is_not_taken_for_it(tmp_path: Path) -> None:
    class Dense(keras.layers.Dense):
        def call(self, inputs: Any, training: Any = None) -> Any:
            return 100 * super().call(inputs)

    inputs = keras.Input((8, 8, 3))
    keras.Model(inputs, Dense(2, name="mine")(inputs)).save(tmp_path / "net.keras")
    with pytest.raises(UnusableModel, match=r"a class of the file's own, not Keras's Dense \(layer 'mine'\).*model.custom = "):
        open_network(ModelSpec(source=f"file:{tmp_path / 'net.keras'}", preprocess="unit"))
