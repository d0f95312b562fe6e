"""The rule that reads a layer without its upper clamp, in every form of clamp and every family of networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.compiled.freezing import freeze
from pipeline.models.keras.model import keras_network
from pipeline.models.network import Unclipped, read_unclipped

L = keras.layers


def relu(x: Any) -> Any:
    return np.maximum(x, 0)


def pooled(x: Any) -> Any:
    """Maxima of 2 x 2."""
    return x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, x.shape[3]).max(axis=(2, 4))


def leaky(slope: float) -> Any:
    return lambda x: np.where(x > 0, x, np.float32(slope) * x)


def padded(x: Any) -> Any:
    return np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])


class Quantized(keras.layers.Layer):
    """TensorFlow's own quantisation to eight bits between -1 and 2."""

    def call(self, x: Any) -> Any:
        return tf.quantization.fake_quant_with_min_max_args(x, -1, 2)


class Turned(keras.layers.Layer):
    """A minimum with 2, written with a ReLU."""

    def call(self, x: Any) -> Any:
        return 2.0 - keras.ops.relu(2.0 - x)


def quantized(x: Any) -> Any:
    """What the eight bits give below their largest number, and above it what they were given."""
    given = tf.quantization.fake_quant_with_min_max_args(x, -1, 2).numpy()
    return np.where(given == given.max(), np.maximum(x, given.max()), given)


BY_CHANNEL = np.array([1, 2, 0.5, 3], np.float32)

# How a layer clamps, what is left without the clamp, and its ceiling, or one a channel.
CLAMPED: dict[str, tuple[Any, Any, Any]] = {
    "ReLU6": (L.ReLU(6), relu, 6),
    "ReLU of another maximum": (L.ReLU(5), relu, 5),
    "leaky ReLU6": (L.ReLU(6, negative_slope=0.125), leaky(0.125), 6),
    "leaky ReLU of another maximum": (L.ReLU(4, negative_slope=0.25), leaky(0.25), 4),
    "ReLU6 of a threshold": (L.ReLU(6, threshold=1), lambda x: np.where(x > 1, x, 0), 6),
    "hard sigmoid": (L.Activation("hard_sigmoid"), lambda x: relu(x + 3) / np.float32(6), 1),
    "hard tanh": (L.Activation("hard_tanh"), lambda x: np.maximum(x, -1), 1),
    "clip": (lambda x: keras.ops.clip(x, -1, 2), lambda x: np.maximum(x, -1), 2),
    "minimum": (lambda x: keras.ops.minimum(x, 3.0), lambda x: x, 3),
    "minimum, the number first": (lambda x: keras.ops.minimum(3.0, x), lambda x: x, 3),
    "written out": (lambda x: keras.ops.where(x > 2.0, 2.0, x), lambda x: x, 2),
    "written out the other way": (lambda x: keras.ops.where(x <= 2.0, x, 2.0), lambda x: x, 2),
    "a ceiling below zero": (lambda x: keras.ops.minimum(x, -1.0), lambda x: x, -1),
    "two clamps": (lambda x: keras.ops.minimum(L.ReLU(6)(x), 4.0), relu, 4),
    "max pooling": (lambda x: L.MaxPooling2D()(L.ReLU(6)(x)), lambda x: pooled(relu(x)), 6),
    "global max pooling": (lambda x: L.GlobalMaxPooling2D()(L.ReLU(6)(x)), lambda x: relu(x).max(axis=(1, 2), keepdims=True), 6),
    "padding": (lambda x: L.ZeroPadding2D()(L.ReLU(6)(x)), lambda x: padded(relu(x)), 6),
    "dropout": (lambda x: L.Dropout(0.5)(L.ReLU(6)(x)), relu, 6),
    "cropping": (lambda x: L.Cropping2D(1)(L.ReLU(6)(x)), lambda x: relu(x)[:, 1:-1, 1:-1], 6),
    "one number for all": (lambda x: L.Rescaling(0.5, offset=-1.0)(L.ReLU(6)(x)), lambda x: relu(x) * np.float32(0.5) - 1, 2),
    "concatenation": (
        lambda x: L.Concatenate()([L.ReLU(6)(x), L.ReLU(6)(-x)]),
        lambda x: np.concatenate([relu(x), relu(-x)], axis=3),
        6,
    ),
    "concatenation of different ceilings": (
        lambda x: L.Concatenate()([L.ReLU(6)(x), L.ReLU(2)(-x), x]),
        lambda x: np.concatenate([relu(x), relu(-x), x], axis=3),
        [6] * 4 + [2] * 4 + [np.inf] * 4,
    ),
    "different ceilings, pooled and padded": (
        lambda x: L.ZeroPadding2D()(L.MaxPooling2D()(L.Concatenate()([L.ReLU(6)(x), L.ReLU(2)(-x)]))),
        lambda x: padded(pooled(np.concatenate([relu(x), relu(-x)], axis=3))),
        [6] * 4 + [2] * 4,
    ),
    "different ceilings, pooled to one unit": (
        lambda x: L.GlobalMaxPooling2D()(L.Concatenate()([L.ReLU(6)(x), L.ReLU(2)(-x)])),
        lambda x: np.concatenate([relu(x), relu(-x)], axis=3).max(axis=(1, 2), keepdims=True),
        [6] * 4 + [2] * 4,
    ),
    "different ceilings, flattened": (
        lambda x: L.Flatten()(L.Concatenate()([L.ReLU(6)(x), x])),
        lambda x: np.concatenate([relu(x), x], axis=3).reshape(len(x), 1, 1, -1),
        ([6] * 4 + [np.inf] * 4) * 64,
    ),
    "a number a channel": (lambda x: keras.ops.minimum(BY_CHANNEL, x), lambda x: x, BY_CHANNEL),
    "clip to numbers a channel": (
        lambda x: keras.ops.clip(x, -BY_CHANNEL, BY_CHANNEL),
        lambda x: np.maximum(x, -BY_CHANNEL),
        BY_CHANNEL,
    ),
    "scaled and moved by channel": (
        lambda x: L.ReLU(6)(x) * BY_CHANNEL + BY_CHANNEL,
        lambda x: relu(x) * BY_CHANNEL + BY_CHANNEL,
        7 * BY_CHANNEL,
    ),
    "written out, a number in the shape of the map": (
        lambda x: keras.ops.where(x > 2.0, 2.0 * keras.ops.ones_like(x), x),
        lambda x: x,
        2,
    ),
    "minimum with a filled map": (lambda x: keras.ops.minimum(x, keras.ops.full_like(x, 3.0)), lambda x: x, 3),
    "both ends written out": (
        lambda x: keras.ops.where(x < 0, 0.0, keras.ops.where(x > 2.0, 2.0, x)),
        relu,
        2,
    ),
    "both ends written out, the upper last": (
        lambda x: keras.ops.where(x > 2.0, 2.0, keras.ops.where(x < 0, 0.0, x)),
        relu,
        2,
    ),
    "minimum written with a ReLU": (Turned(), lambda x: x, 2),
    "leaky ReLU of a threshold and a maximum": (
        L.ReLU(1, negative_slope=0.125, threshold=0.5),
        lambda x: np.where(x > 0.5, x, np.float32(0.125) * (x - np.float32(0.5))),
        1,
    ),
    "sparse sigmoid": (L.Activation("sparse_sigmoid"), lambda x: relu(x + 1) / 2, 1),
    "quantisation": (Quantized(), quantized, 2),
    "maximum of two maps": (lambda x: L.Maximum()([L.ReLU(6)(x), L.ReLU(6)(-x)]), np.abs, 6),
    "minimum of two maps": (
        lambda x: L.Minimum()([L.ReLU(6)(x), x + 1.0]),
        lambda x: np.minimum(relu(x), x + np.float32(1)),
        6,
    ),
    "upsampling": (lambda x: L.UpSampling2D()(L.ReLU(6)(x)), lambda x: relu(x).repeat(2, axis=1).repeat(2, axis=2), 6),
    "half of the channels": (lambda x: keras.ops.split(L.ReLU(6)(x), 2, axis=3)[1] * 1.0, lambda x: relu(x)[..., 2:], 6),
    "some channels": (lambda x: keras.ops.take(L.ReLU(6)(x), [2, 0], axis=3), lambda x: relu(x)[..., [2, 0]], 6),
}

# What is behind a clamp in the graph, but is not clamped; and saturating functions that are no clamps.
OPEN: dict[str, Any] = {
    "ReLU": L.ReLU(),
    "sigmoid": L.Activation("sigmoid"),
    "convolution": lambda x: L.Conv2D(2, 3)(L.ReLU(6)(x)),
    "average pooling": lambda x: L.AveragePooling2D(2)(L.ReLU(6)(x)),
    "sum of maps": lambda x: L.Add()([L.ReLU(6)(x), x]),
    "hard swish": lambda x: L.Activation("hard_silu")(x),
    "turned round": lambda x: -1.0 * L.ReLU(6)(x),
    "different ceilings, then a convolution": lambda x: L.Conv2D(2, 1)(L.Concatenate()([L.ReLU(6)(x), x])),
    "different ceilings, one below another": lambda x: L.Concatenate(axis=1)([L.ReLU(6)(x), L.ReLU(2)(x)]),
    "a number a column": lambda x: keras.ops.minimum(x, np.arange(8, dtype=np.float32)[:, np.newaxis]),
    "a falling number a channel": lambda x: L.ReLU(6)(x) * (BY_CHANNEL - 1),
    "normalisation": lambda x: L.BatchNormalization()(L.ReLU(6)(x)),
    "maximum of two maps": lambda x: keras.ops.maximum(L.ReLU(6)(x), x),
    "minimum of two maps": lambda x: keras.ops.minimum(x, -x),
    "choice of two ceilings": lambda x: keras.ops.where(x > 0, L.ReLU(6)(x), L.ReLU(2)(-x)),
    "padding above a ceiling": lambda x: L.ZeroPadding2D()(keras.ops.minimum(x, -1.0)),
    "another number above a threshold": lambda x: keras.ops.where(x > 2.0, 3.0, x),
}


class Subclassed(keras.Model):
    """The layers of a functional model behind code of its own."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def call(self, x: Any) -> Any:
        return self.inner(x)


def network_of(build: Any, family: str, folder: Path, opened_graph: Any) -> tuple[Any, Any, Any]:
    """A network of one convolution and what `build` makes of it; the convolution's maps; and images."""
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, padding="same", name="conv", kernel_initializer=keras.initializers.RandomNormal(stddev=2, seed=1))(inputs)
    model = keras.Model(inputs, build(x))
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    maps = keras.Model(inputs, x)(images).numpy()
    if family == "functional":
        return keras_network(model, "net", None, "none"), maps, images
    if family == "nested":
        outer = keras.Input((8, 8, 3))
        return keras_network(keras.Model(outer, model(outer)), "net", None, "none"), maps, images
    if family == "subclassed":
        subclassed = Subclassed(model)
        subclassed(images)
        return keras_network(subclassed, "net", None, "none"), maps, images
    return opened_graph(model, family, folder), maps, images


def read_both(network: Any, images: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """The last layer as the network gives it, without its clamp, and the ceiling."""
    name = network.layers()[-1].name

    def read(images: Any) -> Any:
        unclipped = network.unclipped(images, [name])[name]
        assert unclipped.value.shape[1:] == network.layers()[-1].shape and unclipped.value.dtype == tf.float32
        return network.trace(images, [name])[name], unclipped.value, [] if unclipped.ceiling is None else [unclipped.ceiling]

    given, value, ceilings = freeze(read, tf.TensorSpec(images.shape))(images)
    return given.numpy(), value.numpy(), ceilings[0].numpy() if ceilings else None


@pytest.mark.parametrize(
    ("form", "family"),
    [
        # A SavedModel is opened as the graph that a frozen file holds, only slower: a few forms show that.
        pytest.param(form, family, marks=[pytest.mark.slow] if family == "savedmodel" and number % 6 else [])
        for number, form in enumerate(CLAMPED)
        for family in ("functional", "nested", "subclassed", "frozen", "savedmodel")
    ],
)
def test_every_family_reads_every_form_of_clamp_as_if_it_were_not_there(
    form: Any, family: Any, tmp_path: Path, opened_graph: Any
) -> None:
    build, expected, ceiling = CLAMPED[form]
    network, maps, images = network_of(build, family, tmp_path, opened_graph)
    given, value, outputs = read_both(network, images)
    np.testing.assert_allclose(outputs, ceiling, rtol=1e-6)
    assert (value > ceiling).any()
    np.testing.assert_allclose(value, expected(maps), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(np.minimum(value, outputs), given)


@pytest.mark.parametrize("form", OPEN)
@pytest.mark.parametrize("family", ["functional", "frozen"])
def test_what_is_not_clamped_is_read_as_it_is(form: Any, family: Any, tmp_path: Path, opened_graph: Any) -> None:
    network, _, images = network_of(OPEN[form], family, tmp_path, opened_graph)
    given, value, ceiling = read_both(network, images)
    assert ceiling is None
    np.testing.assert_array_equal(value, given)


def test_a_clamp_fused_in_the_activation_of_a_convolution_is_seen() -> None:
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, L.Conv2D(4, 3, activation="relu6", kernel_initializer="ones")(inputs))
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    given, value, ceiling = read_both(keras_network(model, "net", None, "none"), images)
    assert given.max() == ceiling == 6 < value.max()


def test_a_learned_ceiling_is_one_like_any_other() -> None:
    class Learned(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.ceiling = self.add_weight(shape=(), initializer=keras.initializers.Constant(1.5))

        def call(self, x: Any) -> Any:
            return keras.ops.minimum(x, self.ceiling)

    inputs = keras.Input((4, 4, 3))
    network = keras_network(keras.Model(inputs, Learned()(inputs)), "net", None, "none")
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32) + 1
    given, value, ceiling = read_both(network, images)
    assert given.max() == ceiling == 1.5
    np.testing.assert_array_equal(value, images)


def test_a_network_without_the_member_has_no_ceilings() -> None:
    class ByHand:
        def trace(self, images: Any, layers: Any) -> Any:
            return dict.fromkeys(layers, tf.minimum(images, 1.0))

    images = tf.ones((1, 2, 2, 3)) * 2
    (read,) = read_unclipped(ByHand(), images, ["x"]).values()
    assert isinstance(read, Unclipped) and read.ceiling is None and read.value.numpy().max() == 1
