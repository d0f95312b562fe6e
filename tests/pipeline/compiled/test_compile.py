"""Compiled passes against the Keras model itself."""

from __future__ import annotations

import json
import os
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.compiled.compile import compile_pass, compile_tap
from pipeline.compiled.devices import prepare_devices
from pipeline.compiled.freezing import freeze
from pipeline.models.keras.model import keras_network


def state_of(model: Any) -> Any:
    """What a pass could change in a model: its weights, what is trainable, its configuration."""
    weights = [variable.numpy().tobytes() for variable in model.variables]
    return weights, [layer.trainable for layer in model.layers], model.get_config()


def test_the_frozen_tap_gives_the_maps_of_the_model(plain_model: Any, pixels: Any) -> None:
    network = keras_network(plain_model, "plain", None, "symmetric")
    tap = compile_tap(network, ["relu", "deep", "pool"], batch=3)
    images = pixels(3, 16, 16)
    outputs = [plain_model.get_layer(name).output for name in tap.layers]
    expected = keras.Model(plain_model.inputs[0], outputs)(images / np.float32(127.5) - 1, training=False)
    maps = tap(images)
    assert list(maps) == list(tap.layers) == ["relu", "deep", "pool"]
    for ours, theirs in zip(maps.values(), expected, strict=True):
        np.testing.assert_allclose(np.squeeze(ours), np.squeeze(theirs), rtol=1e-4, atol=1e-4)


def test_a_frozen_pass_does_not_follow_later_changes_nor_make_any(plain_model: Any, pixels: Any) -> None:
    network = keras_network(plain_model, "plain", None, "unit")
    before = state_of(plain_model)
    tap = compile_tap(network, ["conv"], batch=2)
    first = tap(pixels(2, 16, 16))["conv"]
    assert state_of(plain_model) == before
    kernel = plain_model.get_layer("conv").kernel
    kernel.assign(kernel * 2)
    np.testing.assert_array_equal(tap(pixels(2, 16, 16))["conv"], first)


def test_the_callers_reduction_and_its_extras_join_the_pass_and_keep_their_structure(plain_model: Any, pixels: Any) -> None:
    network = keras_network(plain_model, "plain", None, "unit")

    def finish(maps: Any, count: Any) -> Any:
        tops = {name: tf.reduce_max(values, (1, 2))[:, :2] for name, values in maps.items()}
        return {"tops": tops, "sizes": (count + 1, [tf.shape(maps["conv"])[1]])}

    run = compile_pass(network, ["deep", "conv"], 2, finish, [tf.TensorSpec((), tf.int64)])
    actual = run(pixels(2, 16, 16), 41)
    assert int(actual["sizes"][0]) == 42 and int(actual["sizes"][1][0]) == 8
    maps = network.trace(network.preprocess(pixels(2, 16, 16)), ["deep", "conv"])
    for name in ("deep", "conv"):
        np.testing.assert_allclose(actual["tops"][name], np.max(maps[name], (1, 2))[:, :2], rtol=1e-4, atol=1e-4)


def test_the_pass_takes_its_one_batch_shape_alone(plain_model: Any, pixels: Any) -> None:
    tap = compile_tap(keras_network(plain_model, "plain", None, "unit"), ["conv"], batch=2)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="shape|Shape"):
        tap(pixels(3, 16, 16))


def test_freezing_leaves_no_variable_reads_in_the_graph() -> None:
    variable = tf.Variable([1.0, 2.0])
    double = freeze(lambda x: [x * variable, {"sum": tf.reduce_sum(x)}], tf.TensorSpec((2,)))
    variable.assign([5.0, 5.0])
    product, rest = double(np.array([3.0, 4.0]))
    assert product.numpy().tolist() == [3.0, 8.0] and float(rest["sum"]) == 7.0


def test_devices_can_be_prepared_with_or_without_a_gpu_and_twice() -> None:
    prepare_devices()
    tf.zeros(1)
    prepare_devices()
    for gpu in tf.config.get_visible_devices("GPU"):
        assert tf.config.experimental.get_memory_growth(gpu)


_SETTINGS = ["TF_CUDNN_USE_AUTOTUNE", "TF_CUDNN_DETERMINISTIC", "CUDA_DEVICE_ORDER"]
_SETTLED = [
    # GPUs there are, whether they are wanted, the user's environment; GPUs chosen, TF32, and the settings
    ("no GPU", [], True, {}, "[] False None None PCI_BUS_ID"),
    ("two GPUs", ["first", "second"], True, {}, "['first', True] False 0 1 PCI_BUS_ID"),
    ("the user's own setting", ["first"], True, {"TF_CUDNN_USE_AUTOTUNE": "1"}, "['first', True] False 1 1 PCI_BUS_ID"),
    ("GPUs that are left to others", ["first", "second"], False, {}, "['none'] False None None PCI_BUS_ID"),
]
_PREPARED = """
import json, os, sys, tensorflow as tf
from pipeline.compiled.devices import prepare_devices

def prepare(gpus, gpu, environment):
    chosen = []
    os.environ.update(environment)
    if gpus:
        tf.config.get_visible_devices = lambda kind: gpus
        tf.config.set_visible_devices = lambda devices, kind: chosen.extend(devices or ["none"])
        tf.config.experimental.set_memory_growth = lambda gpu, grows: chosen.append(grows)
    prepare_devices(gpu=gpu)
    names = {names}
    print(chosen, tf.config.experimental.tensor_float_32_execution_enabled(), *map(os.environ.get, names), flush=True)

for case in json.loads(sys.argv[1]):
    child = os.fork()  # before TensorFlow's first operation, which settles devices for good
    if not child:
        prepare(*case)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.fixture(scope="module")
def settled(program: Any) -> dict[str, str]:
    """{case: what a process of its own says of its devices}."""
    own = {key: None for key in os.environ if key.startswith(("TF_CUDNN_", "CUDA_"))}
    cases = json.dumps([(gpus, gpu, own) for _, gpus, gpu, own, _ in _SETTLED])
    result = program(_PREPARED.replace("{names}", str(_SETTINGS)), cases, environment=own)
    assert result.status == 0, result.err[-2000:]
    return dict(zip([case for case, *_ in _SETTLED], result.out.splitlines(), strict=True))


@pytest.mark.parametrize(("case", "settings"), [(case, settings) for case, *_, settings in _SETTLED])
def test_devices_are_settled_before_the_first_operation(settled: Any, case: str, settings: str) -> None:
    assert settled[case] == settings
