"""Folding: the same maps to within rounding, with what stood between a convolution and its ReLU in kernel and bias."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.compiled.folding import folded
from pipeline.compiled.freezing import FrozenGraph

IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 15, 16, 4)).astype(np.float32)
_RANDOM = np.random.default_rng(1)
FULL, DEPTHWISE = (_RANDOM.normal(size=shape).astype(np.float32) for shape in ((3, 3, 4, 6), (3, 3, 4, 2)))
SCALE, SHIFT = (_RANDOM.uniform(0.5, 2, count).astype(np.float32) for count in (6, 6))
SCALE8, SHIFT8 = (_RANDOM.uniform(0.5, 2, count).astype(np.float32) for count in (8, 8))


def full(x: Any) -> Any:
    return tf.nn.conv2d(x, FULL, 1, "SAME")


def depthwise(x: Any, stride: int = 1, padding: Any = "SAME") -> Any:
    return tf.nn.depthwise_conv2d(x, DEPTHWISE, [1, stride, stride, 1], padding)


def normalized(x: Any) -> Any:
    return tf.compat.v1.nn.fused_batch_norm(x, SCALE8, SHIFT8, SHIFT8, SCALE8, is_training=False)[0]


def operations(function: Any) -> tuple[Counter[str], list[np.ndarray], list[np.ndarray]]:
    """The operations of a function's folded graph that its outputs need, and its results before and after."""
    frozen = FrozenGraph.of(function, tf.TensorSpec(IMAGES.shape))
    kept = [*frozen.inputs, *frozen.outputs]
    before = frozen.graph.SerializeToString()
    graph = folded(frozen.graph, kept)
    assert frozen.graph.SerializeToString() == before
    owners = [name.partition(":")[0] for name in frozen.outputs]
    needed = tf.compat.v1.graph_util.extract_sub_graph(graph, owners)
    results = []
    for each in (frozen.graph, graph):
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            tf.graph_util.import_graph_def(each, name="")
            results.append(session.run(list(frozen.outputs), {frozen.inputs[0]: IMAGES}))
    return Counter(node.op for node in needed.node), results[0], results[1]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: tf.nn.relu6(depthwise(x) * SCALE8 + SHIFT8),
        lambda x: tf.nn.relu6(SHIFT8 + tf.nn.bias_add(depthwise(x, 2, "VALID"), SHIFT8) * SCALE8),
        lambda x: normalized(depthwise(x)),
        lambda x: tf.nn.relu(full(x) * tf.reshape(SCALE, (1, 1, 1, 6)) + SHIFT),
        lambda x: (full(x) * 3 + SHIFT) * SCALE,
        lambda x: depthwise(x) * SCALE8 * tf.math.rsqrt(SHIFT8),
    ],
    ids=["depthwise", "bias before", "fused normalisation", "full", "more of them", "factors that are computed"],
)
def test_factors_and_sums_go_into_kernel_and_bias(function: Any) -> None:
    kinds, (before,), (after,) = operations(function)
    assert not kinds & Counter(Mul=1, AddV2=1, FusedBatchNormV3=1)
    assert kinds["BiasAdd"] == 1 and kinds["Conv2D"] + kinds["DepthwiseConv2dNative"] == 1
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (y := depthwise(x), y * SCALE8),
        lambda x: (y := depthwise(x)) * SCALE8 + tf.nn.relu(y),
        lambda x: depthwise(x) * tf.reduce_mean(x),
        lambda x: depthwise(x) * np.linspace(1, 2, 16, dtype=np.float32)[:, np.newaxis],
        lambda x: depthwise(x) * np.full(8, 3e38, np.float32) * np.full(8, 1e-38, np.float32) * np.full(8, np.inf, np.float32),
        lambda x: tf.squeeze(depthwise(x)[tf.newaxis] * SCALE8, 0),
    ],
    ids=["an output", "read twice", "not constant", "by column", "not finite", "not of the convolution"],
)
def test_what_others_read_or_what_is_not_of_a_channel_stays(function: Any) -> None:
    kinds, before, after = operations(function)
    assert kinds["Mul"] >= 1
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize(
    ("pads", "stride", "itself"),
    [(((1, 1), (0, 1)), 2, True), (((1, 1), (1, 1)), 1, True), (((0, 1), (0, 1)), 2, False), (((2, 2), (2, 2)), 1, False)],
)
def test_a_depthwise_convolution_pads_itself_where_same_pads_alike(pads: Any, stride: int, itself: bool) -> None:
    kinds, (before,), (after,) = operations(lambda x: depthwise(tf.pad(x, [(0, 0), *pads, (0, 0)]), stride, "VALID"))
    assert (kinds["Pad"] == 0) == itself
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_batch_normalisation_of_keras_goes_into_depthwise_convolutions() -> None:
    random, layers = np.random.default_rng(2), keras.layers
    x = image = keras.Input((15, 16, 4))
    for number in range(2):
        x = layers.BatchNormalization(name=f"norm{number}")(layers.DepthwiseConv2D(3, use_bias=False)(x))
        x = layers.ReLU(6.0)(x)
    model = keras.Model(image, x)
    for variable in model.weights:
        variable.assign(random.uniform(0.5, 1.5, variable.shape))
    kinds, before, after = operations(lambda images: model(images, training=False))
    assert kinds["BiasAdd"] == 2 and not kinds["Mul"] and not kinds["AddV2"]
    np.testing.assert_allclose(after[0], before[0], rtol=1e-4, atol=1e-5)
