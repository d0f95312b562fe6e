"""Where the scan's operations run on a machine with a GPU, by the kernels that TensorFlow lists."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.activations import scan_pass
from pipeline.activations.heap_members import Strongest
from pipeline.activations.scan import ScanSession, scan
from pipeline.compiled import microbatches, precision
from pipeline.compiled.devices import prepare_devices
from pipeline.compiled.freezing import FrozenGraph, freeze
from pipeline.compiled.tf_private import without_gpu_kernel
from pipeline.models.keras.model import keras_network


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The graphs of the passes that are compiled from now on, as on a machine with a GPU: each batch goes whole."""
    compiled: list[Any] = []

    def kept(function: Any, *specs: tf.TensorSpec) -> Any:
        compiled.append(FrozenGraph.of(function, *specs).graph)
        return freeze(function, *specs)

    monkeypatch.setattr(microbatches, "freeze", kept)
    monkeypatch.setattr(scan_pass, "microbatch_size", lambda network, batch: batch)
    return compiled


def test_every_operation_of_the_scan_has_a_gpu_kernel(network: Any, source: Any, plan: Any, graphs: list[Any]) -> None:
    scan(network, source, plan(network, "edges", "shapes", "classes"))
    assert [without_gpu_kernel(graph) for graph in graphs] == [[]]


def test_every_operation_of_the_pass_that_counts_nan_has_a_gpu_kernel(in_memory: Any, plan: Any, graphs: list[Any]) -> None:
    inputs = keras.Input((4, 4, 3))
    root = keras.layers.Lambda(lambda pixels: keras.ops.sqrt(pixels - 100.0), name="root")
    network = keras_network(keras.Model(inputs, root(inputs)), "root", None, "none")
    part, _ = scan(
        network, in_memory([np.full((4, 4, 3), level, np.uint8) for level in (50, 150)]), plan(network, "root", batch=2)
    )
    assert part.of(Strongest)["root"].heap.nans.tolist() == [16, 16, 16]
    assert [without_gpu_kernel(graph) for graph in graphs] == [[], []]


def test_tf32_is_on_while_a_scan_in_tf32_runs_and_off_before_and_after(
    network: Any, source: Any, plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "visible_gpus", lambda: ["a GPU"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": (8, 0)})
    is_on, on = tf.config.experimental.tensor_float_32_execution_enabled, {}
    prepare_devices()
    for name in ("float32", "tf32"):
        on[name] = [is_on()]
        session = ScanSession(keep=lambda part, name=name: on[name].append(is_on()))  # type: ignore[misc]
        scan(network, source, replace(plan(network, "edges"), precision=name), session=session)
        on[name].append(is_on())
    assert set(on["float32"]) == {False} and on["tf32"][1:-1] and all(on["tf32"][1:-1])
    assert not on["tf32"][0] and not on["tf32"][-1]
