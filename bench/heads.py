"""A survey of heads: random models, read as people's files are, each held against plain Keras.

    python -m bench.heads [--models N] [--seed N]

Every model is a head in a wrapping, with one or two inputs and outputs, in a kind of file, with its preprocessing inside or
outside, drawn at random. convscope reads it with model.head = "auto" and says what the outputs are. That is

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.detectors import DETECTORS, Detector, detector_of
from pipeline.errors import ConvscopeError
from pipeline.run import start_tensorflow

SIDE, CHANNELS = 12, 5  # of the images, and of the last map before the head
META = (0.5, -1.0)  # what the second input is given

# By name: how many outputs and what they are; the nonlinearity, or None for raw numbers; and the compiled loss.
HEADS: dict[str, tuple[int, str, str | None, str | None]] = {
    "softmax": (4, "softmax", "softmax", None),
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
    "a binary logit, compiled": (1, "sigmoid", None, "binary_crossentropy"),
    "embedding": (8, "embedding", "norm", None),
    "map of a softmax": (3, "map", "softmax", None),
    "map of sigmoids": (2, "map", "sigmoid", None),
    "map of one sigmoid": (1, "map", "sigmoid", None),
    "map of class scores": (3, "map", None, None),
    **{name: (form.classes, "boxes", form.nonlinearity, None) for name, form in DETECTORS.items()},
}
WRAPPINGS = ("fused", "layer", "reshaped", "dropout", "temperature", "convolution", "cast", "written out")
FORMS = ("alone", "alone", "two inputs", "two outputs", "two outputs, all of them", "two outputs, each by its name")
FILES = ("file:.keras", "file:.h5", "frozen", "savedmodel")


@dataclass(frozen=True)
class Preprocessing:
    """What a model does to its pixels itself, what the spec says, and what plain Keras is given for pixels of 0 to 255."""

    inside: Callable[[Any], Any] | None
    said: str = "auto"
    given: Callable[[np.ndarray], np.ndarray] = lambda pixels: pixels


PREPROCESSINGS = {
    "outside, named": Preprocessing(None, "unit", lambda pixels: pixels / np.float32(255)),
    "outside, auto": Preprocessing(None, "auto", lambda pixels: pixels / np.float32(255)),
    "a Rescaling inside": Preprocessing(lambda x: _layers().Rescaling(1 / 127.5, -1.0)(x)),
    "written out inside": Preprocessing(lambda x: x / 127.5 - 1.0),
    "a Lambda inside": Preprocessing(lambda x: _layers().Lambda(lambda v: v / 255.0)(x)),
}


@dataclass(frozen=True)
class Drawn:
    """One model of the survey, by the names of its parts."""

    head: str
    wrapping: str
    form: str
    file: str
    preprocessing: str
    seed: int

    def __str__(self) -> str:
        return f"{self.head}, {self.wrapping}, {self.form}, {self.file}, preprocessing {self.preprocessing}"

    @property
    def kind(self) -> str:
        return HEADS[self.head][1]


@dataclass(frozen=True)
class Expected:
    """One output in plain Keras.

    evidence: a tensor from the last map and the second input. number: of the output among the model's.
    """

    kind: str
    evidence: Callable[[Any, Any], Any]
    number: int = 0
    raw: bool = False  # whether the model leaves the probabilities to the reader
    is_logarithm: bool = False
    detector: Detector | None = None


def _layers() -> Any:
    import keras

    return keras.layers


def build(drawn: Drawn) -> tuple[Any, Any, list[Expected]]:
    """A model, the part of it up to the last map before its head, and its outputs by plain Keras."""
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(drawn.seed)
    image = keras.Input((SIDE, SIDE, 3), name="photo")
    inside = PREPROCESSINGS[drawn.preprocessing].inside
    x = inside(image) if inside else image
    maps = layers.Conv2D(CHANNELS, 3, activation="relu", name="conv")(x)
    inputs = [image]
    pooled = layers.GlobalAveragePooling2D()(maps)
    if drawn.form == "two inputs":
        inputs.append(keras.Input((len(META),), name="meta"))
        pooled = layers.Concatenate()([pooled, inputs[1]])
    if drawn.kind == "boxes":
        outputs, evidence = detector_of(DETECTORS[drawn.head], maps, SIDE)
        ends = [Expected("boxes", lambda values, meta: evidence(values), detector=DETECTORS[drawn.head])]
    else:
        y, end = _head(drawn, maps if drawn.kind == "map" else pooled)
        outputs, ends = [y], [end]
    if drawn.form.startswith("two outputs") and drawn.kind != "boxes":
        other = layers.Dense(2, "softplus", name="other")
        outputs.append(other(pooled))
        ends.append(Expected("linear", lambda values, meta: _pooled(values, None) @ other.kernel + other.bias, 1))
    model = keras.Model(inputs if len(inputs) > 1 else image, outputs if len(outputs) > 1 else outputs[0], name="net")
    loss = HEADS[drawn.head][3]
    if loss and len(outputs) == 1:
        model.compile(loss=loss)
    return model, keras.Model(image, maps), ends


def _head(drawn: Drawn, x: Any) -> tuple[Any, Expected]:
    """An output of one tensor, and the same by hand."""
    import keras

    layers, ops = keras.layers, keras.ops
    outputs, kind, name, _ = HEADS[drawn.head]
    wrapping, is_map = drawn.wrapping, kind == "map"
    # What stands between the last weights and the nonlinearity: tanh is written out as 2 sigmoid(2 z) - 1.
    factor = 0.5 if wrapping == "temperature" else 2.0 if (wrapping, name) == ("written out", "tanh") else 1.0
    last = layers.Conv2D(outputs, 1, name="last") if is_map or wrapping == "convolution" else layers.Dense(outputs, name="last")
    given = layers.Reshape((1, 1, x.shape[-1]))(x) if wrapping == "convolution" and not is_map else x
    z = last(given)
    z = z * factor if wrapping == "temperature" else z
    z = layers.Reshape((-1, outputs))(z) if is_map and wrapping == "reshaped" else z
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
        y = last(given)
    else:
        y = layers.Activation(name)(z)
    if is_map:
        y = layers.Reshape((*x.shape[1:3], outputs))(y) if wrapping == "reshaped" else y
    elif wrapping == "convolution":
        y = layers.Reshape((outputs,))(y)
    elif wrapping == "reshaped":
        y = layers.Reshape((outputs,))(layers.Reshape((1, 1, outputs))(y))
    y = layers.Dropout(0.4)(y) if wrapping == "dropout" else ops.cast(y, "float32") if wrapping == "cast" else y
    last.kernel.assign((8 if is_map else 30) * last.kernel)

    def evidence(values: Any, meta: Any) -> Any:
        import tensorflow as tf

        before = values if is_map else _pooled(values, meta)
        plain = factor * (tf.tensordot(before, tf.reshape(last.kernel, (-1, outputs)), 1) + last.bias)
        return tf.math.l2_normalize(plain, axis=-1) if name == "norm" else plain

    return y, Expected(kind, evidence, raw=name is None, is_logarithm=name == "log_softmax")


def _pooled(values: Any, meta: Any) -> Any:
    import tensorflow as tf

    mean = tf.reduce_mean(values, axis=(1, 2))
    return mean if meta is None else tf.concat([mean, meta], axis=1)


def store(model: Any, file: str, folder: Path) -> str:
    """Write a model as a kind of file. Returns: the spec's `source`."""
    import tensorflow as tf

    from pipeline.compiled.tf_private import graph_with_constants

    if file.startswith("file:"):
        path = folder / f"net{file.removeprefix('file:')}"
        model.save(path)
        return f"file:{path}"
    if file == "savedmodel":
        model.export(folder / "net", verbose=False)
        return f"savedmodel:{folder / 'net'}"
    specs = [tf.TensorSpec(given.shape, tf.float32, given.name) for given in model.inputs]
    call = lambda *given: model(list(given) if len(given) > 1 else given[0], training=False)  # noqa: E731
    concrete = tf.function(call, autograph=False).get_concrete_function(*specs)
    (folder / "net.pb").write_bytes(graph_with_constants(concrete).SerializeToString())
    return f"frozen:{folder / 'net.pb'}"


def table_of(drawn: Drawn, model: Any, source: str) -> dict[str, Any]:
    """The `[model]` of a spec that names what the survey does not leave to convscope."""
    table: dict[str, Any] = {"source": source, "layers": ["*"], "preprocess": PREPROCESSINGS[drawn.preprocessing].said}
    table |= {"trusted": True} if drawn.preprocessing == "a Lambda inside" else {}
    if drawn.form == "two inputs":
        image, meta = ("photo:0", "meta:0") if drawn.file == "frozen" else ("photo", "meta")
        table["inputs"] = {"image": image, meta: list(META)}
    if drawn.form in ("two outputs, all of them", "two outputs, each by its name") and drawn.kind != "boxes":
        table["logits"] = "all"
    if drawn.kind == "boxes":
        table["boxes"] = DETECTORS[drawn.head].table
    return table


def judge(drawn: Drawn) -> tuple[str, str]:
    """What comes of one model, and in words why."""
    from pipeline.models.network import outputs_of
    from pipeline.models.registry import open_network
    from pipeline.spec.model import ModelSpec

    model, features, left = build(drawn)
    pixels = np.random.default_rng(drawn.seed).integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        try:
            spec = table_of(drawn, model, store(model, drawn.file, Path(folder)))
            views = list(outputs_of(open_network(ModelSpec.model_validate(spec))).items())
            if drawn.form == "two outputs, each by its name" and drawn.kind != "boxes":
                named = ({**spec, "logits": name} for name, _ in views)
                views = [(table["logits"], open_network(ModelSpec.model_validate(table))) for table in named]
            answers = [(view.head(), *trace(view, pixels)) for _, view in views]
        except ConvscopeError as error:
            return ("asked" if "model." in str(error) else "wrong"), str(error)
    given = PREPROCESSINGS[drawn.preprocessing].given(pixels)
    actual: list[tuple[str, str]] = []
    for answer in answers:
        verdicts = [compare(answer, model, features, end, given) for end in left]
        actual.append(next((verdict for verdict in verdicts if verdict[0] == "right"), verdicts[0]))
        left = [end for end, verdict in zip(left, verdicts, strict=True) if verdict[0] != "right"] or left
    worst = next((name for name in ("wrong", "assumed") if any(verdict == name for verdict, _ in actual)), "right")
    return worst, "; ".join(why for _, why in actual)


def trace(network: Any, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """A network's logits, and GradCAM of the last of them at the last map before the head."""
    import tensorflow as tf

    size = (SIDE - 2, SIDE - 2, CHANNELS)
    layer = [layer.name for layer in network.layers() if layer.shape == size][-1]

    def traced(images: Any) -> Any:
        values = network.trace(network.preprocess(images), ["logits", layer])
        (slopes,) = tf.gradients(tf.reduce_sum(values["logits"][..., -1]), values[layer])
        return values["logits"], None if slopes is None else cam(values[layer], slopes)

    logits, outputs = tf.function(traced, autograph=False)(tf.constant(pixels))
    return logits.numpy(), None if outputs is None else outputs.numpy()


def compare(answer: Any, model: Any, features: Any, end: Expected, given: np.ndarray) -> tuple[str, str]:
    """What convscope says of one output, beside plain Keras."""
    import tensorflow as tf

    said, logits, actual = answer
    if said.kind != end.kind:
        return ("assumed" if said.assumed else "wrong"), str(said)
    meta = tf.constant([META] * len(given)) if len(model.inputs) > 1 else None
    with tf.GradientTape() as tape:
        maps = features(given)
        tape.watch(maps)
        z = end.evidence(maps, meta)
        total = tf.reduce_sum(z[..., -1])
    expected = cam(maps, tape.gradient(total, maps)).numpy()
    outputs = model([tf.constant(given), meta] if meta is not None else given)
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    both = np.concatenate([-z, z], -1) if said.is_binary else z.numpy()
    if logits.shape != both.shape or not np.allclose(logits, both, rtol=1e-3, atol=1e-4):
        return "wrong", "the evidence"
    if actual is not None and not np.allclose(actual, expected, rtol=1e-3, atol=1e-4 * max(1e-6, expected.max())):
        return "wrong", "GradCAM"
    if end.detector:
        scores = end.detector.scores(z.numpy())
        return ("right", str(said)) if np.allclose(said.box_scores(logits), scores, atol=1e-4) else ("wrong", "the scores")
    output = outputs[end.number].numpy()
    output = output.reshape((*both.shape[:-1], -1))
    probabilities = said.probabilities(logits)
    values = said.activation(logits) if probabilities is None else probabilities[..., -output.shape[-1] :]
    output = np.exp(output) if end.is_logarithm else output
    raw = end.raw and probabilities is not None  # such a model does not give its probabilities itself
    return ("right", str(said)) if raw or np.allclose(values, output, rtol=1e-3, atol=1e-5) else ("wrong", "the outputs")


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
    heads, counts = list(random.permutation(list(HEADS))), Counter[str]()
    for number in range(options.models):
        # Every head in turn, the rest at random.
        axes = (str(random.choice(list(axis))) for axis in (WRAPPINGS, FORMS, FILES, PREPROCESSINGS))
        wrapping, form, file, preprocessing = axes
        drawn = Drawn(str(heads[number % len(heads)]), wrapping, form, file, preprocessing, number)
        verdict, why = judge(drawn)
        counts[verdict] += 1
        print(f"{verdict:8}  {drawn}: {why}", flush=True)
    print(", ".join(f"{counts[verdict]} {verdict}" for verdict in ("right", "assumed", "asked", "wrong")))
    sys.exit(bool(counts["wrong"]))


if __name__ == "__main__":
    main()
