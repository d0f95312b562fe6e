"""A Keras model read as a Network: every layer's map, logits before any softmax, the model itself untouched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.errors import UnknownLayer, UnknownName, UnusableModel, WrongSpec
from pipeline.models.keras.keras_graph import Graph, is_readable
from pipeline.models.kernels import has_kernel, of_step
from pipeline.models.layout import Layout, check_device, image_layout
from pipeline.models.network import LOGITS, Kernel, LayerInfo
from pipeline.models.preprocessing import check_mode, prepare
from pipeline.spec.model import ModelSpec

# What may stand between a softmax and the end of a network without changing which number belongs to which class.
_TRANSPARENT = {"Identity", "Cast", "Reshape", "Squeeze"}


class KerasNetwork:
    """A functional or sequential Keras model of one image input."""

    def __init__(
        self, model: keras.Model, name: str, size: tuple[int, int] | None, preprocessing: str, logits: str | None = None
    ) -> None:
        """Read the graph of a model; the model is shared, never changed.

        Args:
            size: (height, width), needed where the model leaves them open.
            preprocessing: a key of `MODES`.
            logits: the layer that gives the logits, needed where the model has several outputs.

        Raises: UnusableModel, WrongSpec, UnknownName.
        """
        self.name = name
        self.model = model
        self._layout, self.input_shape = read_input(model, name, size)
        check_mode(preprocessing, self.input_shape[2], name)
        self._graph = Graph.of(model)
        self._preprocessing = preprocessing
        self._layers = [LayerInfo(*found) for found in self._maps()]
        self._named_logits = self._check_named(logits)
        first = [name for name, step in self._graph.walk() if getattr(step.operation, "data_format", "") == "channels_first"]
        known = {layer.name for layer in self._layers}
        check_device(self, [name for name in first if name in known], name)

    def layers(self) -> list[LayerInfo]:
        """The layers that give one map or one vector, in forward order; nested ones as `outer/inner`."""
        return list(self._layers)

    def digest(self) -> str:
        """16 hexadecimal digits of the input, the layers and their shapes, the weights and the preprocessing."""
        layers = [(layer.name, layer.kind, layer.shape) for layer in self._layers]
        told = [self.input_shape, self._preprocessing, layers, *([self._named_logits] if self._named_logits else [])]
        digest = hashlib.sha256(json.dumps(told).encode())
        add_weights(digest, self.model.weights)
        return digest.hexdigest()[:16]

    def preprocess(self, images: tf.Tensor) -> tf.Tensor:
        """RGB pixels, uint8 or float in 0..255, (batch, h, w, 3) -> float32 (batch, h, w, 3, or 1 for a grey network)."""
        return prepare(images, self._preprocessing, self.input_shape[2])

    def trace(self, images: tf.Tensor, layers: Sequence[str]) -> dict[str, tf.Tensor]:
        """The layers' outputs for preprocessed images, in inference mode; nothing past the deepest is run.

        Returns: {layer: float32 (batch, h, w, c)}; a layer without a map as (batch, 1, 1, units); "logits" as
        (batch, classes), before any softmax.

        Raises: UnknownLayer; UnusableModel, for the logits of a network that ends in a map.
        """
        if tf.executing_eagerly():  # the softmax is found in a graph alone
            return dict(tf.function(lambda images: self.trace(images, layers), autograph=False)(images))
        steps = {name: name for name in layers}
        if LOGITS in steps:
            steps[LOGITS] = self._last_step()
        self._check_known(layers)
        fed = self._layout.feed(images)
        found = self._graph.reach(fed, dict.fromkeys(steps.values()), lambda model, value: model(value, training=False))
        maps = {}
        for name, step in steps.items():
            if name == LOGITS:
                classes = found[step].shape[-1]
                maps[name] = tf.cast(tf.reshape(before_softmax(found[step]), (-1, classes)), tf.float32)
            else:
                output = tf.cast(found[step], tf.float32)
                maps[name] = self._layout.maps(output) if output.shape.rank == 4 else output[:, tf.newaxis, tf.newaxis, :]
        return maps

    def feeds(self, layer: str) -> tuple[str, ...]:
        """The layers that a layer is made from, the nearest on each way back; none where only the image is on the way.

        Raises: UnknownLayer; UnusableModel, for the logits of a network that ends in a map.
        """
        self._check_known([layer])
        known = {found.name for found in self._layers}
        queue = [self._last_step()] if layer == LOGITS else self._graph.feeds(layer)
        found: dict[str, None] = {}
        for name in queue:
            if name in known:
                found[name] = None
            elif name is not None:
                queue += [further for further in self._graph.feeds(name) if further not in queue]
        return tuple(found)

    def convolutions(self) -> list[str]:
        """The layers that have a learned kernel, Dense layers over maps among them, in forward order."""
        steps = dict(self._graph.walk())
        return [layer.name for layer in self._layers if has_kernel(steps[layer.name])]

    def kernels(self, layers: Sequence[str]) -> dict[str, tuple[Kernel, ...]]:
        """The learned kernels of those of the layers that are convolutions. Raises: UnknownLayer."""
        self._check_known(layers)
        steps = dict(self._graph.walk())
        return {name: of_step(steps[name]) for name in layers if name in steps and has_kernel(steps[name])}

    def _check_known(self, layers: Sequence[str]) -> None:
        known = {layer.name for layer in self._layers}
        for name in layers:
            if name not in known and name != LOGITS:
                raise UnknownLayer.among(name, known, where=f"in {self.name}", hint="List them: convscope layers SPEC")

    def _last_step(self) -> str:
        """The name of the step whose output, or whose input, is the logits."""
        if self._named_logits:
            return self._named_logits
        outputs = self.model.outputs
        steps = self._graph.steps.items()
        ends = [name for output in outputs for name, step in steps if step.output is output]
        if len(outputs) > 1 and ends:
            raise WrongSpec(
                f"{self.name} has several outputs: {', '.join(ends)}. Name the layer of the logits: model.logits = {ends[0]!r}."
            )
        last = next((name for name, step in self._graph.steps.items() if step.output is outputs[0]), None)
        shape = tuple(outputs[0].shape)
        if len(outputs) != 1 or last is None or not (len(shape) == 2 or (len(shape) == 4 and shape[1:3] == (1, 1))):
            raise UnusableModel(
                f"{self.name} has no logits: it ends in {len(outputs)} output(s), the first of shape {shape}, not in one "
                "number a class. Set model.top = true, or name a network with its classifier."
            )
        return last

    def _check_named(self, named: str | None) -> str | None:
        vectors = [layer.name for layer in self._layers if layer.shape[:2] == (1, 1)]
        if named is not None and named not in vectors:
            raise UnknownName.among(named, vectors, where=f"a layer of {self.name} with one number a class (model.logits)")
        return named

    def _maps(self) -> list[tuple[str, str, tuple[int, int, int]]]:
        """Name, kind and map shape of the steps that give floats as (batch, h, w, c) or (batch, units)."""
        # MobileNetV3 calls a convolution "logits"; the name is taken, by the very same numbers as (batch, classes).
        candidates = {name: step for name, step in self._graph.walk() if name != LOGITS}
        stand_in = keras.KerasTensor((None, *self._layout.shape(*self.input_shape)), dtype=self._graph.input.dtype)
        # The model's own shapes may be open where the job's are not, so the sizes are worked out from the job's input.
        outputs = self._graph.reach(stand_in, candidates, lambda model, value: model.compute_output_spec(value))
        maps = []
        for name, step in candidates.items():
            shape: tuple[Any, ...] = tuple(outputs[name].shape[1:])
            if len(shape) in (1, 3) and None not in shape and "float" in outputs[name].dtype:
                sizes = self._layout.sizes(shape) if len(shape) == 3 else (1, 1, *shape)
                maps.append((name, step.kind, sizes))
        return maps


def read_input(model: keras.Model, name: str, size: tuple[int, int] | None) -> tuple[Layout, tuple[int, int, int]]:
    """The layout of a model's images, and their (height, width, channels), open ends filled from `size`.

    Raises: UnusableModel, for a model that does not take one batch of grey or RGB images; WrongSpec, where
    `size` is missing or contradicts the model.
    """
    if not isinstance(model, keras.Model) or not is_readable(model):
        inputs = getattr(model, "inputs", None)
        reason = f"it has {len(inputs)} inputs" if inputs else "it is a subclassed or unbuilt model, whose graph is not known"
        raise UnusableModel(
            f"{name} cannot be read: {reason}. Name a functional or sequential model of one image input, "
            "or export it (model.export) and write savedmodel:DIR."
        )
    return image_layout(tuple(model.inputs[0].shape), name, size)


def check_keys(spec: ModelSpec, where: str) -> None:
    """Raises: WrongSpec, for a key of the spec that only graphs have a use for."""
    if spec.inputs:
        raise WrongSpec(f"model.inputs is for frozen: and savedmodel: networks; {where} takes images alone. Leave it out.")


def add_weights(digest: Any, weights: Iterable[keras.Variable]) -> None:
    """Put a network's weights into a digest of hashlib."""
    with ThreadPoolExecutor() as threads:
        for part in threads.map(lambda chunk: hashlib.sha256(chunk).digest(), _chunks(weights)):
            digest.update(part)


def before_softmax(output: tf.Tensor) -> tf.Tensor:
    """The input of the softmax that gave this tensor of a graph; the tensor itself where there was none."""
    operation = output.op
    while operation.type in _TRANSPARENT:
        operation = operation.inputs[0].op
    return operation.inputs[0] if operation.type == "Softmax" else output


def _chunks(variables: Iterable[keras.Variable], size: int = 1 << 24) -> Iterator[memoryview]:
    """The bytes of variables in pieces that threads can share: one layer often holds most of them."""
    for variable in variables:
        data = np.ascontiguousarray(tf.convert_to_tensor(variable)).reshape(-1).view(np.uint8).data
        yield from (data[first : first + size] for first in range(0, len(data), size))
