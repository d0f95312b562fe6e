"""`savedmodel:` folders: frozen and read like any graph, or refused with the reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parent))

from frozen_graphs import convolve, opened, plain, v1, weights

from pipeline.compiled.compile import compile_tap
from pipeline.errors import MissingInput, UnusableModel, WrongSpec


def exported(model: Any, folder: Any) -> Any:
    model.export(folder, verbose=False)
    return folder


def saved(folder: Any, run: Any, signatures: Any = None, **tracked: Any) -> Any:
    module = tf.Module()
    for name, value in tracked.items():
        setattr(module, name, value)
    module.run = tf.function(lambda x: run(module, x), input_signature=[tf.TensorSpec((None, 8, 8, 3), name="image")])
    tf.saved_model.save(module, folder, signatures=module.run if signatures is None else signatures(module))
    return folder


def refused(folder: Any, error: Any, words: Any) -> None:
    with pytest.raises(error, match=words) as raised:
        opened(folder, "savedmodel")
    assert "\n" not in str(raised.value)


def test_an_exported_keras_model_gives_the_maps_of_its_layers(plain_model: Any, tmp_path: Path, pixels: Any) -> None:
    network = opened(exported(plain_model, tmp_path / "net"), "savedmodel", preprocess="unit")
    images = network.preprocess(pixels(2, 16, 16))
    assert (network.name, network.input_shape) == ("net", (16, 16, 3))
    names = {layer.name.rpartition("plain_1/")[2]: layer.name for layer in network.layers()}
    outputs = network.trace(images, [names["relu_1/Relu"], "logits"])
    through = keras.Model(plain_model.inputs, plain_model.get_layer("relu").output)
    np.testing.assert_allclose(outputs[names["relu_1/Relu"]], through(images), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tf.nn.softmax(outputs["logits"]), plain_model(images), rtol=1e-4, atol=1e-6)
    assert network.layers()[-1].name == "output_0"


def test_no_name_is_left_from_the_inlining_and_the_digest_is_the_same_in_another_process(
    plain_model: Any, tmp_path: Path
) -> None:
    folder = exported(plain_model, tmp_path / "net")
    network = opened(folder, "savedmodel")
    assert not [layer.name for layer in network.layers() if "Func/" in layer.name]
    code = (
        "from pipeline.models.registry import open_network; from pipeline.spec.model import ModelSpec;"
        f"print(open_network(ModelSpec(source='savedmodel:{folder}', layers=['*'], preprocess='none')).digest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == network.digest() == opened(folder, "savedmodel").digest()


def test_functions_that_stay_do_not_change_the_digest_between_loads(tmp_path: Path) -> None:
    def run(module: Any, x: Any) -> Any:
        return tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, convolve(x, module.kernel)), [0, x])[1]

    folder = saved(tmp_path / "net", run, kernel=tf.Variable(weights(3, 3, 3, 3) / 3))
    one, two = opened(folder, "savedmodel"), opened(folder, "savedmodel")
    assert one.digest() == two.digest()
    images = np.random.default_rng(0).normal(0, 1, (2, 8, 8, 3)).astype(np.float32)
    expected = images
    for _ in range(3):
        expected = convolve(expected, weights(3, 3, 3, 3) / 3)
    np.testing.assert_allclose(one.trace(images, ["output_0"])["output_0"], expected, rtol=1e-3, atol=1e-5)


def test_a_saved_module_with_two_outputs_has_its_logits_by_the_name_in_the_signature(tmp_path: Path, pixels: Any) -> None:
    def run(module: Any, x: Any) -> Any:
        pooled = tf.reduce_mean(convolve(x, module.kernel), (1, 2))
        return {"age": tf.matmul(pooled, weights(4, 2)), "name": tf.nn.softmax(tf.matmul(pooled, weights(4, 7)))}

    folder = saved(tmp_path / "net", run, kernel=tf.Variable(weights(3, 3, 3, 4)))
    network = opened(folder, "savedmodel", logits="name")
    assert compile_tap(network, ["logits"], 2)(pixels(2, 8, 8))["logits"].shape == (2, 7)
    with pytest.raises(WrongSpec, match="several outputs that may be the logits: age, name. .*model.logits"):
        opened(folder, "savedmodel").trace(tf.zeros((1, 8, 8, 3)), ["logits"])


def test_a_savedmodel_of_tf1_is_read_too(tmp_path: Path) -> None:
    with tf.Graph().as_default(), v1.Session() as session:
        plain()
        session.run(v1.global_variables_initializer())
        graph = v1.get_default_graph()
        ends = [{"input": graph.get_tensor_by_name("input:0")}, {"prob": graph.get_tensor_by_name("end:0")}]
        v1.saved_model.simple_save(session, str(tmp_path / "net"), *ends)
    network = opened(tmp_path / "net", "savedmodel")
    images = np.random.default_rng(0).normal(0, 1, (2, 8, 8, 3)).astype(np.float32)
    from frozen_graphs import plain_by_hand

    expected, logits = plain_by_hand(images)
    outputs = network.trace(images, ["conv/Relu", "logits"])
    np.testing.assert_allclose(outputs["conv/Relu"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs["logits"], logits, rtol=1e-4, atol=1e-5)


def test_a_folder_that_is_missing_empty_or_a_file_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "no", MissingInput, "no' is missing")
    refused(tmp_path, MissingInput, "holds no saved_model.pb")
    (tmp_path / "net.pb").touch()
    refused(tmp_path / "net.pb", MissingInput, "is a file.*write frozen:")


def test_a_network_that_was_exported_in_training_mode_is_refused_and_its_remedy_works(tmp_path: Path, pixels: Any) -> None:
    """Keras 3.15 exports a nested model behind Resizing in training mode: TensorFlow itself answers by the batch then."""
    x = inner = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(x))
    nested = keras.Model(inner, keras.layers.GlobalAveragePooling2D()(x))
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.Dense(3)(nested(keras.layers.Resizing(8, 8)(inputs))))
    for training in (True, False):
        archive = keras.export.ExportArchive()
        archive.track(model)
        spec = [keras.InputSpec("float32", (None, 8, 8, 3))]
        archive.add_endpoint("serve", lambda x, training=training: model(x, training=training), spec)
        archive.write_out(tmp_path / str(training), verbose=False)
    refused(tmp_path / "True", UnusableModel, r"exported in training mode.*training=False")
    network = opened(tmp_path / "False", "savedmodel", preprocess="none")
    images = network.preprocess(pixels(2, 8, 8))
    np.testing.assert_allclose(network.trace(images, ["logits"])["logits"], model(images, training=False), rtol=1e-4, atol=1e-3)


def test_a_savedmodel_without_a_signature_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "net", lambda module, x: x * 2, signatures=lambda module: {})
    refused(folder, UnusableModel, "has no signature at all.*serving_default")
    others = saved(tmp_path / "two", lambda module, x: x * 2, lambda module: {"one": module.run, "two": module.run})
    refused(others, UnusableModel, "has only one, two, but none called 'serving_default'")


@pytest.mark.parametrize("share", [0.0, 0.4, 0.9])
def test_a_truncated_savedmodel_is_cut_short(plain_model: Any, tmp_path: Path, share: Any) -> None:
    file = exported(plain_model, tmp_path / "net") / "saved_model.pb"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    refused(tmp_path / "net", UnusableModel, "cannot be read as a SavedModel: the file is cut short")


def test_a_savedmodel_whose_variables_are_missing_is_refused(plain_model: Any, tmp_path: Path) -> None:
    folder = exported(plain_model, tmp_path / "net")
    for file in (folder / "variables").iterdir():
        file.unlink()
    refused(folder, UnusableModel, "cannot be loaded")


def test_a_function_that_writes_files_is_refused_before_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proof = tmp_path / "ran"

    def run(module: Any, x: Any) -> Any:
        tf.io.write_file(str(proof), "x")
        return x * 2

    folder = saved(tmp_path / "net", run)
    monkeypatch.setattr(tf.saved_model, "load", lambda path: pytest.fail("it was loaded"))
    refused(folder, UnusableModel, "'WriteFile' of type WriteFile, which writes files")
    assert not proof.exists()


def test_a_signature_that_restores_files_is_refused_though_all_savedmodels_hold_such_operations(tmp_path: Path) -> None:
    def run(module: Any, x: Any) -> Any:
        read = tf.raw_ops.RestoreV2(prefix="/tmp/x", tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32])
        return x * tf.reduce_sum(read[0])

    refused(saved(tmp_path / "net", run), UnusableModel, "RestoreV2, which reads files")
