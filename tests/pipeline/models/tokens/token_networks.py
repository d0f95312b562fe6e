"""Networks of tokens written by hand, small, with random weights: what people build from Keras alone."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops


@keras.saving.register_keras_serializable("tokens")
class Patches(layers.Layer):
    """Cuts an image into patches, row by row, and gives each as one row of numbers."""

    def __init__(self, patch: int = 4, **options: Any) -> None:
        super().__init__(**options)
        self.patch = patch

    def call(self, images: Any) -> Any:
        _, height, width, bands = images.shape
        rows, columns = height // self.patch, width // self.patch
        x = ops.reshape(images, (-1, rows, self.patch, columns, self.patch, bands))
        return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, rows * columns, self.patch * self.patch * bands))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "patch": self.patch}


@keras.saving.register_keras_serializable("tokens")
class AddPlaces(layers.Layer):
    """Adds a learned vector for each place, and puts learned tokens in front."""

    def __init__(self, extra: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.extra = extra

    def build(self, shape: Any) -> None:
        self.places = self.add_weight(shape=(1, shape[1], shape[2]), initializer="random_normal")
        self.token = self.add_weight(shape=(1, self.extra, shape[2]), initializer="random_normal")

    def call(self, x: Any) -> Any:
        x = x + self.places
        if not self.extra:
            return x
        return ops.concatenate([ops.broadcast_to(self.token, (ops.shape(x)[0], self.extra, x.shape[2])), x], axis=1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "extra": self.extra}


@keras.saving.register_keras_serializable("tokens")
class Windows(layers.Layer):
    """Attention within windows of a map, which may be shifted: rolled, cut, attended to, and put back."""

    def __init__(self, size: int, shift: int, heads: int = 2, **options: Any) -> None:
        super().__init__(**options)
        self.size, self.shift, self.heads = size, shift, heads

    def build(self, shape: Any) -> None:
        width = shape[-1]
        self.qkv, self.proj = layers.Dense(3 * width, name="qkv"), layers.Dense(width, name="proj")
        self.qkv.build((None, self.size**2, width))
        self.proj.build((None, self.size**2, width))

    def call(self, x: Any) -> Any:
        _, height, width, channels = x.shape
        rows, columns, size = height // self.size, width // self.size, self.size
        x = ops.roll(x, (-self.shift, -self.shift), axis=(1, 2)) if self.shift else x
        x = ops.transpose(ops.reshape(x, (-1, rows, size, columns, size, channels)), (0, 1, 3, 2, 4, 5))
        x = self.qkv(ops.reshape(x, (-1, size * size, channels)))
        x = ops.reshape(x, (-1, size * size, 3, self.heads, channels // self.heads))
        query, key, value = ops.unstack(ops.transpose(x, (2, 0, 3, 1, 4)), 3)
        scores = ops.softmax(ops.matmul(query, ops.swapaxes(key, 2, 3)) * 0.5)
        x = ops.reshape(ops.transpose(ops.matmul(scores, value), (0, 2, 1, 3)), (-1, size * size, channels))
        x = ops.reshape(self.proj(x), (-1, rows, columns, size, size, channels))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, height, width, channels))
        return ops.roll(x, (self.shift, self.shift), axis=(1, 2)) if self.shift else x

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size, "shift": self.shift, "heads": self.heads}


def vit(size: int = 16, extra: int = 1, blocks: int = 2, width: int = 8, convolved: bool = False) -> keras.Model:
    """A vision transformer; with a class token that is read out, or without one and then by the mean.

    Args:
        convolved: whether a convolution cuts the patches.
    """
    images = x = keras.Input((size, size, 3))
    if convolved:
        x = layers.Reshape((-1, width))(layers.Conv2D(width, 4, 4, name="embed")(x))
    else:
        x = layers.Dense(width, name="embed")(Patches(name="patches")(x))
    x = AddPlaces(extra, name="places")(x)
    for number in range(blocks):
        y = layers.LayerNormalization(name=f"norm{number}a")(x)
        x = layers.Add(name=f"sum{number}a")([x, layers.MultiHeadAttention(2, width // 2, name=f"mha{number}")(y, y)])
        y = layers.Dense(2 * width, activation="gelu", name=f"hidden{number}")(
            layers.LayerNormalization(name=f"norm{number}b")(x)
        )
        x = layers.Add(name=f"sum{number}b")([x, layers.Dense(width, name=f"mlp{number}")(y)])
    x = layers.LayerNormalization(name="norm")(x)
    x = x[:, 0] if extra else layers.GlobalAveragePooling1D(name="mean")(x)
    return keras.Model(images, layers.Dense(3, activation="softmax", name="classes")(x), name="vit")


def swin() -> keras.Model:
    """Windows of 2 x 2 on 4 x 4 tokens, shifted in the second block, then tokens merged by four."""
    images = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 4, 4, name="embed")(images)
    for number in range(2):
        x = layers.Add(name=f"sum{number}")([x, Windows(2, number, name=f"windows{number}")(layers.LayerNormalization()(x))])
    x = layers.Concatenate(name="merged")([x[:, row::2, column::2] for row in (0, 1) for column in (0, 1)])
    x = layers.Dense(8, name="reduced")(layers.Reshape((4, 32), name="flat")(x))
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(images, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling1D()(x)), name="swin")


def mixer() -> keras.Model:
    """An MLP-Mixer: within its token mixing, nothing lies on the image."""
    images = x = keras.Input((16, 16, 3))
    x = layers.Dense(8, name="embed")(Patches(name="patches")(x))
    y = layers.Permute((2, 1), name="turned")(layers.LayerNormalization(name="norm")(x))
    y = layers.Dense(16, name="back")(layers.Dense(12, activation="gelu", name="mixing")(y))
    x = layers.Add(name="sum")([x, layers.Permute((2, 1), name="returned")(y)])
    x = layers.Dense(8, name="channels")(x)
    return keras.Model(images, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling1D()(x)), name="mixer")


def cct() -> keras.Model:
    """A compact convolutional transformer: a convolution makes the tokens, and a learned weight pools them."""
    images = x = keras.Input((16, 24, 3))
    x = layers.MaxPooling2D(2, name="pool")(layers.Conv2D(8, 3, 2, padding="same", activation="relu", name="stem")(x))
    x = AddPlaces(name="places")(layers.Reshape((-1, 8), name="tokens")(x))
    x = layers.Add(name="sum")([x, layers.MultiHeadAttention(2, 4, name="mha")(x, x)])
    weights = layers.Softmax(axis=1, name="weights")(layers.Dense(1, name="importance")(x))
    x = layers.Flatten(name="pooled")(layers.Dot((1, 1), name="weighed")([weights, x]))
    return keras.Model(images, layers.Dense(3, activation="softmax")(x), name="cct")


def convmixer() -> keras.Model:
    """A ConvMixer: patches, then maps throughout."""
    images = x = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 4, 4, activation="gelu", name="embed")(x)
    x = layers.Add(name="sum")([x, layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)])
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 1, name="pointwise")(x))
    return keras.Model(images, layers.Dense(3, activation="softmax")(x), name="convmixer")


class SubclassedViT(keras.Model):
    """The same kind of network, whose graph only its own code knows."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.embed, self.places = Patches(), layers.Dense(8), AddPlaces(1)
        self.norms = [layers.LayerNormalization() for _ in range(2)]
        self.attentions = [layers.MultiHeadAttention(2, 4) for _ in range(2)]
        self.classes = layers.Dense(3, activation="softmax")

    def call(self, images: Any) -> Any:
        x = self.places(self.embed(self.patches(images)))
        for norm, attention in zip(self.norms, self.attentions, strict=True):
            y = norm(x)
            x = x + attention(y, y)
        return self.classes(x[:, 0])


def subclassed() -> keras.Model:
    model = SubclassedViT()
    model(np.zeros((1, 16, 16, 3), np.float32))
    return model
