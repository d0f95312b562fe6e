"""A survey of heads: random models, read as people's files are, each held against plain Keras.

    python -m bench.heads [--models N] [--seed N]

Every model is a head in a wrapping in a kind of file with its preprocessing inside or outside, drawn at random. convscope
reads it with model.head = "auto" and says what the outputs are. That is

- right, where the kind, the evidence, the probabilities or outputs, and GradCAM are those of plain Keras;
- assumed, where the graph leaves the kind open, convscope said that it assumes one, and it is another;
- asked, where convscope ended in an error that names a key of the spec;
- wrong, where none of these holds. There must be none: the program exits 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ConvscopeError
from pipeline.run import start_tensorflow

SIDE = 12

# By name: the outputs of a model and what they are; the nonlinearity, or None for raw numbers; and its compiled loss.
HEADS: dict[str, tuple[int, str, str | None, str | None]] = {
    "softmax": (5, "softmax", "softmax", None),
    "log_softmax": (4, "softmax", "log_softmax", None),
    "one sigmoid": (1, "sigmoid", "sigmoid", None),
    "sigmoids": (7, "sigmoid", "sigmoid", None),
    "hard sigmoid": (1, "sigmoid", "hard_sigmoid", None),
    "tanh": (2, "linear", "tanh", None),
    "softplus": (1, "linear", "softplus", None),
    "class scores": (6, "softmax", None, None),
    "class scores, compiled": (6, "softmax", None, "sparse_categorical_crossentropy"),
    "labels, compiled": (3, "sigmoid", None, "binary_crossentropy"),
    "regression": (3, "linear", None, None),
    "regression, compiled": (3, "linear", None, "mean_squared_error"),
    "one number": (1, "linear", None, None),
    "a binary logit": (1, "sigmoid", None, None),
    "embedding": (8, "embedding", "norm", None),
}
WRAPPINGS = ("fused", "layer", "reshaped", "dropout", "temperature", "convolution", "cast", "written out")
FILES = ("file:.keras", "file:.h5", "frozen", "savedmodel")
# By name: what a model does to its pixels itself, what the spec says, and what plain Keras is given for pixels of 0 to 255.
PREPROCESSINGS: dict[str, tuple[tuple[float, float] | None, str, Callable[[np.ndarray], np.ndarray]]] = {
    "outside": (None, "unit", lambda pixels: pixels / np.float32(255)),
    "inside": ((1 / 127.5, -1.0), "none", lambda pixels: pixels),
}


def build(head: str, wrapping: str, preprocessing: str, seed: int) -> tuple[Any, Any, Any]:
    """A model, the part of it up to its last convolution, and the function from that map to the evidence, in plain Keras."""
    import keras

    layers, ops = keras.layers, keras.ops
    keras.utils.set_random_seed(seed)
    outputs, _, name, loss = HEADS[head]
    x = inputs = keras.Input((SIDE, SIDE, 3))
    inside = PREPROCESSINGS[preprocessing][0]
    x = layers.Rescaling(*inside)(x) if inside else x
    maps = layers.Conv2D(5, 3, activation="relu", name="conv")(x)
    pooled = layers.GlobalAveragePooling2D()(maps)
    # What stands between the last weights and the nonlinearity: tanh is written out as 2 sigmoid(2 z) - 1.
    factor = 0.5 if wrapping == "temperature" else 2.0 if (wrapping, name) == ("written out", "tanh") else 1.0
    last = layers.Conv2D(outputs, 1, name="last") if wrapping == "convolution" else layers.Dense(outputs, name="last")
    if wrapping == "convolution":
        z = last(layers.Reshape((1, 1, 5))(pooled))
    else:
        z = last(pooled)
    z = z * factor if wrapping == "temperature" else z
    written = {
        "softmax": lambda v: ops.exp(v) / ops.sum(ops.exp(v), axis=-1, keepdims=True),
        "sigmoid": lambda v: 1 / (1 + ops.exp(-v)),
        "tanh": lambda v: 2 * ops.sigmoid(2 * v) - 1,
    }
    if name == "norm":
        y = layers.UnitNormalization()(z)
    elif name is None:
        y = z
    elif wrapping == "written out" and name in written:
        y = written[name](z)
    elif wrapping == "fused" and factor == 1:
        last.activation = keras.activations.get(name)
        y = last(pooled)
    else:
        y = layers.Activation(name)(z)
    if wrapping == "convolution":
        y = layers.Reshape((outputs,))(y)
    elif wrapping == "reshaped":
        y = layers.Reshape((outputs,))(layers.Reshape((1, 1, outputs))(y))
    elif wrapping == "dropout":
        y = layers.Dropout(0.4)(y)
    elif wrapping == "cast":
        y = ops.cast(y, "float32")
    model = keras.Model(inputs, y, name="net")
    last.kernel.assign(30 * last.kernel)
    if loss:
        model.compile(loss=loss)

    def evidence(values: Any) -> Any:
        import tensorflow as tf

        plain = factor * (tf.reduce_mean(values, axis=(1, 2)) @ tf.reshape(last.kernel, (5, outputs)) + last.bias)
        return tf.math.l2_normalize(plain, axis=-1) if name == "norm" else plain

    return model, keras.Model(inputs, maps), evidence


def store(model: Any, file: str, folder: Path) -> str:
    """Write a model as a kind of file. Returns: the spec's `source`."""
    import tensorflow as tf

    from pipeline.compiled.tf_private import constants_for_variables

    if file.startswith("file:"):
        path = folder / f"net{file.removeprefix('file:')}"
        model.save(path)
        return f"file:{path}"
    if file == "savedmodel":
        model.export(folder / "net", verbose=False)
        return f"savedmodel:{folder / 'net'}"
    spec = tf.TensorSpec((None, SIDE, SIDE, 3), tf.float32)
    concrete = tf.function(lambda x: model(x, training=False), autograph=False).get_concrete_function(spec)
    (folder / "net.pb").write_bytes(constants_for_variables(concrete)[1].SerializeToString())
    return f"frozen:{folder / 'net.pb'}"


def judge(head: str, wrapping: str, file: str, preprocessing: str, seed: int) -> tuple[str, str]:
    """What comes of one model, and in words why."""
    import tensorflow as tf

    from pipeline.compiled.graph_walk import last_convolution
    from pipeline.models.registry import open_network
    from pipeline.spec.model import ModelSpec

    model, features, evidence_of = build(head, wrapping, preprocessing, seed)
    pixels = np.random.default_rng(seed).integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.float32)
    _, kind, _, _ = HEADS[head]
    _, mode, prepare = PREPROCESSINGS[preprocessing]
    with tempfile.TemporaryDirectory() as folder:
        try:
            source = store(model, file, Path(folder))
            chosen = "auto" if file.startswith("file:") and preprocessing == "inside" else mode
            network = open_network(ModelSpec(source=source, layers=["*"], preprocess=chosen))  # type: ignore[arg-type]
            said, layer = network.head(), last_convolution(network).name

            def trace(images: Any) -> Any:
                traced = network.trace(network.preprocess(images), ["logits", layer])
                score = tf.reduce_sum(traced["logits"][:, -1])
                (slopes,) = tf.gradients(score, traced[layer])
                return traced["logits"], None if slopes is None else cam(traced[layer], slopes)

            logits, found = tf.function(trace, autograph=False)(tf.constant(pixels))
        except ConvscopeError as error:
            return "asked", str(error)
    if said.kind != kind:
        return ("assumed" if said.assumed else "wrong"), str(said)
    with tf.GradientTape() as tape:
        maps = features(prepare(pixels))
        tape.watch(maps)
        z = evidence_of(maps)
        total = tf.reduce_sum(z[:, -1])
    expected, outputs = cam(maps, tape.gradient(total, maps)).numpy(), model(prepare(pixels)).numpy().reshape(3, -1)
    both = np.hstack([-z, z]) if said.is_binary else z.numpy()
    if not np.allclose(logits, both, rtol=1e-3, atol=1e-4):
        return "wrong", "the evidence"
    if found is not None and not np.allclose(found, expected, rtol=1e-3, atol=1e-4 * max(1e-6, expected.max())):
        return "wrong", "GradCAM"
    probabilities = said.probabilities(np.asarray(logits))
    values = said.activation(np.asarray(logits)) if probabilities is None else probabilities[:, -outputs.shape[1] :]
    outputs = np.exp(outputs) if head == "log_softmax" else outputs
    raw = HEADS[head][2] is None and probabilities is not None  # such a model does not give its probabilities itself
    return ("right", str(said)) if raw or np.allclose(values, outputs, rtol=1e-3, atol=1e-5) else ("wrong", "the outputs")


def cam(maps: Any, slopes: Any) -> Any:
    """GradCAM in TensorFlow."""
    import tensorflow as tf

    return tf.nn.relu(tf.reduce_sum(maps * tf.reduce_mean(slopes, axis=(1, 2), keepdims=True), axis=-1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start_tensorflow()
    random = np.random.default_rng(options.seed)
    counts: Counter[str] = Counter()
    for number in range(options.models):
        # Every head in turn, the rest at random.
        head = list(HEADS)[number % len(HEADS)]
        wrapping, file, preprocessing = (str(random.choice(list(axis))) for axis in (WRAPPINGS, FILES, PREPROCESSINGS))
        verdict, why = judge(head, wrapping, file, preprocessing, number)
        counts[verdict] += 1
        print(f"{verdict:8}  {head}, {wrapping}, {file}, preprocessing {preprocessing}: {why}", flush=True)
    print(", ".join(f"{counts[verdict]} {verdict}" for verdict in ("right", "assumed", "asked", "wrong")))
    sys.exit(bool(counts["wrong"]))


if __name__ == "__main__":
    main()
