"""Frozen graphs of every make, built by TensorFlow itself: TF1 sessions and TF2 functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec

v1 = tf.compat.v1


def weights(*shape: Any, seed: Any = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


def variable(name: Any, value: Any) -> Any:
    return v1.get_variable(name, initializer=tf.constant(value), use_resource=False)


def freeze_v1(folder: Any, build: Any, outputs: Any = None, name: Any = "net") -> Any:
    """Run `build` in a TF1 graph, make its variables constants and write what `outputs` (operations) need."""
    with tf.Graph().as_default() as graph, v1.Session() as session:
        build()
        definition = graph.as_graph_def()
        if outputs:
            session.run(v1.global_variables_initializer())
            definition = v1.graph_util.convert_variables_to_constants(session, definition, outputs)
    return write(folder, definition, name)


def freeze_v2(folder: Any, function: Any, *specs: Any, lower: Any = True, name: Any = "net") -> Any:
    """Trace a function, make its variables constants and write it; `lower`: loops and branches as TF1 has them."""
    concrete = tf.function(function, autograph=False).get_concrete_function(*specs)
    return write(folder, convert_variables_to_constants_v2(concrete, lower_control_flow=lower).graph.as_graph_def(), name)


def write(folder: Any, definition: Any, name: Any = "net") -> Any:
    path = folder / f"{name}.pb"
    path.write_bytes(definition.SerializeToString())
    return path


def opened(path: Any, kind: Any = "frozen", **keys: Any) -> Any:
    return open_network(ModelSpec(**{"source": f"{kind}:{path}", "layers": ["*"], "preprocess": "none", **keys}))


def convolve(x: Any, kernel: Any, strides: Any = 1, name: Any = None, **options: Any) -> Any:
    return tf.nn.conv2d(x, kernel, strides, "SAME", name=name, **options)


def classify(x: Any, classes: Any = 5, name: Any = "logits") -> Any:
    """Global mean, dense, logits."""
    pooled = tf.reduce_mean(x, (1, 2), name="pool")
    return tf.nn.bias_add(
        tf.matmul(pooled, variable("dense/kernel", weights(x.shape[-1], classes, seed=9))),
        np.arange(classes, dtype=np.float32),
        name=name,
    )


def plain(shape: Any = (None, 8, 8, 3)) -> None:
    """input, conv, Relu, pool, logits and a softmax between reshapes: as slim makes them."""
    image = v1.placeholder(tf.float32, shape, name="input")
    x = tf.nn.relu(convolve(image, variable("conv/kernel", weights(3, 3, 3, 4)), 2, name="conv/Conv2D"), name="conv/Relu")
    logits = classify(x, name="scores")
    tf.reshape(tf.nn.softmax(tf.reshape(logits, (-1, 5)), name="prob"), (-1, 5), name="end")


def plain_by_hand(images: Any) -> Any:
    x = tf.nn.relu(convolve(images, weights(3, 3, 3, 4), 2))
    return x, tf.matmul(tf.reduce_mean(x, (1, 2)), weights(4, 5, seed=9)) + np.arange(5, dtype=np.float32)


def random_images(*shape: Any, seed: Any = 1) -> Any:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def with_phase() -> None:
    """A batch normalisation that a TF1 condition puts into training, as FaceNet's graph has it, and dropout's rate."""
    image = v1.placeholder(tf.float32, (None, 8, 8, 3), name="input")
    phase = v1.placeholder(tf.bool, (), name="phase_train")
    keep = v1.placeholder(tf.float32, name="keep_prob")
    x = convolve(image, variable("conv/kernel", weights(3, 3, 3, 4)), name="conv")
    mean, variance = tf.nn.moments(x, (0, 1, 2))
    moving_mean, moving_variance = tf.constant([0.1, 0.2, 0.3, 0.4]), tf.constant([1.0, 2.0, 3.0, 4.0])
    mean, variance = v1.cond(
        phase,
        lambda: (tf.identity(mean), tf.identity(variance)),
        lambda: (tf.identity(moving_mean), tf.identity(moving_variance)),
    )
    x = tf.nn.batch_normalization(x, mean, variance, None, None, 1e-3, name="norm")
    x = v1.cond(tf.logical_not(phase), lambda: tf.nn.relu(x), lambda: -x, name="choice")
    tf.multiply(x, keep, name="end")


def with_phase_by_hand(images: Any, keep: Any, training: Any) -> Any:
    x = convolve(images, weights(3, 3, 3, 4))
    mean, variance = tf.nn.moments(x, (0, 1, 2)) if training else (np.float32([0.1, 0.2, 0.3, 0.4]), np.float32([1, 2, 3, 4]))
    x = tf.nn.batch_normalization(x, mean, variance, None, None, 1e-3)
    return keep * (-x if training else tf.nn.relu(x))


def frozen_with_phase(folder: Any, conditions: Any) -> Any:
    (v1.disable_control_flow_v2 if conditions == "Switch" else v1.enable_control_flow_v2)()
    try:
        path = freeze_v1(folder, with_phase, ["end"])
    finally:
        v1.enable_control_flow_v2()
    return path
