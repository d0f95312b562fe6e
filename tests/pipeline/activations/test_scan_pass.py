"""The compiled pass of a scan beside NumPy on the layer's own values."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.activations import scan_pass
from pipeline.activations.member import Thresholds
from pipeline.activations.plan import ScanPlan
from pipeline.activations.scan_pass import ScanPass
from pipeline.compiled.microbatches import in_microbatches
from pipeline.models.keras.model import keras_network

CLAMPS: dict[str, tuple[Any, float]] = {  # and the floor of each
    "ReLU6": (keras.layers.ReLU(6), 0),
    "hard tanh": (lambda x: keras.ops.clip(x, -1, 1), -1),
}


@pytest.mark.parametrize("clamp", CLAMPS)
def test_a_map_that_never_leaves_its_lower_clamp_has_its_maximum_at_the_first_position(clamp: str) -> None:
    layer, floor = CLAMPS[clamp]
    inputs = keras.Input((6, 5, 3))
    kernel, bias = keras.initializers.RandomNormal(seed=0), keras.initializers.Constant([0, -9, 40, floor])
    network = keras_network(
        keras.Model(inputs, layer(keras.layers.Conv2D(4, 1, kernel_initializer=kernel, bias_initializer=bias)(inputs))),
        "net",
        None,
        "none",
    )
    name = network.layers()[-1].name
    images = np.random.default_rng(0).integers(0, 99, (3, 6, 5, 3), np.uint8)
    read = tf.function(lambda images: network.unclipped(images, [name])[name].value)
    raw = read(images.astype(np.float32)).numpy()
    every = Thresholds(*np.full((2, 1, 4), np.nan, np.float32))
    peaks = ScanPass(network, ScanPlan((network.layers()[-1],), None, 1, 3)).run(images, {name: every})[name]
    flat = raw.reshape(3, 30, 4)
    assert peaks.unclipped is not None
    np.testing.assert_allclose(peaks.unclipped, flat.max(axis=1), rtol=1e-5)
    positions = np.empty((3, 4), int)
    positions[peaks.images, peaks.channels] = peaks.rows * 5 + peaks.cols
    assert (flat.max(axis=1)[:, 1] == floor).any() and (flat.max(axis=1)[:, 2] > floor).all()
    np.testing.assert_array_equal(positions, flat.argmax(axis=1))


def test_threads_that_begin_together_have_the_pass_compiled_and_planned_once(
    network: Any, plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow plans a graph anew for each thread that calls it before its first call has ended."""
    make, begun, ended = in_microbatches, [], []

    def made(*arguments: Any) -> Any:
        run = make(*arguments)

        def call(*tensors: Any) -> Any:
            begun.append(run)
            time.sleep(0.2)  # in which the others would begin too
            ended.append(len(begun))
            return run(*tensors)

        return call

    monkeypatch.setattr(scan_pass, "in_microbatches", made)
    of_edges = plan(network, "edges")
    tap, every = ScanPass(network, of_edges), {"edges": Thresholds(*np.full((2, 1, 4), np.nan, np.float32))}
    batches = np.random.default_rng(1).integers(0, 4, (3, of_edges.batch, 16, 16, 3), np.uint8)
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(lambda batch: tap.run(batch, every)["edges"].maxima, batches))
    assert len(set(begun)) == 1 and len(begun) == 3 and ended[0] == 1
    for batch, maxima in zip(batches, together, strict=True):
        np.testing.assert_array_equal(tap.run(batch, every)["edges"].maxima, maxima)
