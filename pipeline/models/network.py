"""What every kind of network offers: the one primitive on which every stage is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import tensorflow as tf


LOGITS = "logits"  # the name under which every network gives its logits


@dataclass(frozen=True)
class LayerInfo:
    """One layer whose output can be looked at.

    shape: (height, width, channels) of its map for the network's input size; a layer without a map, such as
    Dense, is (1, 1, units).
    """

    name: str
    kind: str
    shape: tuple[int, int, int]

    @property
    def channels(self) -> int:
        return self.shape[2]


class Network(Protocol):
    """An image network whose every layer can be read."""

    name: str
    input_shape: tuple[int, int, int]  # height, width, channels

    def layers(self) -> list[LayerInfo]:
        """The layers that can be looked at, in the order of the forward pass."""

    def digest(self) -> str:
        """A short hexadecimal digest of the architecture, the weights and the preprocessing."""

    def preprocess(self, images: tf.Tensor) -> tf.Tensor:
        """RGB pixels, uint8 or float in 0..255, (batch, h, w, 3) -> float32, what the network eats. In the graph."""

    def trace(self, images: tf.Tensor, layers: Sequence[str]) -> dict[str, tf.Tensor]:
        """The layers' outputs for preprocessed images, inside the caller's tf.function; inference mode.

        Returns: {layer: float (batch, h, w, c)}; layers without a map come as (batch, 1, 1, units). "logits" is
        a layer too: (batch, classes), before any softmax.
        """
