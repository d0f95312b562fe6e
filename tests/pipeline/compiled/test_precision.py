"""Reduced precision and XLA: the same answers, to within what they may lose."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.activations.member import Thresholds
from pipeline.activations.plan import ScanPlan
from pipeline.activations.scan_pass import ScanPass
from pipeline.compiled import microbatches, precision
from pipeline.compiled.compile import Arithmetic, network_input, pass_of
from pipeline.compiled.freezing import freeze
from pipeline.compiled.precision import reduced
from pipeline.errors import WrongSpec
from pipeline.load import parse_spec
from pipeline.models.keras.model import keras_network

BATCH = 4


@pytest.fixture(scope="module")
def network() -> Any:
    """Two convolutions of real numbers."""
    random = np.random.default_rng(5)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu", name="one")(inputs)
    model = keras.Model(inputs, keras.layers.Conv2D(16, 3, name="two")(x))
    for variable in model.weights:
        variable.assign(random.normal(size=variable.shape))
    return keras_network(model, "real", None, "unit")


@pytest.fixture(scope="module")
def images() -> Any:
    return np.random.default_rng(0).integers(0, 256, (BATCH, 16, 16, 3), np.uint8)


def maps_of(network: Any, images: Any, names: Any = ("one", "two"), **arithmetic: Any) -> Any:
    def read(images: Any) -> Any:
        return network.trace(images, list(names))

    run = pass_of(network, read, BATCH, lambda maps: maps, Arithmetic(**arithmetic))
    return {name: values.numpy() for name, values in freeze(run, network_input(network, BATCH))(images).items()}


def error(maps: Any, exact: Any) -> Any:
    return max(np.abs(maps[name] - exact[name]).max() / np.abs(exact[name]).max() for name in exact)


def has_bfloat16(network: Any) -> Any:
    try:
        maps_of(network, np.zeros((BATCH, 16, 16, 3), np.uint8), precision="bfloat16")
    except WrongSpec:
        return False
    return True


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="bfloat16 is for CPUs")
def test_bfloat16_gives_float32_maps_that_are_near_the_exact_ones_and_not_the_same(network: Any, images: Any) -> None:
    if not has_bfloat16(network):
        pytest.skip("this CPU has no bfloat16")
    exact, reduced_maps = maps_of(network, images), maps_of(network, images, precision="bfloat16")
    assert {values.dtype for values in reduced_maps.values()} == {np.dtype(np.float32)}
    assert 1e-6 < error(reduced_maps, exact) < 0.03


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="bfloat16 is for CPUs")
@pytest.mark.parametrize("small", [1, 2**30])
def test_a_scan_in_bfloat16_may_run_in_microbatches_too(
    network: Any, images: Any, monkeypatch: pytest.MonkeyPatch, small: Any
) -> None:
    if not has_bfloat16(network):
        pytest.skip("this CPU has no bfloat16")
    monkeypatch.setattr(microbatches, "CACHED_BYTES", small)
    layers, batch = network.layers(), np.concatenate([images, images[::-1]])
    closed = {layer.name: Thresholds.closed(layer.channels) for layer in layers}
    plan = ScanPlan(tuple(layers), None, 1, len(batch))
    maxima, exact = (
        {name: peaks.maxima for name, peaks in ScanPass(network, replace(plan, precision=precision)).run(batch, closed).items()}
        for precision in ("bfloat16", "float32")
    )
    assert 1e-6 < error(maxima, exact) < 0.03


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="bfloat16 is for CPUs")
def test_in_bfloat16_every_layer_has_its_own_map_in_any_order_of_layers(network: Any, images: Any) -> None:
    if not has_bfloat16(network):
        pytest.skip("this CPU has no bfloat16")
    for names in (["one", "two"], ["two", "one"]):
        maps = maps_of(network, images, names, precision="bfloat16")
        assert {name: maps[name].shape[-1] for name in names} == {"one": 8, "two": 16}


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="bfloat16 is for CPUs")
def test_relu6_of_a_map_that_is_read_is_computed_in_float32(network: Any) -> None:
    if not has_bfloat16(network):
        pytest.skip("this CPU has no bfloat16")
    random = np.random.default_rng(3)
    first, second = (random.normal(0, 2, (3, 3, 4, 4)).astype(np.float32) for _ in range(2))

    def read(images: Any) -> Any:
        raw = tf.nn.bias_add(tf.nn.conv2d(images, first, 1, "SAME"), [0.5, 1, 2, 3])
        return {"raw": raw, "next": tf.nn.conv2d(tf.nn.relu6(raw), second, 1, "SAME")}

    spec = tf.TensorSpec((2, 8, 8, 4))
    half: Any = reduced(read, spec, "bfloat16", "the network")
    values = random.normal(size=spec.shape).astype(np.float32)
    kinds = [tf.as_dtype(node.attr["T"].type).name for node in half.graph.node if node.op == "Relu6"]
    assert kinds == ["float32"]
    exact, near = ({name: maps.numpy() for name, maps in freeze(run, spec)(values).items()} for run in (read, half))
    assert 1e-6 < error(near, exact) < 0.03


def test_xla_gives_the_same_maps_to_within_rounding(network: Any, images: Any) -> None:
    assert error(maps_of(network, images, xla=True), maps_of(network, images)) < 1e-5


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="float16 is for GPUs")
def test_float16_without_a_gpu_is_refused_in_words_that_say_what_to_set(network: Any, images: Any) -> None:
    with pytest.raises(WrongSpec, match='float16" is for GPUs.*Set "bfloat16"'):
        maps_of(network, images, precision="float16")


def test_a_precision_that_changes_nothing_is_an_error(images: Any) -> None:
    inputs = keras.Input((16, 16, 3))
    network = keras_network(keras.Model(inputs, keras.layers.Identity(name="same")(inputs)), "plain", None, "none")
    pixels = tf.TensorSpec((BATCH, 16, 16, 3), tf.uint8)
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("bfloat16 is for CPUs")
    with pytest.raises(WrongSpec, match="bfloat16' changes nothing: .* the operations of plain"):
        reduced(lambda images: network.trace(network.preprocess(images), ["same"]), pixels, "bfloat16", network.name)


def test_xla_and_a_reduced_precision_together_are_refused_before_any_work() -> None:
    model = {"source": "keras:VGG16", "layers": "*", "precision": "bfloat16", "xla": True}
    with pytest.raises(WrongSpec, match="model.xla = True .* does not go together"):
        parse_spec({"name": "a", "model": model, "data": {"source": "folder:a"}})


@pytest.mark.parametrize(
    ("gpus", "capability", "refused"),
    [
        ([], None, "is for GPUs, and there is none"),
        (["a GPU"], (7, 5), "7.5, and TF32 needs 8.0"),
        (["a GPU"], (8, 6), ""),
    ],
)
def test_tf32_is_for_gpus_that_have_it(gpus: Any, capability: Any, refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "visible_gpus", lambda: gpus)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": capability})
    with pytest.raises(WrongSpec, match=refused) if refused else nullcontext():
        precision.check_device("tf32")
