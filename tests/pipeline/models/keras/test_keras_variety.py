"""Keras models of every make: channels first, grey, any size, half precision, several inputs or outputs."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.compiled.compile import compile_tap
from pipeline.errors import UnknownName, UnusableModel, WrongSpec
from pipeline.models.keras.allowed import OPERATIONS
from pipeline.models.keras.functional import FunctionalReader
from pipeline.models.keras.model import keras_network
from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec

L = keras.layers


def opened(model: Any, tmp_path: Any, **keys: Any) -> Any:
    model.save(tmp_path / "net.keras")
    return open_network(ModelSpec(**{"source": f"file:{tmp_path / 'net.keras'}", "layers": ["*"], "preprocess": "unit", **keys}))


def convolutional(shape: Any, **options: Any) -> Any:
    x = inputs = keras.Input(shape)
    x = L.Conv2D(4, 3, activation="relu", name="conv", **options)(x)
    x = L.GlobalAveragePooling2D(name="pool", **options)(x)
    return keras.Model(inputs, L.Dense(5, name="dense")(x))


def test_channels_first_is_read_as_channels_last_where_the_device_runs_it(pixels: Any) -> None:
    model = convolutional((3, 8, 10), data_format="channels_first")
    network = keras_network(model, "first", None, "unit")
    assert network.input_shape == (8, 10, 3)
    assert [layer.shape for layer in network.layers()] == [(6, 8, 4), (1, 1, 4), (1, 1, 5)]
    images = pixels(2, 8, 10)
    outputs = compile_tap(network, ["conv", "logits"], 2)(images)
    kernel, bias = model.get_layer("conv").get_weights()
    expected = tf.nn.relu(tf.nn.conv2d(images / np.float32(255), kernel, 1, "VALID") + bias)
    np.testing.assert_allclose(outputs["conv"], expected, rtol=1e-4, atol=1e-5)
    assert outputs["logits"].shape == (2, 5)


def test_channels_first_is_refused_where_the_device_cannot_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise tf.errors.InvalidArgumentError(None, None, "only supports NHWC on the CPU [[{{node Conv2D}}]]")

    monkeypatch.setattr(FunctionalReader, "read", fail)
    with pytest.raises(UnusableModel, match=r"first is laid out channels first.*\(only supports NHWC on the CPU\).*a GPU"):
        keras_network(convolutional((3, 8, 10), data_format="channels_first"), "first", None, "unit")


def test_one_grey_channel_of_any_size(tmp_path: Path, pixels: Any) -> None:
    model = convolutional((None, None, 1))
    network = opened(model, tmp_path, size=[7, 9])
    assert network.input_shape == (7, 9, 1) and network.layers()[0].shape == (5, 7, 4)
    grey = (pixels(2, 7, 9) @ np.array([0.299, 0.587, 0.114]))[..., None] / 255
    np.testing.assert_allclose(compile_tap(network, ["logits"], 2)(pixels(2, 7, 9))["logits"], model(grey), rtol=1e-3, atol=1e-5)
    with pytest.raises(WrongSpec, match="takes images of any size. Say which: model.size"):
        opened(model, tmp_path)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
def test_half_precision_is_read_in_single(tmp_path: Path, pixels: Any, policy: Any) -> None:
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(policy)
    try:
        model = convolutional((8, 8, 3))
    finally:
        keras.mixed_precision.set_dtype_policy(before)
    network = opened(model, tmp_path)
    assert [layer.name for layer in network.layers()] == ["conv", "pool", "dense"]
    images = pixels(2, 8, 8)
    outputs = compile_tap(network, ["conv", "logits"], 2)(images)
    assert {value.dtype for value in outputs.values()} == {tf.float32}
    kernel, bias = (value.astype(np.float32) for value in model.get_layer("conv").get_weights())
    expected = tf.nn.relu(tf.nn.conv2d(images / np.float32(255), kernel, 1, "VALID") + bias)
    np.testing.assert_allclose(outputs["conv"], expected, atol=0.03)


def two_outputs() -> Any:
    x = inputs = keras.Input((8, 8, 3))
    x = L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(x))
    return keras.Model(inputs, [L.Dense(2, name="age")(x), L.Dense(7, activation="softmax", name="person")(x)])


def test_of_several_outputs_the_logits_are_to_be_named(tmp_path: Path) -> None:
    network = opened(two_outputs(), tmp_path)
    images = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    with pytest.raises(WrongSpec, match="several outputs that may be the logits: age, person. Name .*model.logits = 'age'"):
        network.trace(images, ["logits"])
    named = opened(two_outputs(), tmp_path, logits="person")
    outputs = named.trace(images, ["logits", "person"])
    np.testing.assert_allclose(tf.nn.softmax(outputs["logits"]), outputs["person"][:, 0, 0], rtol=1e-4)
    assert named.digest() != network.digest()
    with pytest.raises(UnknownName, match="'pesron' is not a layer of .* with one number a class.*nearest: person"):
        opened(two_outputs(), tmp_path, logits="pesron")


def test_inputs_are_for_files_and_graphs() -> None:
    with pytest.raises(WrongSpec, match="model.inputs is for file: and frozen: and onnx: and savedmodel: networks"):
        open_network(ModelSpec(source="keras:MobileNetV2", layers=["*"], inputs={"image": "x"}))


# The operations of keras.ops that a file may not ask for, by what they would do.
LEFT_OUT = {
    "runs functions": "AssociativeScan Cond ForiLoop Function JVP Map Scan Switch VectorizedMap WhileLoop",
    "makes arrays as large as it likes": "Arange Array Bincount ExtractSequences Fold Full Geomspace Histogram ISTFT "
    "Linspace Logspace STFT Scatter Vander",
    "loops as often as it likes": "ArraySplit Diff Rearrange",
    "draws random numbers": "ElasticTransform",
    "is of training": "BinaryCrossentropy CTCLoss CategoricalCrossentropy SparseCategoricalCrossentropy",
    "gives no tensor": "Ndim Size",
    "is not called itself": "Operation SegmentReduction",
}


def test_every_operation_of_keras_is_one_that_files_may_ask_for_or_left_out_for_a_reason() -> None:
    import keras.src.ops as package
    from keras.src.ops.operation import Operation

    modules = [f"keras.src.ops.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    there = {
        (name, module)
        for module in modules
        if not module.endswith("_test")
        for name, value in vars(import_module(module)).items()
        if inspect.isclass(value) and issubclass(value, Operation) and value.__module__ == module
    }
    left_out = {name for names in LEFT_OUT.values() for name in names.split()}
    assert {pair for pair in there if pair[0] not in left_out} == set(OPERATIONS.items())


def by_operations(images: Any) -> Any:
    """What networks are made of that mix by Fourier transforms, move the image, sort, and mend their maps."""
    ops, x = keras.ops, L.Conv2D(4, 3, padding="same", name="conv")(images)
    real, imaginary = ops.ifft2(ops.fft2((x, ops.zeros_like(x))))
    x = ops.hypot(real, imaginary) + ops.fliplr(ops.flipud(x))
    x = ops.where(ops.isfinite(x), x, 0.0)
    x = ops.slice_update(x, (0, 1, 1, 0), 2.0 * x[:, 2:5, 2:5])
    x = ops.hstack([x, ops.cbrt(x)]) + ops.quantile(x, 0.5, axis=(1, 2), keepdims=True)
    x = ops.image.affine_transform(x, np.float32([1, 0, 1, 0, 1, 0, 0, 0]))
    x = L.Conv2D(3, 1, name="late")(ops.sort(x, axis=-1))
    return ops.top_k(L.Dense(5, name="dense")(L.GlobalMaxPooling2D(name="pool")(x)), 3)[0]


def test_networks_made_of_operations_open_as_files_and_as_graphs_and_give_what_keras_gives(tmp_path: Path, pixels: Any) -> None:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, by_operations(inputs))
    model.export(str(tmp_path / "saved"), verbose=False)
    images = pixels(2, 8, 8)
    late = keras.Model(inputs, model.get_layer("late").output)
    expected = late(images / np.float32(255))
    network = opened(model, tmp_path)
    np.testing.assert_allclose(network.trace(network.preprocess(images), ["late"])["late"], expected, rtol=1e-4, atol=1e-5)
    graph = open_network(ModelSpec(source=f"savedmodel:{tmp_path / 'saved'}", layers=["*"], preprocess="unit"))
    name = next(layer.name for layer in graph.layers() if "late" in layer.name and layer.kind == "BiasAdd")
    np.testing.assert_allclose(graph.trace(graph.preprocess(images), [name])[name], expected, rtol=1e-4, atol=1e-5)
