"""How the tests make networks ready and run them: weights, layers with a map, the compiled forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import layers as L

Forward = Callable[[np.ndarray], dict[str, np.ndarray]]

# Every builder of keras.applications: functions with a capital, as the package has them.
APPLICATIONS = sorted(
    name for name, builder in vars(keras.applications).items() if name[0].isupper() and inspect.isfunction(builder)
)
# An odd side gives unlike borders; these need no more than it, and the rest are run at 96.
LEAST_SIDE = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}


def scatter(model: keras.Model, seed: int) -> None:
    """Draws biases, scales and moving statistics, which Keras starts at constants, and balances the random kernels.

    A balanced kernel has the mean 0 and He's variance, 2 / fan-in. Otherwise, with so few channels, many a ReLU
    would be off for nearly every image, or signals would fade until the biases alone decide which are: such
    channels are the business of one network here only.
    """
    rng = np.random.default_rng(seed)
    draw = {
        "bias": lambda shape: rng.normal(0, 0.1, shape),
        "beta": lambda shape: rng.normal(0, 0.1, shape),
        "gamma": lambda shape: rng.uniform(0.5, 1.5, shape),
        "moving_mean": lambda shape: rng.normal(0, 0.1, shape),
        "moving_variance": lambda shape: rng.uniform(0.5, 2.0, shape),
    }
    # By the axes that one output channel reads.
    read = {"kernel": (0, 1, 2), "pointwise_kernel": (0, 1, 2), "depthwise_kernel": (0, 1)}
    for layer in model._flatten_layers():
        for weight in layer._trainable_variables + layer._non_trainable_variables:
            if weight.name in draw:
                weight.assign(draw[weight.name](weight.shape))
            elif weight.name in read:
                axes = (0, 1, 3) if isinstance(layer, L.Conv2DTranspose) else read[weight.name][: len(weight.shape) - 1]
                kernel = weight.numpy()
                fan_in = np.prod([kernel.shape[axis] for axis in axes])
                if fan_in > 1:
                    kernel -= kernel.mean(axis=axes, keepdims=True)
                    weight.assign(kernel / kernel.std() * np.sqrt(2 / fan_in))


def wake_layer_scale(model: keras.Model, seed: int) -> None:
    """Gives ConvNeXt's LayerScale the size it has in trained networks.

    Keras starts it at 1e-6: what two blocks reach together is then 1e-12 of the signal, less than float32 holds,
    and no forward pass whatever can show it.
    """
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if type(layer).__name__ == "LayerScale":
            layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))


def awaken(model: keras.Model) -> None:
    """Makes ReLUs leaky, so that every unit of every channel answers to every image."""
    for layer in model._flatten_layers():
        if isinstance(layer, L.ReLU):
            layer.negative_slope = 0.2
        elif getattr(layer, "activation", None) is keras.activations.relu:
            layer.activation = keras.activations.leaky_relu


def kill(layer: keras.Layer, channel: int) -> None:
    """Makes one channel of a ReLU layer zero whatever the image."""
    kernel, bias = layer.get_weights()
    bias[channel] = -1e9
    layer.set_weights([kernel, bias])


def maps(model: keras.Model) -> list[str]:
    """The layers that have a map, the input left out, in the order of the forward pass."""
    return [
        operation.name
        for operation in model.operations
        if not isinstance(operation, L.InputLayer) and len(output(operation).shape) == 4
    ]


def output(operation: keras.Operation) -> keras.KerasTensor:
    """What a layer gives in the network; a model used as a layer has outputs of its own besides."""
    return operation._inbound_nodes[-1].outputs[0]


def application(name: str, size: int | None = None) -> keras.Model:
    """A network of keras.applications without its head, random weights, for a small image."""
    keras.utils.set_random_seed(0)
    side = size or LEAST_SIDE.get(name, 96)
    model = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(side, side, 3))
    wake_layer_scale(model, 0)
    return model


def forward(model: keras.Model, names: Sequence[str], training: bool = False) -> Forward:
    """The compiled forward pass up to some layers; a layer without a map comes as (batch, 1, 1, units)."""
    tap = keras.Model(
        model.inputs, {operation.name: output(operation) for operation in model.operations if operation.name in names}
    )

    @tf.function(reduce_retracing=False)
    def compiled(images: tf.Tensor) -> dict[str, tf.Tensor]:
        actual = tap(images, training=training)
        return {name: y if len(y.shape) == 4 else y[:, None, None, :] for name, y in actual.items()}

    return lambda images: {name: y.numpy() for name, y in compiled(tf.constant(images, tf.float32)).items()}


def forward_one(model: keras.Model, name: str, training: bool = False) -> Callable[[np.ndarray], np.ndarray]:
    """The same for one layer: batch -> (batch, h, w, c)."""
    run = forward(model, [name], training)
    return lambda images: run(images)[name]
