"""Networks that people have and the survey of heads does not draw: ensembles, softmaxes over other axes, odd preprocessing.

    python -m bench.odd_heads [--file .keras|.h5|savedmodel] [NAME …]

convscope reads each with everything left to it. Its probabilities, or outputs where there are none, must be what plain Keras
gives; or it says that it assumes what the outputs are; or it asks. The program exits 1 where none of that is so.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.heads import store
from pipeline.errors import ConvscopeError
from pipeline.run import start_tensorflow

SIDE = 12
BGR_MEANS = (103.939, 116.779, 123.68)
ASKS = ("two heads", "argmax", "rows of a softmax")  # no output of these is class scores that convscope can choose by itself


def _body(prepare: Callable[[Any], Any] | None = None, shape: tuple[int | None, ...] = (None, SIDE, SIDE, 3)) -> Any:
    """An image, the last map of a small network, and its mean over positions."""
    import keras

    layers = keras.layers
    image = keras.Input(batch_shape=shape, name="photo")
    x = layers.Rescaling(1 / 127.5, -1.0)(image) if prepare is None else prepare(image)
    x = layers.Permute((2, 3, 1))(x) if shape[1] == 3 else x
    maps = layers.Conv2D(5, 3, activation="relu", name="conv")(x)
    return image, maps, layers.GlobalAveragePooling2D()(maps)


def _steep(units: int, activation: str | None = None) -> Any:
    """A dense layer whose outputs differ enough for sigmoids and softmaxes to tell them apart."""
    import keras

    return keras.layers.Dense(units, activation, kernel_initializer=keras.initializers.RandomNormal(0, 12, seed=3))


def ends() -> dict[str, Callable[[Any, Any], Any]]:
    """Ends by name, each made from the last map and its mean."""
    import keras

    layers, ops = keras.layers, keras.ops

    def ordinal(pooled: Any) -> Any:
        below = ops.sigmoid(ops.convert_to_tensor([[-1.0, 0.0, 2.0]]) - _steep(1)(pooled))
        ones = ops.ones_like(below[:, :1])
        return ops.concatenate([below, ones], -1) - ops.concatenate([0 * ones, below], -1)

    def divided(y: Any) -> Any:
        return y / ops.sum(y, axis=-1, keepdims=True)

    def of_positions(maps: Any) -> Any:
        scores = ops.exp(layers.Conv2D(3, 1)(maps))
        return scores / ops.sum(scores, axis=(1, 2), keepdims=True)

    groups = layers.Reshape((2, 3))
    return {
        "softmax at positions, then the mean": lambda m, p: layers.GlobalAveragePooling2D()(
            layers.Conv2D(4, 1, activation="softmax")(m)
        ),
        "mean of two softmaxes": lambda m, p: layers.Average()([_steep(4, "softmax")(p), layers.Dense(4, "softmax")(p)]),
        "mean of two sigmoids": lambda m, p: layers.Average()([_steep(1, "sigmoid")(p), layers.Dense(1, "sigmoid")(p)]),
        "softmax of pairs, flat": lambda m, p: layers.Flatten()(layers.Softmax()(layers.Reshape((4, 2))(_steep(8)(p)))),
        "softmaxes side by side": lambda m, p: layers.Concatenate()([_steep(3, "softmax")(p), layers.Dense(4, "softmax")(p)]),
        "classes within groups": lambda m, p: layers.Reshape((6,))(
            ops.softmax(groups(_steep(6)(p)), -1) * ops.expand_dims(_steep(2, "softmax")(p), -1)
        ),
        "one less a softmax": lambda m, p: 1 - _steep(4, "softmax")(p),
        "percent": lambda m, p: 100 * _steep(4, "softmax")(p),
        "sigmoids divided by their sum": lambda m, p: divided(_steep(4, "sigmoid")(p)),
        "evidence divided by its sum": lambda m, p: divided(ops.relu(_steep(4)(p)) + 1),
        "ordinal, as differences": lambda m, p: ordinal(p),
        "ordinal, as sigmoids": lambda m, p: _steep(3, "sigmoid")(p),
        "two sigmoids for one-hot labels": lambda m, p: _steep(2, "sigmoid")(p),
        "cosines times 30, softmax": lambda m, p: layers.Softmax()(
            30.0 * layers.Dense(4, use_bias=False)(layers.UnitNormalization()(_steep(6)(p)))
        ),
        "sparsemax": lambda m, p: _steep(4, "sparsemax")(p),
        "softmax, turned round": lambda m, p: _steep(4, "softmax")(p)[:, ::-1],
        "softmax without its first class": lambda m, p: _steep(5, "softmax")(p)[:, 1:],
        "sigmoid of a difference": lambda m, p: ops.sigmoid(_steep(1)(p) - layers.Dense(1)(p)),
        "Dropout that stays on": lambda m, p: _steep(4, "softmax")(layers.Dropout(0.5)(p, training=True)),
        "softmax over all positions": lambda m, p: of_positions(m),
        "softmax map, made larger": lambda m, p: layers.UpSampling2D(interpolation="bilinear")(
            layers.Conv2D(3, 1, activation="softmax")(m)
        ),
        "a picture": lambda m, p: layers.Conv2DTranspose(3, 3, activation="sigmoid")(m),
        "two heads": lambda m, p: [_steep(4, "softmax")(p), layers.Dense(4)(p)],
        "argmax": lambda m, p: ops.argmax(_steep(4, "softmax")(p), -1),
        "rows of a softmax": lambda m, p: layers.Softmax()(layers.Reshape((4, 10))(_steep(40)(p))),
    }


def stems() -> dict[str, Callable[[Any], Any]]:
    """What networks do to pixels first, by name."""
    import keras

    layers, ops = keras.layers, keras.ops
    return {
        "channels turned round": lambda x: x[..., ::-1],
        "caffe, written out": lambda x: x[..., ::-1] - np.array(BGR_MEANS, np.float32),
        "(x - 127) / 128": lambda x: (x - 127.0) / 128.0,
        "clipped to 0 and 1": lambda x: ops.clip(x, 0, 1),
        "by the image's largest": lambda x: x / ops.max(x, axis=(1, 2, 3), keepdims=True),
        "standardized by a LayerNormalization": lambda x: layers.LayerNormalization(axis=[1, 2, 3], center=False, scale=False)(x),
        "a BatchNormalization": lambda x: layers.BatchNormalization()(x),
        "noise that stays on": lambda x: layers.GaussianNoise(0.1)(layers.Rescaling(1 / 255)(x), training=True),
    }


def models() -> dict[str, Callable[[], Any]]:
    """All networks, by name."""
    import keras

    layers = keras.layers

    def ending(end: Callable[[Any, Any], Any], loss: str | None = None) -> Any:
        image, maps, pooled = _body()
        model = keras.Model(image, end(maps, pooled))
        if loss:
            model.compile(loss=loss)
        return model

    def plain(*arguments: Any) -> Any:
        image, _, pooled = _body(*arguments)
        return keras.Model(image, _steep(4, "softmax")(pooled))

    def without_input() -> Any:
        steps = [layers.Rescaling(1 / 255.0), layers.Conv2D(5, 3, activation="relu"), layers.GlobalAveragePooling2D()]
        model = keras.Sequential([*steps, _steep(4, "softmax")])
        model.build((None, SIDE, SIDE, 3))
        return model

    made: dict[str, Callable[[], Any]] = {name: partial(ending, end) for name, end in ends().items()}
    made["mean of two softmaxes, compiled"] = lambda: ending(ends()["mean of two softmaxes"], "categorical_crossentropy")
    made["a sigmoid, compiled as a regression"] = lambda: ending(lambda m, p: _steep(1, "sigmoid")(p), "mse")
    made |= {name: partial(plain, stem) for name, stem in stems().items()}
    made["a batch of one"] = lambda: plain(None, (1, SIDE, SIDE, 3))
    made["channels first"] = lambda: plain(None, (None, 3, SIDE, SIDE))
    made["a Sequential without an Input"] = without_input
    return made


def judge(name: str, model: Any, file: str) -> tuple[str, str]:
    """Whether convscope is right, assumes, asks or is wrong, and in words why."""
    import tensorflow as tf

    from pipeline.models.registry import open_network
    from pipeline.spec.model import ModelSpec

    pixels = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        try:
            network = open_network(ModelSpec.model_validate({"source": store(model, file, Path(folder)), "layers": ["*"]}))
            head = network.head()
            prepared = network.preprocess(tf.constant(pixels))
            logits, again = (network.trace(prepared, ["logits"])["logits"].numpy() for _ in range(2))
        except ConvscopeError as error:
            return "asked" if "model." in str(error) or "training" in str(error) else "wrong", str(error)
    if name in ASKS:  # in a graph, what stands before an argmax can be taken
        return "assumed" if head.assumed else "wrong", f"took {head}"
    given = prepared.numpy().transpose(0, 3, 1, 2) if model.inputs[0].shape[1] == 3 else prepared.numpy()
    batch = model.inputs[0].shape[0] or len(given)
    outputs = np.concatenate([model(given[at : at + batch], training=False) for at in range(0, len(given), batch)])
    probabilities = head.probabilities(logits)
    values = head.activation(logits) if probabilities is None else probabilities[..., -outputs.shape[-1] :]
    values = values * 100 if name == "percent" else values
    agree = np.array_equal(logits, again) and np.allclose(values, outputs, rtol=1e-3, atol=1e-5)
    numbers = ", ".join(f"{value:.4g}" for value in np.ravel(values[0])[:3])
    wanted = ", ".join(f"{value:.4g}" for value in np.ravel(outputs[0])[:3])
    verdict = "wrong" if not agree else "assumed" if head.assumed else "right"
    return verdict, f"{numbers} where Keras gives {wanted}: {head}; preprocess {network.settings['preprocess']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--file", default=".keras", choices=(".keras", ".h5", "savedmodel"))
    options = parser.parse_args()
    start_tensorflow()
    import keras

    file = options.file if options.file == "savedmodel" else f"file:{options.file}"
    verdicts: list[str] = []
    for name, make in models().items():
        if not options.names or name in options.names:
            keras.utils.set_random_seed(7)
            verdict, why = judge(name, make(), file)
            verdicts.append(verdict)
            print(f"{verdict:8}  {name}: {why}", flush=True)
    print(", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in ("right", "assumed", "asked", "wrong")))
    sys.exit("wrong" in verdicts)


if __name__ == "__main__":
    main()
