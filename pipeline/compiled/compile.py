"""The compiled pass: pixels in, maps out, one graph of fixed batch shape with its variables frozen to constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from pipeline.compiled.freezing import Pass, freeze
from pipeline.compiled.precision import check_device, reduced
from pipeline.models.network import Network, feed_of


@dataclass(frozen=True)
class Tap:
    """Reads layers: images as `network_input` says -> {layer: float32 map}, for the one batch size it was compiled for."""

    layers: tuple[str, ...]
    run: Pass

    def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(self.run(images))


@dataclass(frozen=True)
class Arithmetic:
    """How a pass computes.

    precision: of expensive operations, such as convolutions; see `pipeline.compiled.precision`.
    xla: whether XLA compiles the network.
    """

    precision: str = "float32"
    xla: bool = False


def compile_tap(network: Network, layers: Sequence[str], batch: int) -> Tap:
    """The pass that returns the layers' maps themselves."""
    return Tap(tuple(layers), compile_pass(network, layers, batch, lambda maps: maps))


def compile_pass(
    network: Network,
    layers: Sequence[str],
    batch: int,
    finish: Callable[..., Any],
    extras: Sequence[tf.TensorSpec] = (),
) -> Pass:
    """Preprocessing, the network up to the deepest of the layers, and `finish`, as one frozen graph.

    Args:
        batch: the fixed number of images.
        finish: takes {layer: map} and the extras; returns any structure of tensors. It becomes part of the graph.
        extras: the specs of further arguments after the images.

    Returns: a callable of images, as `network_input` says, and the extras, which returns the structure of `finish`.
    """

    def read(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return network.trace(images, layers)

    return freeze(pass_of(network, read, batch, finish), network_input(network, batch), *extras)


def pass_of(
    network: Network,
    read_layers: Callable[[tf.Tensor], Any],
    batch: int,
    finish: Callable[..., Any],
    arithmetic: Arithmetic = Arithmetic(),
) -> Pass:
    """The function that `compile_pass` compiles, for use inside a larger graph.

    Args:
        read_layers: preprocessed images to any structure of tensors, in the network's graph.
        batch: the fixed number of images.
        finish: takes what `read_layers` returns, and then the extras.

    Raises: WrongSpec, for a precision that this machine does not support for this network.
    """

    def traced(images: tf.Tensor) -> Any:
        return read_layers(network.preprocess(images))

    check_device(arithmetic.precision)
    exact, spec = arithmetic.precision in ("float32", "tf32"), network_input(network, batch)
    read = traced if exact else reduced(traced, spec, arithmetic.precision, network.name)
    run = tf.function(read, autograph=False, jit_compile=True) if arithmetic.xla else read
    return lambda images, *others: finish(run(images), *others)


def compile_preprocessing(network: Network, batch: int) -> Pass:
    """The preprocessing as a compiled function: images, as `network_input` says -> float32 (batch, h, w, channels)."""
    return freeze(network.preprocess, network_input(network, batch))


def network_input(network: Network, batch: int) -> tf.TensorSpec:
    """The spec of a pass's images: uint8 (batch, h, w, 3), or as the network's `Feed` says."""
    (height, width, _), feed = network.input_shape, feed_of(network)
    return tf.TensorSpec((batch, height, width, feed.depth), feed.dtype)
