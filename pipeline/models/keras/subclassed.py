"""A subclassed Keras model read as a Network: its graph is known to its own code alone, so its calls are noted."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from pipeline.compiled.keras_private import calls_through, has_graph, own_attributes
from pipeline.errors import UnknownLayer, UnknownName, UnusableModel, one_line
from pipeline.models.keras.functional import add_weights, before_softmax
from pipeline.models.keras.keras_graph import Step, is_readable
from pipeline.models.kernels import SHAPES_ALONE, has_kernel, of_step
from pipeline.models.layout import CHANNELS, check_device, image_layout
from pipeline.models.network import LOGITS, Kernel, LayerInfo
from pipeline.models.preprocessing import check_mode, prepare

_BATCH = 5  # images for which shapes are worked out: a length that hardly any other axis has


@dataclass(frozen=True)
class Call:
    """The first call of a layer inside a model: who was called, and the tensor it gave."""

    operation: keras.Operation
    output: tf.Tensor


@dataclass(frozen=True)
class _Survey:
    """What one trace of a model tells.

    steps: the layers, as Keras's graphs have them, by name; feeds: what each, and the logits, is made from.
    """

    layers: list[LayerInfo]
    steps: dict[str, Step]
    feeds: dict[str, tuple[str, ...]]
    operations: list[str]


class SubclassedNetwork:
    """A subclassed, built Keras model of one image input. Its layers are what its code calls, by their attributes."""

    def __init__(
        self, model: keras.Model, name: str, size: tuple[int, int] | None, preprocessing: str, logits: str | None = None
    ) -> None:
        """Trace a model once to learn what it calls; the model is shared, never changed.

        Args:
            size: (height, width); None for those that the model was built for.
            preprocessing: a key of `MODES`.
            logits: the layer that gives the logits, where they are not what the model returns.

        Raises: UnusableModel, WrongSpec, UnknownName.
        """
        self.name, self.model, self._preprocessing = name, model, preprocessing
        batch, *own = built_shape(model, name)
        is_first = own[2] not in CHANNELS and own[0] in CHANNELS
        # What the first call happened to bring need not be all that the model takes.
        if size is not None:
            own = [own[0], None, None] if is_first else [None, None, own[2]]
        self._layout, self.input_shape = image_layout((batch, *own), name, size)
        check_mode(preprocessing, self.input_shape[2], name)
        survey = self._survey()
        self._layers, self._steps, self._feeds = survey.layers, survey.steps, survey.feeds
        first = [name for name, step in self._steps.items() if getattr(step.operation, "data_format", "") == "channels_first"]
        check_device(self, first, name)
        self._named_logits = self._check_named(logits)
        told = [
            self.input_shape,
            preprocessing,
            [(one.name, one.kind, one.shape) for one in self._layers],
            logits,
            survey.operations,
        ]
        self._told = json.dumps(told)

    def layers(self) -> list[LayerInfo]:
        """The layers that give one map or one vector, in the order in which they end; inner ones as `outer/inner`."""
        return list(self._layers)

    def digest(self) -> str:
        """16 hexadecimal digits of the input, the layers, the operations, the weights and the preprocessing."""
        digest = hashlib.sha256(self._told.encode())
        add_weights(digest, self.model.weights)
        return digest.hexdigest()[:16]

    def preprocess(self, images: tf.Tensor) -> tf.Tensor:
        """RGB pixels, uint8 or float in 0..255, (batch, h, w, 3) -> float32 (batch, h, w, 3, or 1 for a grey network)."""
        return prepare(images, self._preprocessing, self.input_shape[2])

    @tf.autograph.experimental.do_not_convert  # what calls it may be converted, and Python alone is at work here
    def trace(self, images: tf.Tensor, layers: Sequence[str]) -> dict[str, tf.Tensor]:
        """The layers' outputs for preprocessed images, in inference mode; what none of them needs TensorFlow leaves out.

        Returns: {layer: float32 (batch, h, w, c)}; a layer without a map as (batch, 1, 1, units); "logits" as
        (batch, classes), before any softmax.

        Raises: UnknownLayer; UnusableModel, for a network that does not end in one number a class.
        """
        if tf.executing_eagerly():  # the softmax is found in a graph alone
            return dict(tf.function(lambda images: self.trace(images, layers), autograph=False)(images))
        self._check_known(layers)
        known = {layer.name: layer for layer in self._layers}
        calls, output = noted(self.model, tf.identity(self._layout.feed(images)))
        maps = {}
        for name in layers:
            if name == LOGITS:
                maps[name] = tf.cast(self._logits(calls, output), tf.float32)
                continue
            value = tf.cast(calls[name].output, tf.float32)
            value = self._layout.maps(value) if value.shape.rank == 4 else value[:, tf.newaxis, tf.newaxis, :]
            maps[name] = tf.ensure_shape(value, (None, *known[name].shape))
        return maps

    def feeds(self, layer: str) -> tuple[str, ...]:
        """The layers that a layer is made from, the nearest on each way back; none where only the image is on the way.

        Raises: UnknownLayer.
        """
        self._check_known([layer])
        return (self._named_logits,) if layer == LOGITS and self._named_logits else self._feeds[layer]

    def convolutions(self) -> list[str]:
        """The layers that have a learned kernel, Dense layers over maps among them, in forward order."""
        return [name for name, step in self._steps.items() if has_kernel(step)]

    def kernels(self, layers: Sequence[str]) -> dict[str, tuple[Kernel, ...]]:
        """The learned kernels of those of the layers that are convolutions. Raises: UnknownLayer."""
        self._check_known(layers)
        return {name: of_step(self._steps[name]) for name in self.convolutions() if name in layers}

    def _check_known(self, layers: Sequence[str]) -> None:
        known = {layer.name for layer in self._layers}
        for name in layers:
            if name not in known and name != LOGITS:
                raise UnknownLayer.among(name, known, where=f"in {self.name}", hint="List them: convscope layers SPEC")

    def _logits(self, calls: Mapping[str, Call], output: Any) -> tf.Tensor:
        if self._named_logits:
            return before_softmax(calls[self._named_logits].output)
        if not isinstance(output, tf.Tensor) or output.shape.rank != 2:
            vectors = [layer.name for layer in self._layers if layer.shape[:2] == (1, 1)]
            raise UnusableModel(
                f"{self.name} does not end in one number a class. "
                f"Name the layer of the logits in model.logits: {', '.join(vectors) or 'but no layer gives a vector'}."
            )
        return before_softmax(output)

    def _check_named(self, named: str | None) -> str | None:
        vectors = [layer.name for layer in self._layers if layer.shape[:2] == (1, 1)]
        if named is not None and named not in vectors:
            raise UnknownName.among(named, vectors, where=f"a layer of {self.name} with one number a class (model.logits)")
        return named

    def _survey(self) -> _Survey:
        layers: list[LayerInfo] = []
        steps: dict[str, Step] = {}
        feeds: dict[str, tuple[str, ...]] = {}

        def look(images: tf.Tensor) -> None:
            calls, output = noted(self.model, images)
            for name, call in calls.items():
                shape: tuple[Any, ...] = tuple(call.output.shape)
                # The name "logits" is taken, by what is not always this layer.
                if name != LOGITS and len(shape) in (2, 4) and shape[0] == _BATCH and None not in shape:
                    sizes: tuple[Any, ...] = self._layout.sizes(shape[1:]) if len(shape) == 4 else (1, 1, shape[1])
                    layers.append(LayerInfo(name, type(call.operation).__name__, sizes))
                    steps[name] = Step(call.operation, keras.KerasTensor(shape))
            known = {name: call.output for name, call in calls.items() if name in steps}
            feeds.update({name: _makers(known, name, tensor) for name, tensor in known.items()})
            if isinstance(output, tf.Tensor):
                feeds[LOGITS] = _makers(known, LOGITS, output)

        fed = (_BATCH, *self._layout.shape(*self.input_shape))
        try:
            graph = tf.function(look, autograph=False).get_concrete_function(tf.TensorSpec(fed, tf.float32)).graph
        except Exception as error:  # whatever the model's own code raises
            raise UnusableModel(
                f"{self.name} cannot be run on images of {' x '.join(map(str, self.input_shape))} ({one_line(error)}). "
                "Set another model.size."
            ) from None
        return _Survey(layers, steps, feeds, [operation.type for operation in graph.get_operations()])


def noted(model: keras.Model, images: tf.Tensor) -> tuple[dict[str, Call], Any]:
    """Call a model in inference mode. Returns: what its layers gave, by name, in the order in which they ended; its output.

    A layer is called as the attributes that hold it, `stem`, `blocks/0/conv`; inside a functional part, as it is
    named there. Calls after a layer's first, layers of several outputs, and what runs in functions or loops of its own,
    out of the caller's graph, are left out.
    """
    calls: dict[str, Call] = {}
    path: list[tuple[keras.Operation, str]] = []
    thread = threading.get_ident()

    def call(operation: keras.Operation, *arguments: Any, **options: Any) -> Any:
        if threading.get_ident() != thread:
            return plain(operation, *arguments, **options)
        own = _name_within(path[-1][0], operation) if path else ""
        path.append((operation, f"{path[-1][1]}/{own}".removeprefix("/") if path else ""))
        try:
            output = plain(operation, *arguments, **options)
        finally:
            _, name = path.pop()
        if name and isinstance(output, tf.Tensor) and output.dtype.is_floating and output.graph is images.graph:
            calls.setdefault(name, Call(operation, output))
        return output

    with calls_through(call) as plain:
        output = model(images, training=False)
    return calls, output


def built_shape(model: keras.Model, name: str) -> tuple[int | None, ...]:
    """The shape that a subclassed model was built for, the batch first. Raises: UnusableModel."""
    shape = (model.get_build_config() or {}).get("input_shape") if model.built else None
    if shape is None or not all(size is None or isinstance(size, int) for size in shape):
        reason = "it takes several inputs, or none that it was saved with" if model.built else "it was saved before it was built"
        raise UnusableModel(
            f"{name} cannot be read: {reason}. Call the model on one batch of images and save it again, "
            "or export it (model.export) and write savedmodel:DIR."
        )
    if len(shape) != 4:
        raise UnusableModel(f"{name} takes inputs of shape {(None, *shape[1:])}, not images: (batch, height, width, 3 or 1).")
    return None, *shape[1:]


def is_subclassed(model: Any) -> bool:
    """Whether a model's graph stands in its own code alone."""
    return isinstance(model, keras.Model) and not isinstance(model, keras.Sequential) and not has_graph(model)


def _name_within(outer: keras.Operation, inner: keras.Operation) -> str:
    """What a layer is called in the one that calls it: its attribute there, which, unlike its name, is always the same."""
    if not is_readable(outer):
        held = [(attribute, value) for attribute, value in vars(outer).items() if attribute not in own_attributes()]
        for attribute, value in sorted(held, key=lambda item: item[0].startswith("_")):
            found = _place(value, inner, attribute)
            if found:
                return found
    return str(inner.name)


def _makers(known: Mapping[str, tf.Tensor], name: str, tensor: tf.Tensor) -> tuple[str, ...]:
    """The layers, of those that are known, from which a layer's tensor, or the logits, is made."""
    order = list(known)
    before = order[: order.index(name)] if name in known else order
    same = [other for other in before if known[other] is tensor]
    if same:  # a part gives what its last layer gives
        return (same[-1],)
    names = {known[other].ref(): other for other in before}  # of several that give it, the outermost
    found: dict[str, None] = {}
    queue = list(tensor.op.inputs)
    seen = {taken.ref() for taken in queue}
    for taken in queue:
        if taken.ref() in names:
            found[names[taken.ref()]] = None
            continue
        further = [] if taken.op.type in SHAPES_ALONE else [one for one in taken.op.inputs if one.ref() not in seen]
        seen.update(one.ref() for one in further)
        queue += further
    return tuple(found)


def _place(value: Any, wanted: keras.Operation, path: str) -> str | None:
    """Where in an attribute an operation is: `path` itself, or `path/0` and `path/key` in lists and dictionaries."""
    if value is wanted:
        return path
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    return next((found for key, inside in items if (found := _place(inside, wanted, f"{path}/{key}"))), None)
