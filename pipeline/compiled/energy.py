"""The energy of a unit's gradient at each pixel, for any network: one compiled function a layer, which takes units in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import WrongSpec
from pipeline.models.network import LayerInfo, Network, read_unclipped

if TYPE_CHECKING:
    import tensorflow as tf

# (images, units) -> energies: (n, height, width, bands) as the network is given them, and int (n, 3), the row, col and
# channel of one unit for each image -> float32 (n, height, width).
Energy = Callable[[np.ndarray, np.ndarray], np.ndarray]

_MOST_BYTES = 1_000_000_000  # of the maps of one batch and the gradients by them
_MOST_BATCH = 32


def energy_of(network: Network, layer: LayerInfo) -> Energy:
    """The energy of d(unit)/d(preprocessed pixels): its squares, summed over the colours.

    Each energy map is scaled so that its largest single square is 1. A unit that no pixel changes has 0 everywhere;
    where the gradient is not finite, neither is the energy.

    The strongest units of a layer behind an upper clamp, such as ReLU6, are at its ceiling, where the gradient is 0. Units
    whose gradient is 0 everywhere get a second one, which passes through that clamp, and through ReLU6 before it, as if
    they were not there.

    Returns: a function of any number of units, one for each image, which runs in batches of one fixed shape; it is
    compiled when it is first called.
    """
    import tensorflow as tf

    from pipeline.compiled.compile import network_input
    from pipeline.compiled.gradients import WITHOUT_CEILING, replaced_gradients

    height, width, _ = network.input_shape
    batch = _batch(network, layer)

    signature = (network_input(network, batch), tf.TensorSpec((batch, 3), tf.int32))

    @cache
    def compiled(without_ceilings: bool) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        def one_batch(images: tf.Tensor, units: tf.Tensor) -> tf.Tensor:
            pixels = network.preprocess(images)
            if without_ceilings:
                with replaced_gradients(WITHOUT_CEILING):  # those before the layer; its own is looked through
                    maps = read_unclipped(network, pixels, [layer.name])[layer.name].value
            else:
                maps = network.trace(pixels, [layer.name])[layer.name]
            # Images of a batch do not influence each other, so the gradient of the sum is the gradient of each image's unit.
            return _energy(tf.gather_nd(maps, units, batch_dims=1), pixels, network.input_shape[2])

        # The weights remain variables: if they were frozen, every layer's function would have its own copy of all of them.
        return tf.function(one_batch, autograph=False).get_concrete_function(*signature)

    def energy(images: np.ndarray, units: np.ndarray) -> np.ndarray:
        energies = by_batches(images, units, False)
        zero = ~energies.any(axis=(1, 2))
        if zero.any():
            energies[zero] = by_batches(images[zero], units[zero], True)
        return energies

    def by_batches(images: np.ndarray, units: np.ndarray, without_ceilings: bool) -> np.ndarray:
        energies = np.empty((len(images), height, width), np.float32)
        for start in range(0, len(images), batch):
            part = slice(start, start + batch)
            missing = batch - len(images[part])
            padded = [np.pad(array[part], [(0, missing)] + [(0, 0)] * (array.ndim - 1)) for array in (images, units)]
            run = compiled(without_ceilings)
            energies[part] = run(tf.constant(padded[0], signature[0].dtype), tf.constant(padded[1], tf.int32)).numpy()[
                : batch - missing
            ]
        return energies

    return energy


def check_gradients(network: Network, layers: Sequence[LayerInfo], hint: str) -> None:
    """Build, and do not run, the gradients of all layers.

    Args:
        hint: what to do instead, for the error.

    Raises: WrongSpec, if an operation has no gradient.
    """
    import tensorflow as tf

    from pipeline.compiled.compile import network_input

    @tf.function(autograph=False, input_signature=(network_input(network, 1),))
    def together(images: tf.Tensor) -> tf.Tensor:
        pixels = network.preprocess(images)
        maps = network.trace(pixels, [layer.name for layer in layers])
        return _energy(tf.stack([tf.reduce_sum(value) for value in maps.values()]), pixels, network.input_shape[2])

    try:
        together.get_concrete_function()
    except LookupError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise WrongSpec(
            f"effective fields need gradients, and {network.name} has an operation without one ({reason}). {hint}"
        ) from None


def _energy(units: tf.Tensor, pixels: tf.Tensor, channels: int) -> tf.Tensor:
    """The energy of the gradient by the image's channels, the first of the pixels'; the rest hold other inputs of the network."""
    import tensorflow as tf

    from pipeline.compiled.gradients import gradient_of

    gradient = gradient_of(units, pixels)
    gradient = (tf.zeros_like(pixels) if gradient is None else gradient)[..., :channels]
    largest = tf.reduce_max(tf.abs(gradient), axis=[1, 2, 3], keepdims=True)
    # Scaled like this, no square overflows or underflows.
    return tf.reduce_sum(tf.square(tf.math.divide_no_nan(gradient, largest)), axis=3)


def _batch(network: Network, layer: LayerInfo) -> int:
    """How many units at once: the maps of all layers up to this one stay in memory until their gradients are computed."""
    floats = int(np.prod(network.input_shape))
    for before in network.layers():
        floats += int(np.prod(before.shape))
        if before.name == layer.name:
            break
    return int(np.clip(_MOST_BYTES // (2 * 4 * floats), 1, _MOST_BATCH))
