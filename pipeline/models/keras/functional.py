"""The reader of functional and sequential Keras models, whose graph Keras knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from pipeline.models.image_network import End, nearest_layers
from pipeline.models.keras.keras_graph import KerasGraph
from pipeline.models.keras.kernels import has_kernel, kernels_of
from pipeline.models.keras.weights import weight_bytes
from pipeline.models.layout import image_layout
from pipeline.models.network import LOGITS, Kernel, LayerInfo


class FunctionalReader:
    """Reads a functional or sequential model of one image input, which is shared and never changed."""

    hint = ""

    def __init__(self, model: keras.Model, name: str, size: tuple[int, int] | None) -> None:
        """Read the graph of a model.

        Args:
            name: the network, for the errors.
            size: (height, width), needed where the model leaves them open.

        Raises: UnusableModel, for a model that does not take grey or RGB images; WrongSpec, where `size` is missing
            or contradicts the model.
        """
        self.model = model
        self.layout, self.input_shape = image_layout(tuple(model.inputs[0].shape), name, size)
        self._graph = KerasGraph.of(model)
        self._calls = dict(self._graph.walk())
        self._layers = [LayerInfo(*described) for described in self._described()]
        self._names = {layer.name for layer in self._layers}

    def layers(self) -> Sequence[LayerInfo]:
        return self._layers

    def channels_first(self) -> Sequence[str]:
        return [
            name
            for name, call in self._calls.items()
            if name in self._names and getattr(call.operation, "data_format", "") == "channels_first"
        ]

    def read(self, images: tf.Tensor, names: Sequence[str]) -> Mapping[str, tf.Tensor]:
        return self._graph.reach(images, names, lambda model, value: model(value, training=False))

    def ends(self) -> Sequence[End]:
        names = {id(call.output): name for name, call in self._graph.calls.items()}
        known = [(names[id(output)], tuple(output.shape)) for output in self.model.outputs if id(output) in names]
        return [End.of(name, shape, self.layout) for name, shape in known]

    def logits_before(self, layer: str) -> str:
        return layer

    def sources(self, name: str) -> tuple[str, ...]:
        return nearest_layers(
            self._graph.feeds(name),
            lambda call: [] if call is None else self._graph.feeds(call),
            lambda call: call if call in self._names else None,
        )

    def convolutions(self) -> list[str]:
        return [layer.name for layer in self._layers if has_kernel(self._calls[layer.name])]

    def kernels(self, layers: Sequence[str]) -> dict[str, tuple[Kernel, ...]]:
        return {name: kernels_of(self._calls[name]) for name in layers if has_kernel(self._calls[name])}

    def identity(self, logits: str | None) -> list[Any]:
        layers = [(layer.name, layer.kind, layer.shape) for layer in self._layers]
        return [layers, *([logits] if logits else [])]

    def contents(self) -> Iterator[bytes]:
        return weight_bytes(self.model.weights)

    def _described(self) -> list[tuple[str, str, tuple[int, int, int]]]:
        """Name, kind and map shape of the calls that give floats as (batch, h, w, c) or (batch, units)."""
        # MobileNetV3 calls a convolution "logits"; the name is taken, by the very same numbers as (batch, classes).
        candidates = {name: call for name, call in self._calls.items() if name != LOGITS}
        stand_in = keras.KerasTensor((None, *self.layout.shape(*self.input_shape)), dtype=self._graph.input.dtype)
        # The model's own shapes may be open where the job's are not, so the sizes are worked out from the job's input.
        outputs = self._graph.reach(stand_in, candidates, lambda model, value: model.compute_output_spec(value))
        described = []
        for name, call in candidates.items():
            shape: tuple[Any, ...] = tuple(outputs[name].shape[1:])
            if len(shape) in (1, 3) and None not in shape and "float" in outputs[name].dtype:
                sizes = self.layout.sizes(shape) if len(shape) == 3 else (1, 1, *shape)
                described.append((name, call.kind, sizes))
        return described
