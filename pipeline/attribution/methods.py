"""The compiled pass: images and classes in; logits, class activation maps and pixel gradients out, in one frozen graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from pipeline.compiled.compile import network_input
from pipeline.compiled.freezing import freeze
from pipeline.compiled.graph_walk import LayerTensor, LogitsGraph, calls_functions, layers_of, trace_once
from pipeline.compiled.guided_relu import Guide, guide
from pipeline.errors import WrongSpec
from pipeline.models.network import LOGITS, Network

PREDICTED = -1  # in the place of a class: the one with the highest logit

Key = tuple[str, str | None]  # method, and layer where the method looks at one

# A layer's map A and the gradient G of a class's logit by it, float32 (batch, h, w, c), to (batch, h, w).
CAMS: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    # Selvaraju et al., 2017: channels weighted by their mean gradient.
    "gradcam": lambda maps, slopes: _weighted(maps, tf.reduce_mean(slopes, axis=(1, 2), keepdims=True)),
    # Draelos and Carin, 2020: every place by its own gradient.
    "hirescam": lambda maps, slopes: _weighted(maps, slopes),
    # Chattopadhay et al., 2018, for the exponential of the logit.
    "gradcam++": lambda maps, slopes: _weighted(maps, _plus_plus(maps, slopes)),
}
PIXEL_METHODS = ("gradient", "guided_backprop")
PRODUCT = "guided_gradcam"  # of guided_backprop and gradcam, made where both are at hand


@dataclass(frozen=True)
class Explained:
    """What a pass says of one batch and its classes.

    logits: float32 (batch, classes of the network).
    classes: int (batch, slots): those explained; where PREDICTED was asked, which it was.
    maps: float32, {(method, layer): (batch, slots, h, w)} of class activation maps, zero or more, at the size of
        the layer; {(method, None): (batch, slots, height, width, 3)} of gradients by RGB pixels.
    """

    logits: np.ndarray
    classes: np.ndarray
    maps: dict[Key, np.ndarray]


@dataclass(frozen=True)
class Pass:
    """Explains batches of one fixed size: uint8 (batch, height, width, 3) and int32 (batch, slots) classes.

    guide: what guided backpropagation replaced; None where it was not asked for.
    """

    run: Callable[..., tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]]
    keys: tuple[Key, ...]
    guide: Guide | None

    def __call__(self, images: np.ndarray, classes: np.ndarray) -> Explained:
        logits, shown, values = self.run(tf.constant(images), tf.constant(classes, tf.int32))
        maps = {key: value.numpy() for key, value in zip(self.keys, values, strict=True)}
        return Explained(logits.numpy(), shown.numpy(), maps)


def compile_pass(network: Network, keys: Sequence[Key], batch: int, slots: int) -> Pass:
    """One graph for all of some methods and layers: the network runs forward once a batch, and back once a class.

    Args:
        keys: (method, layer) for each of `CAMS`, (method, None) for each of `PIXEL_METHODS`.
        batch: images at a time; what is kept for the way back bounds the memory.
        slots: classes an image.

    Raises: WrongSpec, for a layer on which the logits do not depend; UnusableModel, where guided backpropagation
        finds nothing to replace, or for a network without logits.
    """
    drawing = Drawing(network, tuple(keys))
    specs = (network_input(network, batch), tf.TensorSpec((batch, slots), tf.int32))
    if calls_functions(network):  # TensorFlow cannot freeze the gradients of functions that read variables
        run = tf.function(drawing, autograph=False).get_concrete_function(*specs)
    else:
        run = freeze(drawing, *specs)
    return Pass(run, drawing.keys, drawing.guide)


def check_way(network: Network, layers: Sequence[str], guided: bool) -> None:
    """Find, without a gradient, what `compile_pass` would refuse. Raises: WrongSpec, UnusableModel."""

    def look(images: tf.Tensor) -> tf.Tensor:
        traced = network.trace(images, [*layers, LOGITS])
        way = LogitsGraph(traced[LOGITS])
        for layer in layers:
            _tapped(way, traced[layer], layer, network)
        if guided:
            guide(way, images, network.name)
        return traced[LOGITS]

    trace_once(network, look)


class Drawing:
    """Draws the pass into the graph of the tf.function that calls it, and remembers what it replaced there.

    owners: where asked for, the layer of every operation of the network, by their names.
    """

    def __init__(self, network: Network, keys: tuple[Key, ...], owned: bool = False) -> None:
        self.network, self.keys, self._owned = network, keys, owned
        self.guide: Guide | None = None
        self.owners: dict[str, str] = {}

    def __call__(self, images: tf.Tensor, classes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        pixels = tf.cast(images, tf.float32)
        layers = list(dict.fromkeys(layer for _, layer in self.keys if layer is not None))
        every = [layer.name for layer in self.network.layers()] if self._owned else []
        traced = self.network.trace(self.network.preprocess(pixels), [*layers, *every, LOGITS])
        logits = traced[LOGITS]
        way = LogitsGraph(logits)
        owners = layers_of(way, {name: traced[name] for name in every})
        self.owners = {operation.name: layer for operation, layer in owners.items()}
        taps = {layer: _tapped(way, traced[layer], layer, self.network) for layer in layers}
        shown = tf.where(classes == PREDICTED, tf.argmax(logits, axis=1, output_type=tf.int32)[:, tf.newaxis], classes)
        scores = [tf.reduce_sum(tf.gather(logits, shown[:, slot], batch_dims=1)) for slot in range(classes.shape[1])]
        values: dict[Key, tf.Tensor] = {}
        for layer, tap in taps.items():
            maps = tap.as_map(tap.tensor)
            slopes = [_slopes(tap, score, layer, self.network) for score in scores]
            for method in CAMS:
                if (method, layer) in self.keys:
                    values[method, layer] = tf.stack([CAMS[method](maps, slope) for slope in slopes], axis=1)
        # The rectifiers are guided once all that wants plain gradients has them.
        for method in PIXEL_METHODS:
            if (method, None) in self.keys:
                if method == "guided_backprop":
                    self.guide = guide(way, pixels, self.network.name)
                values[method, None] = tf.stack([tf.gradients(score, pixels)[0] for score in scores], axis=1)
        return logits, shown, [values[key] for key in self.keys]


def _tapped(way: LogitsGraph, traced: tf.Tensor, layer: str, network: Network) -> LayerTensor:
    tap = way.locate(traced)
    if tap is None:
        raise _not_on_the_way(layer, network)
    return tap


def _slopes(tap: LayerTensor, score: tf.Tensor, layer: str, network: Network) -> tf.Tensor:
    (gradient,) = tf.gradients(score, tap.tensor)
    if gradient is None:
        raise _not_on_the_way(layer, network)
    return tap.as_map(gradient)


def _not_on_the_way(layer: str, network: Network) -> WrongSpec:
    return WrongSpec(
        f"gradcam.layers: the logits of {network.name} do not depend on {layer!r} by any gradient. Name a layer on their way."
    )


def _weighted(maps: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    return tf.nn.relu(tf.reduce_sum(maps * weights, axis=-1))


def _plus_plus(maps: tf.Tensor, slopes: tf.Tensor) -> tf.Tensor:
    """The weights of Grad-CAM++, (batch, 1, 1, c), but for the factor exp(logit), which all channels share."""
    total = tf.reduce_sum(maps, axis=(1, 2), keepdims=True)
    alphas = tf.math.divide_no_nan(slopes**2, 2 * slopes**2 + total * slopes**3)
    return tf.reduce_sum(alphas * tf.nn.relu(slopes), axis=(1, 2), keepdims=True)
