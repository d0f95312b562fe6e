"""The receptive fields of a network's layers: recfield's solver on the network's own trace."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.errors import FieldUnsolved
from pipeline.models.network import LayerInfo, Network
from recfield import ReceptiveField, UnsolvableField

_MOST_BYTES = 400_000_000  # of maps that one batch of probes may fill


def solve_fields(network: Network, layers: Sequence[LayerInfo]) -> dict[str, ReceptiveField]:
    """The fields of some layers, all from one pass of probes.

    Raises: FieldUnsolved.
    """
    import tensorflow as tf

    from pipeline.models.tap import freeze

    height, width, channels = network.input_shape
    floats = height * width * channels + sum(int(np.prod(layer.shape)) for layer in layers)
    batch = int(np.clip(_MOST_BYTES // (4 * floats), 2, 16))
    names = [layer.name for layer in layers]
    run = freeze(lambda images: network.trace(images, names), tf.TensorSpec((batch, height, width, channels), tf.float32))

    def forward(images: np.ndarray) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in run(images).items()}

    try:
        return ReceptiveField.of_layers((batch, height, width, channels), forward)
    except UnsolvableField as error:
        raise FieldUnsolved(f"{network.name}: {type(error).__name__}: {error}") from error
