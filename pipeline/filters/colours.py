"""Which inputs of a convolution are the image's red, green and blue, measured with images of single colours."""

from __future__ import annotations

import numpy as np

from pipeline.compiled.compile import compile_preprocessing, compile_tap
from pipeline.filters.selection import sees_image
from pipeline.models.network import Kernel, Network


def colour_inputs(network: Network, layer: str, kernel: Kernel) -> tuple[int, int, int] | None:
    """For red, green and blue, the number of the input that carries it; None where the inputs are not the image's colours.

    Many networks take BGR, and some pad or scale before their first convolution, so what arrives there is computed.
    """
    if kernel.inputs != 3 or kernel.groups != 1 or network.input_shape[2] != 3 or not sees_image(network, layer):
        return None
    feeds = network.feeds(layer)
    if len(feeds) > 1:
        return None
    images = np.full((4, *network.input_shape), 128, np.uint8)
    for colour in range(3):
        images[colour + 1, ..., colour] = 228
    arrived = compile_tap(network, feeds, 4)(images)[feeds[0]] if feeds else compile_preprocessing(network, 4)(images)
    means = np.asarray(arrived).mean(axis=(1, 2))
    if means.shape[1] != 3:
        return None
    red, green, blue = (int(input) for input in np.abs(means[1:] - means[0]).argmax(axis=1))
    return (red, green, blue) if {red, green, blue} == {0, 1, 2} else None
