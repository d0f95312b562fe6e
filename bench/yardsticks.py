"""Yardsticks: other ways to go over images with a network, each a function of one batch (uint8 pixels, first id)."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from pipeline.models.network import Network

Pass = Callable[[np.ndarray, int], None]


def keras_model(network: Network) -> Any:
    """The Keras model inside a network that has one."""
    model = getattr(getattr(network, "reader", None), "model", None)
    assert model is not None, f"{network.name} is no Keras model, and the yardsticks are of one"
    return model


def bare(model: Any) -> Pass:
    """The Keras model through tf.function, nothing read from it but its output."""
    import tensorflow as tf

    call = tf.function(lambda pixels: model(tf.cast(pixels, tf.float32), training=False), jit_compile=False)
    return lambda images, first: call(tf.constant(images)).numpy()


def as_the_seed(model: Any, layers: Sequence[str], k: int) -> Pass:
    """What strongest_conv_activations does: maps come to the host, where an object a channel keeps images inside.

    Of each batch an object takes all images beside those that it has, sorts them by response and drops what is too many.
    """
    return _object_a_channel(model, layers, lambda: _Sorted(k))


def with_heaps(model: Any, layers: Sequence[str], k: int) -> Pass:
    """The same but kinder: an object has a heap, and takes no more than the images that enter it."""
    return _object_a_channel(model, layers, lambda: _Heap(k))


def predict_and_numpy(model: Any, layers: Sequence[str], k: int) -> Pass:
    """`Model.predict`, then NumPy for all channels of a layer at once; ids are kept, images are not."""
    tapped = _tapped(model, layers)
    best: list[tuple[np.ndarray, ...]] = [(np.empty((0, output.shape[-1])),) * 3 for output in tapped.outputs]

    def run(images: np.ndarray, first: int) -> None:
        examples = np.arange(first, first + len(images))
        for number, maps in enumerate(tapped.predict(images.astype(np.float32), batch_size=len(images), verbose=0)):
            flat = maps.reshape(len(maps), -1, maps.shape[-1])
            new = flat.max(axis=1), np.repeat(examples[:, None], maps.shape[-1], axis=1), flat.argmax(axis=1)
            scores, ids, places = (np.concatenate(pair) for pair in zip(best[number], new, strict=True))
            order = np.argsort(-scores, axis=0)[:k]
            best[number] = tuple(np.take_along_axis(values, order, axis=0) for values in (scores, ids, places))

    return run


class _Channel(Protocol):
    def update(self, maps: np.ndarray, images: np.ndarray, first: int) -> None:
        """One batch: float32 maps (batch, h, w) of the channel, and the images with the id of their first."""


def _object_a_channel(model: Any, layers: Sequence[str], make: Callable[[], _Channel]) -> Pass:
    import tensorflow as tf

    tapped = _tapped(model, layers)
    call = tf.function(lambda pixels: tapped(tf.cast(pixels, tf.float32), training=False), jit_compile=False)
    channels = [[make() for _ in range(output.shape[-1])] for output in tapped.outputs]

    def run(images: np.ndarray, first: int) -> None:
        for maps, objects in zip(call(tf.constant(images)), channels, strict=True):
            on_host = maps.numpy()
            for number, channel in enumerate(objects):
                channel.update(on_host[..., number], images, first)

    return run


class _Sorted:
    """The strongest responses of one channel, their places and images; ids are not kept."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._kept: tuple[np.ndarray, ...] | None = None

    def update(self, maps: np.ndarray, images: np.ndarray, first: int) -> None:
        flat = maps.reshape(len(maps), -1)
        columns: tuple[np.ndarray, ...] = images, flat.max(axis=1), flat.argmax(axis=1)
        if self._kept is not None:
            columns = tuple(np.concatenate(pair) for pair in zip(self._kept, columns, strict=True))
        order = np.argsort(-columns[1])
        self._kept = tuple(column[order][: self._k] for column in columns)


class _Heap:
    """The strongest responses of one channel, each with its image."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._heap: list[tuple[float, int, int, np.ndarray]] = []

    def update(self, maps: np.ndarray, images: np.ndarray, first: int) -> None:
        flat = maps.reshape(len(maps), -1)
        for place, image in enumerate(flat):
            peak = int(image.argmax())
            score = float(image[peak])
            if len(self._heap) < self._k:
                heapq.heappush(self._heap, (score, first + place, peak, images[place].copy()))
            elif score > self._heap[0][0]:
                heapq.heapreplace(self._heap, (score, first + place, peak, images[place].copy()))


def _tapped(model: Any, layers: Sequence[str]) -> Any:
    import keras

    return keras.Model(model.inputs, [model.get_layer(layer).output for layer in layers])
