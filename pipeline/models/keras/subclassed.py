"""The reader of subclassed Keras models: their graph is known to their own code alone, so their calls are recorded."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import keras
import tensorflow as tf

from pipeline.compiled.keras_private import calls_through, has_graph, layers_inside, own_attributes
from pipeline.errors import UnusableModel, one_line
from pipeline.models.keras.grouped_convolutions import without_compiled_convolutions
from pipeline.models.keras.keras_graph import LayerCall
from pipeline.models.keras.kernels import has_kernel, kernels_of
from pipeline.models.keras.weights import weight_bytes
from pipeline.models.layout import Layout, image_layout, is_channels_first
from pipeline.models.network import (
    LOGITS,
    SHAPES_ALONE,
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

RECORDED_BATCH = 5  # images for which shapes are worked out: a length that hardly any other axis has
_ONLY = "image"  # the name of an input that has none
_OUTPUT = "what its call returns"  # the name of the model's only end, and the beginning of several: no attribute is called so


@dataclass(frozen=True)
class RecordedCall:
    """The call of a layer inside a model: who was called, and what it gave."""

    operation: keras.Operation
    output: Any

    def problem(self, graph: tf.Graph) -> str | None:
        """Why the layer cannot be looked at in the graph of the images; None where it can."""
        kind = type(self.operation).__name__
        if not isinstance(self.output, tf.Tensor):
            several = len(keras.tree.flatten(self.output))
            return f"gives {several} tensors; name the layers inside it or after it" if several != 1 else "gives no plain tensor"
        if self.output.graph is not graph:
            return "inside a tf.function or a loop of the model's own"
        if self.output.shape.rank is None:
            return "its number of axes is not known"
        return shape_problem(kind, tuple(self.output.shape), self.output.dtype.name)


class SubclassedReader:
    """Reads a subclassed, built Keras model. Its layers are what its code calls, by their attributes.

    A model that takes a list or a dictionary has several inputs, named "0", "1" and so on, or as the dictionary does.
    """

    hint, takes = "", "float32"

    def __init__(
        self, model: keras.Model, name: str, size: tuple[int, int] | None, inputs: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Trace a model once to learn what it calls; the model is shared, never changed.

        Args:
            name: the network, for the errors.
            size: (height, width); None for those that the model was built for.
            inputs: `model.inputs`: which input takes the images, and what the others are given.

        Raises: UnusableModel, WrongSpec, UnknownName.
        """
        self.model = model
        self._structure, shapes = _built_shapes(model, name)
        every = [OtherInput(key, tuple(shape[1:]), "float32") for key, shape in shapes.items()]
        self._image = image_of(every, inputs, name)
        self.given: Mapping[str, Given] = bind(
            [tensor for tensor in every if tensor.name != self._image], without_image(inputs, self._image), name
        )
        own = list(shapes[self._image][1:])
        # What the first call happened to bring need not be all that the model takes.
        if size is not None and len(own) == 3:
            own = [own[0], None, None] if is_channels_first((None, *own)) else [None, None, own[2]]
        self.layout, self.input_shape = image_layout((None, *own), name, size)
        self._surveyed: list[LayerInfo | UnreadableLayer] = []
        self._calls: dict[str, LayerCall] = {}
        self._sources: dict[str, tuple[str, ...]] = {}
        self._ends: list[End] = []
        self._survey(name)

    def survey(self) -> Sequence[LayerInfo | UnreadableLayer]:
        return self._surveyed

    def channels_first(self) -> Sequence[str]:
        return [name for name, call in self._calls.items() if getattr(call.operation, "data_format", "") == "channels_first"]

    def read(
        self, images: tf.Tensor, names: Sequence[str], others: Mapping[str, tf.Tensor] | None = None
    ) -> Mapping[str, tf.Tensor]:
        calls, output = record_calls(self.model, self._arguments(tf.identity(images), others))
        ends = _ends_of(output)
        return {name: ends[name] if name in ends else calls[name].output for name in names}

    def ends(self) -> Sequence[End]:
        return self._ends

    def ending(self, layer: str) -> None:
        return None

    def sources(self, name: str) -> tuple[str, ...]:
        return self._sources[name]

    def convolutions(self) -> list[str]:
        return [name for name, call in self._calls.items() if has_kernel(call)]

    def kernels(self, layers: Sequence[str]) -> dict[str, tuple[Kernel, ...]]:
        return {name: kernels_of(self._calls[name]) for name in layers if has_kernel(self._calls[name])}

    def identity(self, logits: str | None) -> list[Any]:
        layers = [(layer.name, layer.kind, layer.shape) for layer in self._surveyed if isinstance(layer, LayerInfo)]
        return [layers, logits, self._operations]

    def contents(self) -> Iterator[bytes]:
        return weight_bytes(self.model.weights)

    def _arguments(self, images: tf.Tensor, others: Mapping[str, tf.Tensor] | None) -> Any:
        """The arguments that the model is called with; zeros for other inputs without a value."""
        batch = images.shape[0] or tf.shape(images)[0]
        values = {self._image: images}
        for name, given in self.given.items():
            shape = (batch, *(size or 1 for size in given.input.shape))
            values[name] = tf.zeros(shape) if others is None else tf.cast(others[name], tf.float32)
        if self._structure is tf.Tensor:
            return images
        return values if self._structure is dict else [values[str(number)] for number in range(len(values))]

    def _survey(self, where: str) -> None:
        """Trace the model, and remember its layers, what each is made from, what it returns and the operations it runs."""

        def look(images: tf.Tensor) -> None:
            calls, output = record_calls(self.model, self._arguments(images, None))
            for name, call in calls.items():
                described, problem = described_call(name, call, images.graph, self.layout)
                self._surveyed.append(described)
                if problem is None or isinstance(described, TokenTensor):
                    self._calls[name] = LayerCall(call.operation, (keras.KerasTensor(tuple(call.output.shape)),))
            seen = {id(call.operation) for call in calls.values()}
            for layer in layers_inside(self.model):
                if id(layer) not in seen and not isinstance(layer, keras.layers.InputLayer):
                    reason = "its call is not seen: not used in inference, or inside a tf.function"
                    self._surveyed.append(UnreadableLayer(layer.name, type(layer).__name__, reason))
            outputs = {name: call.output for name, call in calls.items() if name in self._calls}
            self._sources = {name: sources_of(outputs, name, tensor) for name, tensor in outputs.items()}
            for name, end in _ends_of(output).items():
                shape = () if end.shape.rank is None or None in end.shape[1:] else tuple(end.shape)
                self._ends.append(End.of(name, shape, self.layout))
                self._sources[name] = sources_of(outputs, name, end)

        spec = tf.TensorSpec((RECORDED_BATCH, *self.layout.shape(*self.input_shape)), tf.float32)
        try:
            graph = tf.function(look, autograph=False).get_concrete_function(spec).graph
        except Exception as error:  # whatever the model's own code raises
            raise UnusableModel(
                f"{where} cannot be run on images of {' x '.join(map(str, self.input_shape))} ({one_line(error)}). "
                "If it takes another size, set model.size; if it takes further inputs, export it (model.export), write "
                "savedmodel:DIR, and give them in model.inputs."
            ) from None
        self._operations = [operation.type for operation in graph.get_operations()]


def described_call(
    name: str, call: RecordedCall, graph: tf.Graph, layout: Layout
) -> tuple[LayerInfo | UnreadableLayer, str | None]:
    """A recorded call as a layer, in the graph of `RECORDED_BATCH` images, and why it cannot be looked at, or not yet."""
    kind, problem, tensor = type(call.operation).__name__, call.problem(graph), call.output
    known = isinstance(tensor, tf.Tensor) and tensor.graph is graph and tensor.shape.rank is not None
    if problem is None and tensor.shape[0] != RECORDED_BATCH:
        problem = f"gives {tensor.shape[0]} rows for {RECORDED_BATCH} images"
    if name == LOGITS:
        known, problem = False, "its name is taken by the logits, which are not always this layer"
    if problem is not None:
        shape, dtype = (tuple(tensor.shape), tensor.dtype.name) if known else ((), "")
        return unreadable(name, kind, problem, shape, dtype), problem
    sizes: tuple[Any, ...] = layout.sizes(tensor.shape[1:]) if tensor.shape.rank == 4 else (1, 1, tensor.shape[1])
    return LayerInfo(name, kind, sizes), None


def record_calls(model: keras.Model, images: Any) -> tuple[dict[str, RecordedCall], Any]:
    """Call a model in inference mode. Returns: what its layers gave, by name, in the order in which they ended; its output.

    A layer is called as the attributes that hold it, `stem`, `blocks/0/conv`; inside a functional part, as it is
    named there. Its second call is `stem:1`.
    """
    calls: dict[str, RecordedCall] = {}
    counts: Counter[str] = Counter()
    path: list[tuple[keras.Operation, str]] = []
    thread = threading.get_ident()

    def call(operation: keras.Operation, *arguments: Any, **options: Any) -> Any:
        made_on_the_way = path and not isinstance(operation, keras.Layer) and not has_graph(path[-1][0])
        if threading.get_ident() != thread or made_on_the_way:  # each trace makes such an operation anew, with another name
            return plain(operation, *arguments, **options)
        inner_name = _name_within(path[-1][0], operation) if path else ""
        name = f"{path[-1][1]}/{inner_name}".removeprefix("/") if path else ""
        counts[name] += 1
        path.append((operation, f"{name}:{counts[name] - 1}" if name and counts[name] > 1 else name))
        try:
            output = plain(operation, *arguments, **options)
        finally:
            _, name = path.pop()
        if name:
            calls[name] = RecordedCall(operation, output)
        return output

    with without_compiled_convolutions(), calls_through(call) as plain:
        output = model(images, training=False)
    return calls, output


def _ends_of(output: Any) -> dict[str, tf.Tensor]:
    """What a model's call returned, by name: one tensor, or several by their place, or by their key in a dictionary."""
    if isinstance(output, tf.Tensor):
        return {_OUTPUT: output}
    several = output.items() if isinstance(output, Mapping) else enumerate(keras.tree.flatten(output))
    return {f"{_OUTPUT}: {name}": tensor for name, tensor in several if isinstance(tensor, tf.Tensor)}


def _built_shapes(model: keras.Model, name: str) -> tuple[type, dict[str, tuple[int | None, ...]]]:
    """What a model takes (a tensor, list or dict), and the shapes it was built for, by input. Raises: UnusableModel."""
    structure: type = tf.Tensor
    built = (model.get_build_config() or {}).get("input_shape") if model.built else None
    if isinstance(built, dict):
        shapes, structure = dict(built), dict
    elif isinstance(built, (list, tuple)) and built and all(isinstance(part, (list, tuple)) for part in built):
        shapes, structure = {str(number): part for number, part in enumerate(built)}, list
    else:
        shapes = {_ONLY: built}
    if not all(_is_shape(shape) for shape in shapes.values()):
        reason = "what it takes is not saved with it" if model.built else "the subclassed model is not built"
        raise UnusableModel(
            f"{name} cannot be read: {reason}. Call the model on one batch of images and save it again, "
            "or export it (model.export) and write savedmodel:DIR."
        )
    return structure, {key: (None, *shape[1:]) for key, shape in shapes.items()}


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, (list, tuple)) and all(size is None or isinstance(size, int) for size in shape)


def _name_within(outer: keras.Operation, inner: keras.Operation) -> str:
    """What a layer is called in the one that calls it: its attribute there, which, unlike its name, is always the same."""
    if not has_graph(outer):
        held = [(attribute, value) for attribute, value in vars(outer).items() if attribute not in own_attributes()]
        for attribute, value in sorted(held, key=lambda item: item[0].startswith("_")):
            path = _path_to(inner, value, attribute)
            if path:
                return path
    return str(inner.name)


def sources_of(outputs: Mapping[str, tf.Tensor], name: str, tensor: tf.Tensor) -> tuple[str, ...]:
    """The layers, of those whose outputs are given, from which a layer's tensor, or the model's output, is made."""
    order = list(outputs)
    before = order[: order.index(name)] if name in outputs else order
    same = [other for other in before if outputs[other] is tensor]
    if same:  # a part gives what its last layer gives
        return (same[-1],)
    names = {outputs[other].ref(): other for other in before}  # of several that give it, the outermost

    def inputs_of(reference: Any) -> list[Any]:
        operation = reference.deref().op
        return [] if operation.type in SHAPES_ALONE else [source.ref() for source in operation.inputs]

    return nearest_layers([source.ref() for source in tensor.op.inputs], inputs_of, names.get)


def _path_to(operation: keras.Operation, value: Any, path: str) -> str | None:
    """Where in an attribute an operation is: `path` itself, or `path/0` and `path/key` in lists and dictionaries."""
    if value is operation:
        return path
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    paths = (_path_to(operation, inside, f"{path}/{key}") for key, inside in items)
    return next((deeper for deeper in paths if deeper), None)
