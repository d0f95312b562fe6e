"""The reader of functional and sequential Keras models, whose graph Keras knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.compiled.keras_private import layers_inside, maker_of, run_graph
from pipeline.errors import UnusableModel
from pipeline.models.keras.grouped_convolutions import without_compiled_convolutions
from pipeline.models.keras.keras_graph import KerasGraph, LayerCall
from pipeline.models.keras.kernels import has_kernel, kernels_of
from pipeline.models.keras.subclassed import RECORDED_BATCH, described_call, record_calls, sources_of
from pipeline.models.keras.weights import weight_bytes
from pipeline.models.layout import image_layout
from pipeline.models.network import (
    LOGITS,
    Kernel,
    LayerInfo,
    TokenTensor,
    UnreadableLayer,
    nearest_layers,
    shape_problem,
    unreadable,
)
from pipeline.models.other_inputs import Given, OtherInput, bind, image_of, without_image
from pipeline.models.output import End


class FunctionalReader:
    """Reads a functional or sequential model, which is shared and never changed."""

    hint = ""

    def __init__(
        self, model: keras.Model, name: str, size: tuple[int, int] | None, inputs: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Read the graph of a model.

        Args:
            name: the network, for the errors.
            size: (height, width), needed where the model leaves them open.
            inputs: `model.inputs`: which input takes the images, and what the others are given.

        Raises: UnusableModel, for a model that does not take images; WrongSpec, where `size` is missing or contradicts the
            model, or where an input is given nothing.
        """
        self.model, self.graph = model, KerasGraph.of(model)
        every = [OtherInput(str(maker_of(given).name), tuple(given.shape[1:]), str(given.dtype)) for given in self.graph.inputs]
        image = image_of(every, inputs, name)
        self.image = next(number for number, tensor in enumerate(every) if tensor.name == image)
        self._order = [tensor.name for tensor in every]
        self.given: Mapping[str, Given] = bind(
            [tensor for tensor in every if tensor.name != image], without_image(inputs, image), name
        )
        self.layout, self.input_shape = image_layout(tuple(self.graph.inputs[self.image].shape), name, size)
        self._calls = dict(self.graph.walk())
        self.takes = str(self.graph.inputs[self.image].dtype)
        if "int" in self.takes:
            self._check_floats(name)
        self._inner: dict[str, str] = {}  # what composite layers call, and which of them does
        self._inner_sources: dict[str, tuple[str, ...]] = {}
        self._survey = list(self._described())
        self._names = dict.fromkeys(layer.name for layer in self._survey if isinstance(layer, LayerInfo | TokenTensor))

    def survey(self) -> Sequence[LayerInfo | UnreadableLayer]:
        return self._survey

    def channels_first(self) -> Sequence[str]:
        return [name for name in self._names if getattr(self._calls[name].operation, "data_format", "") == "channels_first"]

    def read(
        self, images: tf.Tensor, names: Sequence[str], others: Mapping[str, tf.Tensor] | None = None
    ) -> Mapping[str, tf.Tensor]:
        values = self._values(images, others)
        with without_compiled_convolutions():
            if "int" in self.takes:
                return self.graph.reach(values, names, lambda model, values: (run_graph(model, values), {}))
            if self._inner.keys().isdisjoint(names):
                return self.graph.reach(values, names, lambda model, values: (model(values, training=False), {}))
            return self.graph.reach(values, names, _recorded)

    def ends(self) -> Sequence[End]:
        makers = [(self.graph.makers([output]), output) for output in self.model.outputs]
        named = [(str(maker), output) for (maker,), output in makers if len(self._outputs_of(maker)) == 1]
        return [End.of(name, tuple(output.shape), self.layout) for name, output in named]

    def ending(self, layer: str) -> None:
        return None

    def sources(self, name: str) -> tuple[str, ...]:
        if name in self._inner_sources:
            return self._inner_sources[name]
        return nearest_layers(
            self.graph.feeds(name),
            lambda call: self.graph.feeds(call) if isinstance(call, str) else [],
            lambda call: call if isinstance(call, str) and call in self._names else None,
        )

    def convolutions(self) -> list[str]:
        return [name for name in self._names if has_kernel(self._calls[name])]

    def kernels(self, layers: Sequence[str]) -> dict[str, tuple[Kernel, ...]]:
        return {name: kernels_of(self._calls[name]) for name in layers if has_kernel(self._calls[name])}

    def identity(self, logits: str | None) -> list[Any]:
        layers = [(layer.name, layer.kind, layer.shape) for layer in self._survey if isinstance(layer, LayerInfo)]
        return [layers, *([logits] if logits else [])]

    def contents(self) -> Iterator[bytes]:
        return weight_bytes(self.model.weights)

    def _check_floats(self, name: str) -> None:
        """Hold what a network made for whole numbers gives for the same pixels as floats against that. Raises: UnusableModel."""
        shape = [size or 1 for size in self.layout.shape(*self.input_shape)]
        pixels = np.random.default_rng(0).integers(0, 256, (1, *shape))
        makers = [maker for output in self.model.outputs for maker in self.graph.makers([output])]
        ends = [maker for maker in makers if isinstance(maker, str) and len(self._calls[maker].outputs) == 1]
        values = self._values(tf.constant(pixels, self.takes), None)
        right = keras.tree.flatten(self.model(keras.tree.pack_sequence_as(self.model.input, values), training=False))
        variable = tf.Variable(tf.constant(pixels, tf.float32))
        try:
            with tf.GradientTape() as tape:
                tensors = self.read(tf.convert_to_tensor(variable), ends)
            gradients = tape.gradient([value for value in tensors.values() if value.dtype.is_floating], variable)
            agree = gradients is not None and all(
                np.allclose(tensors[end], value, rtol=1e-3, atol=1e-3)
                for end, value in zip(map(str, makers), right, strict=True)
                if end in tensors
            )
        except Exception:  # operations of whole numbers alone refuse floats in many ways
            agree = False
        if not agree:
            raise UnusableModel(
                f"{name} takes its images as {self.takes} and computes with them before they become floats, which no gradient "
                "can pass. Save it with an input of floats, or cast the input first."
            )

    def _values(self, images: tf.Tensor, others: Mapping[str, tf.Tensor] | None) -> list[tf.Tensor]:
        """A tensor for each input of the graph, in order."""
        batch = images.shape[0] or tf.shape(images)[0]
        values = []
        for number, (name, given) in enumerate(zip(self._order, self.graph.inputs, strict=True)):
            if number == self.image:
                values.append(images)
            elif others is None:
                values.append(tf.zeros((batch, *(size or 1 for size in given.shape[1:])), given.dtype))
            else:
                values.append(tf.cast(others[name], given.dtype))
        return values

    def _outputs_of(self, maker: str | int) -> Sequence[keras.KerasTensor]:
        return self._calls[maker].outputs if isinstance(maker, str) else ()

    def _described(self) -> Iterator[LayerInfo | UnreadableLayer]:
        """Every layer: those that give floats as (batch, h, w, c) or (batch, units), and why the others cannot be looked at."""
        yield from (UnreadableLayer(name, type(layer).__name__, "the input") for name, layer in self.graph.input_layers())
        image = (None, *self.layout.shape(*self.input_shape))
        stand_ins = [
            keras.KerasTensor(image if number == self.image else given.shape, dtype=given.dtype)
            for number, given in enumerate(self.graph.inputs)
        ]
        # The model's own shapes may be open where the job's are not, so the sizes are worked out from the job's input.
        single = [name for name, call in self._calls.items() if len(call.outputs) == 1]
        outputs = self.graph.reach(stand_ins, single, lambda model, values: (model.compute_output_spec(values), {}))
        calls = list(self._calls.items())
        inner = self._inside([name for name, _ in calls]) if "int" not in self.takes else {}
        for name, call in calls:
            yield from inner.get(name, [])
            problem = self._problem(name, call, outputs.get(name))
            output = outputs.get(name)
            if output is None or (problem and name == LOGITS):
                assert problem
                yield UnreadableLayer(name, call.kind, problem)
            elif problem:
                yield unreadable(name, call.kind, problem, tuple(output.shape), output.dtype)
            else:
                shape: tuple[Any, ...] = tuple(output.shape[1:])
                yield LayerInfo(name, call.kind, self.layout.sizes(shape) if len(shape) == 3 else (1, 1, *shape))
            if not call.nested and name not in inner:
                for layer in layers_inside(call.operation):
                    yield UnreadableLayer(f"{name}/{layer.name}", type(layer).__name__, f"inside the layer {name!r}")

    def _inside(self, known: Sequence[str]) -> dict[str, list[LayerInfo | UnreadableLayer]]:
        """The layers that composite layers call, by the name of the outer one, whose calls are recorded."""
        composites = self.graph.composites()
        if not composites:
            return {}
        inside: dict[str, list[LayerInfo | UnreadableLayer]] = {name: [] for name in composites}

        def look(images: tf.Tensor) -> None:
            seen: dict[str, Any] = {}

            def run(model: keras.Model, values: list[Any]) -> tuple[Any, Mapping[str, Any]]:
                calls, output = record_calls(model, values)
                seen.update(calls)
                return output, {name: call.output for name, call in calls.items()}

            single = [name for name in known if len(self._calls[name].outputs) == 1 or name in composites]
            outputs = self.graph.reach(self._values(images, None), single, run)
            for name, call in seen.items():
                outer = next((composite for composite in composites if name.startswith(f"{composite}/")), None)
                if outer is None:
                    continue
                described, problem = described_call(name, call, images.graph, self.layout)
                inside[outer].append(described)
                if problem is None or isinstance(described, TokenTensor):
                    self._inner[name] = outer
                    self._calls[name] = LayerCall(call.operation, (keras.KerasTensor(tuple(call.output.shape)),))
                    outputs[name] = call.output
            tensors = {name: outputs[name] for name in sorted(outputs, key=lambda name: _place(outputs[name]))}
            for name in [*self._inner, *composites]:
                if name in tensors:
                    self._inner_sources[name] = sources_of(tensors, name, tensors[name])

        spec = tf.TensorSpec((RECORDED_BATCH, *self.layout.shape(*self.input_shape)), self.takes)
        tf.function(look, autograph=False).get_concrete_function(spec)
        return inside

    def _problem(self, name: str, call: LayerCall, output: keras.KerasTensor | None) -> str | None:
        if name == LOGITS:  # MobileNetV3 calls a convolution "logits", which gives the very same numbers
            return "its name is taken by the logits, (batch, classes)"
        if output is None:
            several = f"gives {len(call.outputs)} tensors"
            return f"{several}; name the layers inside it" if call.nested else f"{several}; name the layers that take them"
        return shape_problem(call.kind, tuple(output.shape), output.dtype)


def _recorded(model: keras.Model, values: list[Any]) -> tuple[Any, Mapping[str, Any]]:
    """The outputs of a model, and of every layer inside it."""
    calls, output = record_calls(model, values)
    return output, {name: call.output for name, call in calls.items()}


def _place(tensor: tf.Tensor) -> int:
    """The position of a tensor in the order in which its graph was built."""
    return tensor.graph.get_operations().index(tensor.op)
