"""Small Keras networks, each with one thing that receptive fields can go wrong on.

Maps at several depths of each are compared.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers as L
from keras import ops
from networks import kill, scatter


def build(name: str, seed: int = 0) -> keras.Model:
    """A network of the zoo; the same seed gives the same weights."""
    keras.utils.set_random_seed(seed)
    model = ZOO[name]()
    scatter(model, seed)
    if name == "dead_channel":
        kill(model.get_layer("partly_dead"), channel=2)
    return model


# Builders. Channels are few and images small: what is tested is geometry.


def chain(height: int, width: int, *steps: Callable, channels: int = 3) -> Callable[[], keras.Model]:
    """A network without branches; the steps are layer factories, so that every build has layers of its own."""

    def make() -> keras.Model:
        x = inputs = keras.Input((height, width, channels))
        for step in steps:
            x = step()(x)
        return keras.Model(inputs, x)

    return make


def conv(kernel: int | tuple[int, int] = 3, stride: int | tuple[int, int] = 1, filters: int = 8, **more: object) -> Callable:
    more = {"padding": "same", "activation": "relu", **more}
    return lambda: L.Conv2D(filters, kernel, stride, **more)


def _up(kernel: int, stride: int, padding: str) -> Callable:
    return lambda: L.Conv2DTranspose(8, kernel, stride, padding, activation="relu")


def _pool(kind: type, *args: object, **more: object) -> Callable:
    return lambda: kind(*args, **more)


def _residual() -> keras.Model:
    x = inputs = keras.Input((28, 28, 3))
    x = conv()()(x)
    for stride in (1, 2, 2):
        y = conv(3, stride)()(x)
        y = conv(activation=None)()(y)
        # The strided 1x1 shortcut sees every other row only.
        x = conv(1, stride, activation=None)()(x) if stride > 1 else x
        x = L.ReLU()(L.Add()([x, y]))
    return keras.Model(inputs, x)


def _shortcut_alone() -> keras.Model:
    """1x1 convolutions of stride 2 and 3: rows are skipped, and no layer above may count them."""
    return chain(25, 26, conv(1, 2), conv(3), conv(1, 3), conv(2, padding="valid"))()


def _inception() -> keras.Model:
    inputs = keras.Input((27, 27, 3))
    x = conv(3, 2, padding="valid")()(inputs)
    for _ in range(2):
        one = conv(1)()(x)
        three = conv(3)()(conv(1)()(x))
        seven = conv((7, 1))()(conv((1, 7))()(x))
        pooled = conv(1)()(L.AveragePooling2D(3, 1, "same")(x))
        x = L.Concatenate()([one, three, seven, pooled])
    reduced = [conv(3, 2, padding="valid")()(x), L.MaxPooling2D(3, 2)(x)]
    return keras.Model(inputs, L.Concatenate()(reduced))


def _dense_blocks() -> keras.Model:
    inputs = keras.Input((24, 24, 3))
    x = conv()()(inputs)
    for block in range(2):
        for _ in range(3):
            y = L.ReLU()(L.BatchNormalization()(x))
            x = L.Concatenate()([x, conv(3, activation=None)()(y)])
        if block == 0:
            x = L.AveragePooling2D(2)(conv(1)()(x))
    return keras.Model(inputs, x)


def _grouped_after_concatenation() -> keras.Model:
    inputs = keras.Input((20, 20, 3))
    x = L.Concatenate()([conv(1)()(inputs), conv(5)()(inputs)])
    x = conv(3, groups=2)()(x)
    x = L.DepthwiseConv2D(3, padding="same", depth_multiplier=2, activation="relu")(x)
    return keras.Model(inputs, conv(3, groups=4)()(x))


def _squeeze_and_excite() -> keras.Model:
    inputs = keras.Input((24, 24, 3))
    x = conv(3, 2)()(inputs)
    gate = L.Reshape((1, 1, 8))(L.GlobalAveragePooling2D()(x))
    gate = conv(1, filters=2)()(gate)
    gate = conv(1, activation="sigmoid")()(gate)
    x = L.Multiply(name="gated")([x, gate])
    return keras.Model(inputs, conv(3)()(x))


def _spatial_attention() -> keras.Model:
    """A gate of one channel, seeing more than what it gates."""
    inputs = keras.Input((20, 20, 3))
    x = conv(1)()(inputs)
    gate = conv(7, filters=1, activation="sigmoid")()(x)
    return keras.Model(inputs, L.Multiply()([x, gate]))


def _inverted_residual() -> keras.Model:
    x = inputs = keras.Input((32, 32, 3))
    x = L.Rescaling(2.0, offset=-0.5)(x)
    for stride in (2, 1, 2):
        y = L.ReLU(6.0)(L.BatchNormalization()(conv(1, filters=12, activation=None)()(x)))
        if stride == 2:
            y = L.ZeroPadding2D(((0, 1), (0, 1)))(y)
        y = L.DepthwiseConv2D(3, stride, "same" if stride == 1 else "valid")(y)
        y = L.ReLU(6.0)(L.BatchNormalization()(y))
        y = L.BatchNormalization()(conv(1, filters=3, activation=None)()(y))
        x = L.Add()([x, y]) if stride == 1 else y
    return keras.Model(inputs, x)


def _hard_swish() -> keras.Model:
    x = inputs = keras.Input((21, 21, 3))
    x = conv(3, 2, activation="hard_swish")()(x)
    x = L.DepthwiseConv2D(5, padding="same")(x)
    x = L.Multiply()([x, ops.multiply(L.ReLU(6.0)(ops.add(x, 3.0)), 1 / 6)])
    return keras.Model(inputs, conv(1, activation="silu")()(x))


def _factorised_reduction() -> keras.Model:
    """NASNet's: two strided 1x1 poolings a pixel apart. On an odd side the second one's last unit sees padding only."""
    inputs = keras.Input((23, 22, 3))
    x = conv(1)()(inputs)
    shifted = L.Cropping2D(((1, 0), (1, 0)))(L.ZeroPadding2D(((0, 1), (0, 1)))(x))
    halves = [conv(1)()(L.AveragePooling2D(1, 2, "valid")(half)) for half in (x, shifted)]
    x = L.Concatenate()(halves)
    return keras.Model(inputs, conv(3)()(conv(1)()(x)))


def _pyramid() -> keras.Model:
    inputs = keras.Input((32, 32, 3))
    levels = [conv(3, 2)()(inputs)]
    for _ in range(2):
        levels.append(conv(3, 2)()(levels[-1]))
    top = conv(1, activation=None)()(levels[-1])
    for level in reversed(levels[:-1]):
        top = L.Add()([L.UpSampling2D(2)(top), conv(1, activation=None)()(level)])
    return keras.Model(inputs, conv(3, activation=None)()(top))


def _u_net() -> keras.Model:
    inputs = keras.Input((24, 32, 3))
    x, skips = inputs, []
    for _ in range(2):
        x = conv()()(x)
        skips.append(x)
        x = L.MaxPooling2D(2)(x)
    x = conv()()(x)
    for skip in reversed(skips):
        x = L.Concatenate()([_up(2, 2, "same")()(x), skip])
        x = conv()()(x)
    return keras.Model(inputs, x)


def _convnext_block() -> keras.Model:
    x = inputs = keras.Input((24, 24, 3))
    x = L.LayerNormalization(epsilon=1e-6)(conv(4, 4, padding="valid", activation=None)()(x))
    y = L.DepthwiseConv2D(3, padding="same")(x)
    y = L.Dense(16, activation="gelu")(L.LayerNormalization(epsilon=1e-6)(y))
    return keras.Model(inputs, L.Add()([x, L.Dense(8)(y)]))


def _nested() -> keras.Model:
    """Two models used as layers, each twice deep."""
    stem = keras.Sequential([conv(3, 2)(), conv(3)()], name="stem")
    y = inner = keras.Input((12, 12, 8))
    y = L.Add()([inner, conv(3)()(y)])
    body = keras.Model(inner, y, name="body")
    inputs = keras.Input((24, 24, 3))
    return keras.Model(inputs, conv(1)()(body(stem(inputs))))


def _head() -> keras.Model:
    inputs = keras.Input((18, 20, 3))
    x = L.MaxPooling2D(2)(conv(3)()(inputs))
    x = L.Dropout(0.5)(L.Flatten()(x))
    x = L.Reshape((1, 1, 5))(L.Dense(5, activation="relu")(x))
    return keras.Model(inputs, x)


def _global_pooling() -> keras.Model:
    inputs = keras.Input((19, 23, 3))
    x = conv(3, 2)()(inputs)
    x = L.GlobalMaxPooling2D(keepdims=True)(conv(3)()(x))
    return keras.Model(inputs, conv(1)()(x))


ZOO: dict[str, Callable[[], keras.Model]] = {
    "plain": chain(20, 20, conv(), conv(), conv()),
    "valid": chain(20, 20, conv(padding="valid"), conv(5, padding="valid"), conv(padding="valid")),
    "strides": chain(33, 33, conv(3, 2), conv(3, 2), conv(5, 2)),
    "valid_strides": chain(37, 37, conv(5, 2, padding="valid"), conv(3, 3, padding="valid"), conv(2, 2, padding="valid")),
    "even_kernels": chain(21, 21, conv(2), conv(4, 2), conv(2, padding="valid"), conv(6)),
    "dilation": chain(31, 31, conv(dilation_rate=2), conv(dilation_rate=3), conv(padding="valid", dilation_rate=(1, 4))),
    "max_pooling": chain(
        27,
        27,
        conv(),
        _pool(L.MaxPooling2D, 2),
        conv(),
        _pool(L.MaxPooling2D, 3, 2, "same"),
        _pool(L.MaxPooling2D, 2, 1, "same"),
    ),
    "average_pooling": chain(
        27, 27, conv(), _pool(L.AveragePooling2D, 3, 2, "same"), conv(), _pool(L.AveragePooling2D, (2, 3), 1, "same")
    ),
    "residual": _residual,
    "shortcut_alone": _shortcut_alone,
    "inception": _inception,
    "dense_blocks": _dense_blocks,
    "depthwise": chain(25, 25, conv(), _pool(L.DepthwiseConv2D, 3, 2, "same"), _pool(L.DepthwiseConv2D, (5, 3), padding="valid")),
    "separable": chain(
        25, 25, _pool(L.SeparableConv2D, 8, 3, 2, "same"), _pool(L.SeparableConv2D, 8, 3, padding="valid", activation="relu")
    ),
    "grouped": chain(20, 20, conv(), conv(groups=2), conv(3, 2, groups=4)),
    "grouped_after_concatenation": _grouped_after_concatenation,
    "nearest_upsampling": chain(24, 24, conv(3, 2), conv(3, 2), _pool(L.UpSampling2D, 2), conv(), _pool(L.UpSampling2D, (3, 2))),
    "bilinear_upsampling": chain(
        24,
        24,
        conv(3, 2),
        conv(3, 2),
        _pool(L.UpSampling2D, 2, interpolation="bilinear"),
        conv(1),
        _pool(L.UpSampling2D, (3, 4), interpolation="bilinear"),
    ),
    "transposed_same": chain(21, 21, conv(3, 2), conv(3, 2), _up(4, 2, "same"), _up(3, 2, "same"), _up(5, 1, "same")),
    "transposed_valid": chain(20, 20, conv(3, 2), _up(3, 2, "valid"), conv(3, 3), _up(2, 2, "valid"), _up(4, 3, "valid")),
    # A kernel under the stride: between the copies of the kernel there are units that see nothing.
    "transposed_with_gaps": chain(12, 12, conv(3, 2), _up(2, 3, "same"), conv(1), conv(2), _up(1, 2, "valid")),
    "squeeze_and_excite": _squeeze_and_excite,
    "spatial_attention": _spatial_attention,
    "global_pooling": _global_pooling,
    "head": _head,
    "inverted_residual": _inverted_residual,
    "hard_swish": _hard_swish,
    "factorised_reduction": _factorised_reduction,
    "asymmetric_kernels": chain(24, 24, conv((1, 7)), conv((7, 1)), conv((1, 4), (1, 2)), conv((2, 1), (3, 1), padding="valid")),
    "wide_image": chain(12, 40, conv(3, 2), conv(), _pool(L.MaxPooling2D, 2), conv(5)),
    "tall_grey_image": chain(45, 13, conv(3, (2, 1)), conv((5, 2)), channels=1),
    "stride_three": chain(35, 34, conv(3, 3), conv(4, 3), conv(1)),
    "stride_over_kernel": chain(35, 33, conv(2, 4), conv(), conv(1, 2, padding="valid")),
    "padding_beyond_kernel": chain(
        12,
        12,
        _pool(L.ZeroPadding2D, ((3, 1), (0, 2))),
        conv(1),
        conv(3, padding="valid"),
        _pool(L.Cropping2D, ((0, 1), (2, 0))),
    ),
    "one_pixel_map": chain(9, 9, conv(3, 3), conv(3, padding="valid"), conv(1)),
    "one_pixel_image": chain(1, 1, conv(3), conv(1)),
    "dead_channel": chain(20, 20, conv(), lambda: L.Conv2D(8, 3, padding="same", activation="relu", name="partly_dead"), conv(1)),
    "single_channel": chain(20, 20, conv(), conv(filters=1), conv(3, 2, filters=1)),
    "batch_normalisation": chain(
        22,
        22,
        conv(activation=None),
        L.BatchNormalization,
        L.ReLU,
        conv(3, 2),
        L.BatchNormalization,
        L.LeakyReLU,
        L.PReLU,
        L.ELU,
    ),
    "deep": chain(48, 48, *[conv()] * 20),
    "pyramid": _pyramid,
    "u_net": _u_net,
    "convnext_block": _convnext_block,
    "nested": _nested,
}
