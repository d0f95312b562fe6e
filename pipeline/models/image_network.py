"""The shell around every family of networks: layout, preprocessing, logits, unknown layers and the digest, once for all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, TypeVar

import tensorflow as tf

from pipeline.errors import UnknownName, UnusableModel, WrongSpec
from pipeline.models.head import Head, Step, head_of
from pipeline.models.layout import Layout, check_device
from pipeline.models.network import LOGITS, Kernel, LayerInfo, Setting, UnreadableLayer, unknown_layer
from pipeline.models.preprocessing import check_mode, prepare

Value = TypeVar("Value", bound=Hashable)


@dataclass(frozen=True)
class End:
    """A tensor that a network ends in.

    name: as `Reader.read` takes it.
    classes: how many numbers an image has there, before any softmax; None where it is not one vector an image.
    """

    name: str
    classes: int | None

    @classmethod
    def of(cls, name: str, shape: Sequence[int | None], layout: Layout) -> End:
        """An end by its shape, the batch first, in the network's own order of axes: (batch, classes), or a map of one place."""
        height, width, channels = layout.sizes(shape[1:]) if len(shape) == 4 else (1, 1, shape[1] if len(shape) == 2 else None)
        return cls(name, channels if (height, width) == (1, 1) else None)


class Reader(Protocol):
    """How one family of networks is read.

    layout, input_shape: how the network takes images; height, width and channels.
    hint: a few words for the error that asks for the preprocessing, where the network shows what it may need, else "".
    """

    layout: Layout
    input_shape: tuple[int, int, int]
    hint: str

    def survey(self) -> Sequence[LayerInfo | UnreadableLayer]:
        """All layers in the order of the forward pass. None that can be looked at is called "logits"."""

    def channels_first(self) -> Sequence[str]:
        """The layers that compute with channels before height and width, which not every device can."""

    def read(self, images: tf.Tensor, names: Sequence[str]) -> Mapping[str, tf.Tensor]:
        """The outputs of layers and ends, in inference mode, inside a graph.

        Args:
            images: float32, preprocessed, in the network's own order of axes.

        Returns: tensors in the network's own type and order of axes, of known rank.
        """

    def ends(self) -> Sequence[End]:
        """The tensors that the network ends in."""

    def logits_before(self, layer: str) -> str:
        """The layer that holds the logits of a layer that may be a softmax; the layer itself where that shows only in `read`."""

    def sources(self, name: str) -> tuple[str, ...]:
        """The layers that a layer is made from, or an end is, the nearest on each way back to the image."""

    def convolutions(self) -> list[str]:
        """The layers that have a learned kernel, in the order of `layers`."""

    def kernels(self, layers: Sequence[str]) -> dict[str, tuple[Kernel, ...]]:
        """The learned kernels of those of the layers that have any."""

    def identity(self, logits: str | None) -> list[Any]:
        """What tells this network from others, but for its weights: values that JSON can hold.

        Args:
            logits: the layer of the logits, where the job names one.
        """

    def contents(self) -> Iterable[bytes | memoryview]:
        """The bytes of the weights, and of whatever else `identity` leaves out."""


class ImageNetwork:
    """A `Network` of any family: the reader knows the family, this class what all networks have in common."""

    def __init__(
        self, reader: Reader, name: str, preprocessing: str | Setting, logits: str | None = None, where: str = ""
    ) -> None:
        """Check what the job says about the network.

        Args:
            preprocessing: a key of `MODES`, and where convscope chose it, why.
            logits: the layer that gives the logits, needed where the network has several ends.
            where: what errors call the network; its name where that is enough.

        Raises: WrongSpec, UnknownName; UnusableModel, for channels first on a device that cannot run it.
        """
        self.reader = reader
        self.name, self._where = name, where or name
        self.input_shape = reader.input_shape
        preprocessing = Setting(preprocessing, "as asked") if isinstance(preprocessing, str) else preprocessing
        check_mode(preprocessing.value, self.input_shape[2], self._where + reader.hint)
        self.settings: Mapping[str, Setting] = {"preprocess": preprocessing}
        self._preprocessing = preprocessing.value
        self._survey = list(reader.survey())
        self._layers = {layer.name: layer for layer in self._survey if isinstance(layer, LayerInfo)}
        self._named_logits = None if logits is None else self._named(logits)
        check_device(self, reader.channels_first(), self._where)

    def layers(self) -> list[LayerInfo]:
        """The layers that give one map or one vector an image, in forward order; nested ones as `outer/inner`."""
        return list(self._layers.values())

    def every_layer(self) -> list[LayerInfo | UnreadableLayer]:
        """All layers in forward order; those that cannot be looked at say why."""
        return list(self._survey)

    def digest(self) -> str:
        """16 hexadecimal digits of the input, the preprocessing, the layers or operations, and the weights."""
        identity = [self.input_shape, self._preprocessing, *self.reader.identity(self._named_logits)]
        digest = hashlib.sha256(json.dumps(identity).encode())
        for part in self.reader.contents():
            digest.update(part)
        return digest.hexdigest()[:16]

    def preprocess(self, images: tf.Tensor) -> tf.Tensor:
        """RGB pixels, uint8 or float in 0..255, (batch, h, w, 3) -> float32 (batch, h, w, 3, or 1 for a grey network)."""
        return prepare(images, self._preprocessing, self.input_shape[2])

    @tf.autograph.experimental.do_not_convert  # a caller's function may be converted, and this is Python throughout
    def trace(self, images: tf.Tensor, layers: Sequence[str]) -> dict[str, tf.Tensor]:
        """The layers' outputs for preprocessed images, in inference mode; only what they need is run.

        Gradients flow, and follow the overrides of the caller's graph (`gradient_override_map`).

        Returns: {layer: float32 (batch, h, w, c)}; a layer without a map as (batch, 1, 1, units); "logits" as
        (batch, classes), before any softmax.

        Raises: UnknownLayer; WrongSpec or UnusableModel, for logits that are not one tensor.
        """
        if tf.executing_eagerly():  # the softmax is found in a graph alone
            return dict(tf.function(lambda images: self.trace(images, layers), autograph=False)(images))
        names = {layer: self._logits() if layer == LOGITS else self._known(layer) for layer in layers}
        outputs = self.reader.read(self.reader.layout.feed(images), list(dict.fromkeys(names.values())))
        return {
            layer: _flat_logits(outputs[name]) if layer == LOGITS else self._map(outputs[name], self._layers[name])
            for layer, name in names.items()
        }

    def feeds(self, layer: str) -> tuple[str, ...]:
        """The layers that a layer is made from, the nearest on each way back; none where only the image is on the way.

        Raises: UnknownLayer; WrongSpec or UnusableModel, for logits that are not one tensor.
        """
        if layer != LOGITS:
            return self.reader.sources(self._known(layer))
        logits = self._logits()
        return (logits,) if logits in self._layers else self.reader.sources(logits)

    def convolutions(self) -> list[str]:
        """The layers that have a learned kernel, Dense layers over maps among them, in forward order."""
        return self.reader.convolutions()

    def kernels(self, layers: Sequence[str]) -> dict[str, tuple[Kernel, ...]]:
        """The learned kernels of those of the layers that are convolutions. Raises: UnknownLayer."""
        names = {layer: self._known(layer) for layer in layers if layer != LOGITS}
        kernels = self.reader.kernels(list(dict.fromkeys(names.values())))
        return {layer: kernels[name] for layer, name in names.items() if name in kernels}

    def _known(self, layer: str) -> str:
        """The name of a layer as `layers` has it; the first output of an operation may be asked for as `op:0`."""
        for name in (layer, layer.removesuffix(":0")):
            if name in self._layers:
                return name
        raise unknown_layer(self, layer)

    def _map(self, output: tf.Tensor, layer: LayerInfo) -> tf.Tensor:
        output = tf.cast(output, tf.float32)
        output = self.reader.layout.maps(output) if output.shape.rank == 4 else output[:, tf.newaxis, tf.newaxis, :]
        return output if output.shape[1:].is_fully_defined() else tf.ensure_shape(output, (None, *layer.shape))

    # ---- logits

    def _logits(self) -> str:
        """The layer or the end that the logits are read from: the one that was named, or the only one that can be."""
        if self._named_logits:
            return self._named_logits
        ends = self.reader.ends()
        vectors = {self.reader.logits_before(end.name): end.name for end in ends if end.classes is not None}
        if len(vectors) == 1:
            return next(iter(vectors))
        if vectors:
            names = list(vectors.values())
            raise WrongSpec(
                f"{self._where} has several outputs that may be the logits: {', '.join(names)}. "
                f"Name one: model.logits = {names[0]!r}."
            )
        others = self._vectors()[-3:]
        raise UnusableModel(
            f"{self._where} has no logits: it ends in {', '.join(end.name for end in ends) or 'nothing'}, not in one number a "
            "class. Name a network with its classifier (model.top = true)"
            + (f", or the layer that gives the logits: model.logits, such as {', '.join(others)}." if others else ".")
        )

    def _named(self, logits: str) -> str:
        vectors = self._vectors()
        for name in (logits, logits.removesuffix(":0"), f"{logits}:0"):
            if name in vectors:
                return self.reader.logits_before(name)
        raise UnknownName.among(logits, vectors, where=f"a layer of {self._where} with one number a class (model.logits)")

    def _vectors(self) -> list[str]:
        return [layer.name for layer in self._layers.values() if layer.shape[:2] == (1, 1)]


def nearest_layers(
    starts: Iterable[Value], inputs_of: Callable[[Value], Iterable[Value]], name_of: Callable[[Value], str | None]
) -> tuple[str, ...]:
    """The layers met first on every way back from some values of a graph, breadth first.

    Args:
        inputs_of: the values that a value is made from.
        name_of: the layer that a value is the output of; None for a value between layers.
    """
    names: dict[str, None] = {}
    queue = list(dict.fromkeys(starts))
    seen = set(queue)
    for value in queue:
        name = name_of(value)
        if name is not None:
            names[name] = None
            continue
        further = [source for source in dict.fromkeys(inputs_of(value)) if source not in seen]
        seen.update(further)
        queue += further
    return tuple(names)


def head_of_tensor(output: tf.Tensor) -> Head[tf.Tensor]:
    """The head of a network that was traced into a graph."""
    return head_of(output, lambda tensor: Step(tensor.op.type, list(tensor.op.inputs)))


def _flat_logits(output: tf.Tensor) -> tf.Tensor:
    """(batch, classes), or a map of one place, after any softmax to float32 (batch, classes) before it."""
    return tf.cast(tf.reshape(head_of_tensor(output).logits, (-1, prod(output.shape[1:]))), tf.float32)
