"""Reader: what `ImageNetwork` asks of a family of networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import tensorflow as tf

from pipeline.models.ending import Ending
from pipeline.models.layout import Layout
from pipeline.models.network import Kernel, LayerInfo, UnreadableLayer
from pipeline.models.other_inputs import Given
from pipeline.models.output import End


class Reader(Protocol):
    """How one family of networks is read.

    layout, input_shape: how the network takes images; height, width and channels.
    takes: the type of the input that is given images. Whole numbers are given as floats all the same, so that gradients pass.
    given: what the job gives the network's other inputs, by name.
    hint: a few words for the error that asks for the preprocessing, where the network shows what it may need, else "".
    """

    layout: Layout
    input_shape: tuple[int, int, int]
    takes: str
    hint: str
    given: Mapping[str, Given]

    def survey(self) -> Sequence[LayerInfo | UnreadableLayer]:
        """All layers in the order of the forward pass. None that can be looked at is called "logits"."""

    def channels_first(self) -> Sequence[str]:
        """The layers that compute with channels before height and width, which not every device can."""

    def read(
        self, images: tf.Tensor, names: Sequence[str], others: Mapping[str, tf.Tensor] | None = None
    ) -> Mapping[str, tf.Tensor]:
        """The outputs of layers and ends, in inference mode, inside a graph.

        Args:
            images: float32, preprocessed, in the network's own order of axes.
            others: what the other inputs are given, (batch, …) each; None for zeros.

        Returns: tensors in the network's own type and order of axes, of known rank.
        """

    def ends(self) -> Sequence[End]:
        """The tensors that the network ends in."""

    def ending(self, layer: str) -> Ending[str] | None:
        """How a layer or an end is made, its evidence as a layer's name; None where that shows only in `read`."""

    def sources(self, name: str) -> tuple[str, ...]:
        """The layers that a layer is made from, or an end is, the nearest on each way back to the image."""

    def convolutions(self) -> list[str]:
        """The layers that have a learned kernel, in the order of `layers`."""

    def kernels(self, layers: Sequence[str]) -> dict[str, tuple[Kernel, ...]]:
        """The learned kernels of those of the layers that have any."""

    def identity(self, logits: str | None) -> list[Any]:
        """The values that identify this network, but for its weights, of JSON's types.

        Args:
            logits: the layer of the logits, where the job names one.
        """

    def contents(self) -> Iterable[bytes | memoryview]:
        """The bytes of the weights, and of whatever else `identity` leaves out."""
