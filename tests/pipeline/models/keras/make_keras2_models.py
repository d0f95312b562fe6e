"""Writes keras2_models.zip: small random networks as Keras 2 saves them, with what Keras 2 computes of an image.

Run it where TensorFlow and tf-keras of the same version are installed, which convscope itself does not need:
`python tests/pipeline/models/keras/make_keras2_models.py`. The archive holds, by network, NAME.h5, NAME.keras and NAME.npz
(`images`, then the outputs as they are after NAME.h5 was loaded again).
"""

import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tf_keras.src.applications.convnext import LayerScale

L = keras.layers


def head(x: Any) -> Any:
    return L.Dense(4, activation="softmax", name="head")(L.GlobalAveragePooling2D()(x))


def base() -> Any:
    x = inputs = keras.Input((12, 12, 3))
    for filters in (4, 4):
        x = L.BatchNormalization()(L.Conv2D(filters, 3)(x))
    return keras.Model(inputs, L.DepthwiseConv2D(3)(x), name="base")


def image(size: int = 12, channels: int = 3) -> Any:
    return keras.Input((size, size, channels))


def depthwise(x: Any) -> Any:
    x = L.Conv2D(4, 3, strides=2, use_bias=False)(L.ZeroPadding2D(((0, 1), (0, 1)))(x))
    x = L.DepthwiseConv2D(3, padding="same")(L.ReLU(6.0)(L.BatchNormalization()(x)))
    return head(L.SeparableConv2D(4, 3)(x))


def transposed(x: Any) -> Any:
    x = L.Conv2D(4, 3, strides=2, activation="relu", kernel_regularizer="l2", kernel_constraint=keras.constraints.MaxNorm(2.0))(x)
    x = L.UpSampling2D(interpolation="bilinear")(L.Conv2DTranspose(4, 3, strides=2)(x))
    return L.Conv2D(1, 1, activation="sigmoid")(x)


def recurrent(x: Any) -> Any:
    x = L.Reshape((10, 40))(L.Conv2D(4, 3)(x))
    x = L.GRU(3, return_sequences=True)(L.LSTM(4, return_sequences=True)(x))
    x = L.Bidirectional(L.LSTM(2, return_sequences=True))(x)
    return L.Dense(3)(L.SimpleRNN(4)(x))


def wrapped(x: Any) -> Any:
    x = L.Reshape((10, 30))(L.TimeDistributed(L.Dense(3))(L.Conv2D(4, 3)(x)))
    return L.Dense(3)(L.Bidirectional(L.GRU(3, reset_after=False))(x))


def cells(x: Any) -> Any:
    x = L.RNN([L.LSTMCell(3), L.GRUCell(4)])(L.Reshape((12, 36))(x))
    return L.Dense(3)(x)


def convolving_recurrent(x: Any) -> Any:
    return head(L.ConvLSTM2D(3, 3)(L.Reshape((2, 6, 12, 3))(x)))


def hard_sigmoids(x: Any) -> Any:
    x = L.Conv2D(4, 3, activation="hard_sigmoid")(x)
    return L.Dense(3)(L.LSTM(4, recurrent_activation="hard_sigmoid")(L.Reshape((10, 40))(x)))


def activations(x: Any) -> Any:
    x = L.ELU(0.7)(L.PReLU()(L.LeakyReLU(0.1)(L.Conv2D(4, 3)(x))))
    x = L.Activation(tf.nn.relu6)(L.Activation("swish")(L.ThresholdedReLU(0.05)(x)))
    x = L.ReLU(6.0, 0.1, 0.01)(L.Activation("gelu")(L.Activation("selu")(x)))
    return L.Dense(3, activation=tf.nn.softmax)(L.Flatten()(L.Conv2D(2, 3, activation=tf.nn.relu)(x)))


def attention(x: Any) -> Any:
    x = L.LayerNormalization(epsilon=1e-6)(L.Reshape((36, 4))(L.Conv2D(4, 2, strides=2)(x)))
    x = L.MultiHeadAttention(2, 4)(x, x)
    return L.Dense(3)(L.GlobalAveragePooling1D()(L.Attention()([x, x])))


def merged(x: Any) -> Any:
    a, b = L.Conv2D(4, 3)(x), L.Conv2D(4, 3)(x)
    x = L.Average()([L.Subtract()([L.Multiply()([L.Add()([a, b]), a]), b]), a])
    x = L.Concatenate()([L.Minimum()([L.Maximum()([x, b]), a]), a])
    x = L.GroupNormalization(2)(L.Permute((2, 1, 3))(L.Cropping2D(1)(x)))
    return head(L.MaxPooling2D()(L.UnitNormalization()(L.LayerNormalization(axis=[1, 2, 3])(x))))


def scales(x: Any) -> Any:
    x = L.Normalization(axis=3)(L.Rescaling(1 / 255.0)(x))
    return head(L.Conv2D(4, 3)(L.Rescaling([1 / 0.229, 1 / 0.224, 1 / 0.225])(x)))


def normalized(x: Any) -> Any:
    adapted = L.Normalization()
    adapted.adapt(np.random.default_rng(0).uniform(0, 255, (8, 12, 12, 3)).astype("float32"))
    return head(L.Conv2D(4, 3)(L.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0])(adapted(x))))


def shared(x: Any) -> Any:
    convolution, relu = L.Conv2D(3, 3, padding="same"), L.ReLU()
    return head(relu(convolution(relu(convolution(x)))))


def nested_twice(x: Any) -> Any:
    inner = keras.Sequential([L.Conv2D(3, 3, padding="same", input_shape=(12, 12, 3)), L.BatchNormalization()])
    return head(inner(inner(x)))


def frozen(x: Any) -> Any:
    model = base()
    model.trainable = False
    return head(model(x, training=False))


def partly_frozen(x: Any) -> Any:
    model = base()
    for layer in model.layers[2:4]:
        layer.trainable = False
    return head(model(x))


def several(x: Any) -> Any:
    x = L.Conv2D(4, 3)(x)
    return [head(x), L.Dense(2)(L.Flatten()(x))]


def cropped(x: Any) -> Any:
    return head(L.Conv2D(4, 3)(L.RandomCrop(7, 9)(x)))


def named(x: Any) -> Any:
    x = L.Conv2D(4, 3)(x)
    return {"classes": head(x), "size": L.Dense(2)(L.Flatten()(x))}


def half_precision(x: Any) -> Any:
    keras.mixed_precision.set_global_policy("mixed_float16")
    x = head(L.BatchNormalization()(L.Conv2D(4, 3)(x)))
    keras.mixed_precision.set_global_policy("float32")
    return L.Activation("linear", dtype="float32")(x)


def operators(x: Any) -> Any:
    y = x[..., ::-1] / 255.0 - [0.1, 0.2, 0.3]
    x = L.Conv2D(4, 3)(y)
    x = tf.nn.relu6(x + 3.0) * (1 / 6.0) * x
    x = x + 1.0 - (1.0 - x) / (x * x + 1.0)
    x = tf.nn.bias_add(tf.image.resize(x, (8, 8)), [0.1] * 4)
    return tf.nn.softmax(L.Dense(4)(tf.reshape(tf.expand_dims(tf.reduce_mean(tf.cast(x, "float32"), [1, 2]), 1), [-1, 4])))


def slices(x: Any) -> Any:
    return head(L.Conv2D(4, 3)(x)[:, 1:-1, ::2, :3])


def elementwise(x: Any) -> Any:
    x = L.Conv2D(2, 3)(x)
    m, n = tf.math, tf.nn
    p = m.abs(x) + 0.5
    unary = [
        m.negative,
        m.square,
        m.sin,
        m.cos,
        m.tanh,
        m.sigmoid,
        m.erf,
        m.sign,
        m.softplus,
        m.log_sigmoid,
        n.relu,
        n.elu,
        n.selu,
    ]
    positive = [m.exp, m.log, m.log1p, m.sqrt, m.rsqrt, m.reciprocal, m.floor, m.ceil, m.round, n.softplus, n.tanh, n.sigmoid]
    y = [f(x) for f in (*unary, n.silu, n.gelu, n.softsign, n.softmax, n.log_softmax, tf.stop_gradient)] + [
        f(p) for f in positive
    ]
    y += [n.leaky_relu(x), n.leaky_relu(x, 0.1), n.gelu(x, approximate=True), tf.clip_by_value(x, -1.0, 1.0)]
    two = [m.add, m.subtract, m.multiply, m.truediv, m.divide, m.floordiv, m.pow, m.maximum, m.minimum, m.divide_no_nan]
    y += [f(p, m.square(x) + 0.3) for f in two]
    return L.Dense(3)(L.GlobalAveragePooling2D()(tf.concat(y, -1)))


def shapes(x: Any) -> Any:
    x = L.Conv2D(4, 3)(x)
    x = tf.concat([tf.nn.avg_pool2d(x, 2, 2, "SAME"), tf.nn.max_pool2d(x, [2, 2], [2, 2], "VALID")], -1)
    x = tf.concat([tf.nn.avg_pool(x, 2, 1, "SAME"), tf.nn.max_pool(x, [1, 2, 2, 1], 1, "SAME")], -1)
    x = tf.transpose(tf.pad(x, [[0, 0], [1, 2], [1, 2], [0, 0]], "REFLECT"), [0, 2, 1, 3])
    a, b = tf.split(x, 2, -1)
    c, d = tf.split(x, [5, 11], -1)
    x = tf.squeeze(tf.reduce_max(tf.stack([a, b, c[..., :1] * a], -1), -1, keepdims=True), -1)
    x = tf.nn.depth_to_space(tf.nn.space_to_depth(x + d[..., :1], 2), 2)
    x = tf.image.resize(tf.reverse(tf.tile(x, [1, 1, 2, 1]), [1]), [20, 20], method="nearest")
    x = tf.compat.v1.squeeze(tf.compat.v1.expand_dims(x, 1), [1]) + tf.image.rgb_to_grayscale(x[..., :3])
    return head(tf.compat.v1.pad(x, [[0, 0], [1, 0], [0, 1], [0, 0]]))


def reductions(x: Any) -> Any:
    x = L.Conv2D(2, 3)(x) / 8.0
    m, v = tf.math, tf.compat.v1
    y = [
        f(x, [1, 2])
        for f in (m.reduce_mean, m.reduce_sum, m.reduce_max, m.reduce_min, m.reduce_prod, m.reduce_std, m.reduce_variance)
    ]
    y += [f(x, [1, 2], keep_dims=True)[:, 0, 0] for f in (v.reduce_mean, v.reduce_sum, v.reduce_max, v.reduce_min, v.reduce_prod)]
    y = tf.math.l2_normalize(tf.concat(y, -1), axis=-1)
    return tf.linalg.matmul(y, np.linspace(-1, 1, 72).reshape(24, 3).astype("float32"))


def slashed(x: Any) -> Any:
    """Names with slashes, as DenseNet and MobileNetV3 have them, in a nested model too, and a name that is taken already."""
    inner = keras.Input((10, 10, 4))
    block = keras.Model(inner, L.DepthwiseConv2D(3, name="block/depthwise")(L.ReLU(name="block/relu")(inner)), name="block/1")
    x = L.BatchNormalization(name="stem/conv/bn")(L.Conv2D(4, 3, name="stem/conv")(x))
    return head(L.Conv2D(4, 1, name="stem_conv")(block(x)))


def layer_scale(x: Any) -> Any:
    """As ConvNeXt."""
    x = L.Conv2D(4, 3)(x)
    return head(x + LayerScale(0.5, 4)(L.LayerNormalization()(x)))


def sequential() -> Any:
    return keras.Sequential([L.Conv2D(4, 3, input_shape=(12, 12, 3)), L.BatchNormalization(), L.GlobalMaxPooling2D(), L.Dense(3)])


def nested_sequentials() -> Any:
    """As Teachable Machine exports networks."""
    front = keras.Sequential([base(), L.GlobalAveragePooling2D()])
    back = [L.Dense(5, activation="relu", input_shape=(4,)), L.Dense(2, activation="softmax", use_bias=False)]
    return keras.Sequential([front, keras.Sequential(back)])


def augmented() -> Any:
    random = [
        L.RandomFlip("horizontal"),
        L.RandomRotation(0.1),
        L.RandomZoom(0.1),
        L.RandomContrast(0.1),
        L.RandomTranslation(0.1, 0.1),
    ]
    random += [L.RandomHeight(0.1), L.RandomWidth(0.1), L.RandomCrop(12, 12), L.RandomBrightness(0.1)]
    sizes = [keras.Input((12, 12, 3)), L.Resizing(16, 16), L.CenterCrop(12, 12)]
    return keras.Sequential([*sizes, *random, L.Conv2D(4, 3), L.GlobalMaxPooling2D(), L.Dropout(0.2), L.Dense(3)])


FUNCTIONAL: list[Callable[[Any], Any]] = [
    depthwise, transposed, recurrent, wrapped, cells, convolving_recurrent, hard_sigmoids, activations, attention, merged, scales,
    normalized, shared, nested_twice, frozen, partly_frozen, several, cropped, named, half_precision, operators, slices,
    elementwise, shapes, reductions, slashed, layer_scale,
]  # fmt: skip
SEQUENTIAL: list[Callable[[], Any]] = [sequential, nested_sequentials, augmented]


def randomize(model: Any) -> None:
    random = np.random.default_rng(3)
    for weight in model.weights:
        if weight.dtype.is_floating:
            positive = "var" in weight.name or "gamma" in weight.name
            value = random.uniform(0.2, 0.9, weight.shape) if positive else random.normal(0, 0.25, weight.shape)
            weight.assign((np.round(value * 64) / 64).astype("float32"))  # so that the archive stays small


def save(name: str, model: Any, folder: Path) -> None:
    randomize(model)
    for suffix in (".h5", ".keras"):
        try:
            model.save(folder / f"{name}{suffix}")
        except TypeError:  # Keras 2 cannot put an ellipsis into a .keras file
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
    again = keras.models.load_model(folder / f"{name}.h5", {"LayerScale": LayerScale}, compile=False)
    scale = 255 if name in ("scales", "normalized", "operators") else 1
    images = (np.random.default_rng(1).integers(0, 65, (2, 12, 12, 3)) * (scale / 64)).astype("float32")
    outputs = again(images, training=False)
    outputs = list(outputs.values()) if isinstance(outputs, dict) else outputs
    named = {
        f"output{index}": np.asarray(output) for index, output in enumerate(outputs if isinstance(outputs, list) else [outputs])
    }
    np.savez_compressed(folder / f"{name}.npz", images=images, **named)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for build in FUNCTIONAL:
            keras.backend.clear_session()
            inputs = image()
            save(build.__name__, keras.Model(inputs, build(inputs)), folder)
        for make in SEQUENTIAL:
            keras.backend.clear_session()
            save(make.__name__, make(), folder)
        with zipfile.ZipFile(
            Path(__file__).with_name("keras2_models.zip"), "w", zipfile.ZIP_DEFLATED, compresslevel=9
        ) as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, path.name)


if __name__ == "__main__":
    main()
