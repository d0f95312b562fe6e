"""Where layers lie on the way from the images to the logits, in the graph that `Network.trace` draws."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import tensorflow as tf

from pipeline.errors import UnusableModel
from pipeline.models.network import LOGITS, LayerInfo, Network

_CONVOLUTIONS = {"Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv"}
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")

# How a layer may be read without changing its numbers: types, checks, the order of axes.
_VIEWS: dict[str, Callable[[tf.Operation, tf.Tensor], tf.Tensor]] = {
    "Identity": lambda operation, value: value,
    "EnsureShape": lambda operation, value: value,
    "Cast": lambda operation, value: tf.cast(value, operation.outputs[0].dtype),
    "Transpose": lambda operation, value: tf.transpose(value, operation.inputs[1]),
    "StridedSlice": lambda operation, value: value[:, tf.newaxis, tf.newaxis, :],  # vectors are read as maps of one place
}


@dataclass(frozen=True)
class Tapped:
    """A layer's map as the logits are made from it.

    tensor: in the network's own type and order of axes.
    views: the operations by which `Network.trace` reads it, first to last.
    """

    tensor: tf.Tensor
    views: tuple[tf.Operation, ...]

    def show(self, value: tf.Tensor) -> tf.Tensor:
        """The tensor, or its gradient, as `Network.trace` would give it: float32 (batch, h, w, c)."""
        for operation in self.views:
            value = _VIEWS[operation.type](operation, value)
        return value


class Way:
    """The operations of a graph that some logits are made by, in forward order."""

    def __init__(self, logits: tf.Tensor) -> None:
        self.operations = upstream(logits)
        self._known = set(self.operations)
        self._prints: dict[tf.Operation, bytes] = {}

    def tap(self, layer: tf.Tensor) -> Tapped | None:
        """Where on the way a layer lies that `Network.trace` gave; None where the logits do not depend on it.

        A network may give a layer beside the way: seen through other axes or, in nested models, computed once more.
        """
        views: list[tf.Operation] = []
        while layer.op not in self._known:
            twin = self._twin(layer)
            if twin is not None:
                return Tapped(twin, tuple(reversed(views)))
            if layer.op.type not in _VIEWS:
                return None
            views.append(layer.op)
            layer = layer.op.inputs[0]
        return Tapped(layer, tuple(reversed(views)))

    def after(self, operation: tf.Operation) -> list[tf.Operation]:
        """The operation and those on the way that depend on it, in forward order."""
        found = {operation}
        for later in self.operations:
            if any(source.op in found for source in later.inputs):
                found.add(later)
        return [one for one in self.operations if one in found]

    def _twin(self, tensor: tf.Tensor) -> tf.Tensor | None:
        """The tensor on the way that the same operations make from the same inputs."""
        if tensor.op.type in ("Identity", "EnsureShape"):  # the same numbers as what they are given: one look less
            return None
        if not self._prints:
            for operation in tensor.graph.get_operations():  # each after those it takes from
                self._prints[operation] = _fingerprint(operation, self._prints)
        wanted = self._prints[tensor.op]
        found = next((operation for operation in self.operations if self._prints[operation] == wanted), None)
        return None if found is None else found.outputs[tensor.value_index]


def last_convolution(network: Network) -> LayerInfo:
    """The last convolutional layer, found by walking back from the logits, with all that follows it at its size.

    The last convolution that has a map (in gates and classifiers it is a single place) says where; its
    normalisation, its activation, and the sum or the concatenation that it ends in belong to it. So it is the last
    map of the network before places are pooled or forgotten.

    Raises: UnusableModel, for a network without logits, or in which no convolution with a map leads to them.
    """
    spatial = {layer.name: layer for layer in network.layers() if layer.shape[0] * layer.shape[1] > 1}
    found: list[LayerInfo] = []

    def look(images: tf.Tensor) -> tf.Tensor:
        traced = network.trace(images, [*spatial, LOGITS])
        way = Way(traced[LOGITS])
        taps = {name: way.tap(traced[name]) for name in spatial}
        for operation in reversed(way.operations):
            size = map_size(operation) if kinds_inside(operation) & _CONVOLUTIONS else (1, 1)
            if size == (1, 1):
                continue
            after = {one: place for place, one in enumerate(way.after(operation))}
            ends = {
                name: after[tap.tensor.op]
                for name, tap in taps.items()
                if tap and tap.tensor.op in after and spatial[name].shape[:2] == size
            }
            if ends:
                found.append(spatial[max(ends, key=lambda name: ends[name])])  # the first of several names for one tensor
                break
        return traced[LOGITS]

    draw(network, look)
    if not found:
        raise UnusableModel(
            f"{network.name} has no convolution with a map that leads to its logits. Name a layer that has one: gradcam.layers."
        )
    return found[0]


def layers_of(way: Way, traced: Mapping[str, tf.Tensor]) -> dict[tf.Operation, str]:
    """The layer that each operation on the way belongs to: the nearest that its output is, or becomes.

    Args:
        traced: every layer, as `Network.trace` gave it in the graph of the way.
    """
    owners: dict[tf.Operation, str] = {}
    for name in traced:
        tap = way.tap(traced[name])
        if tap:
            owners.setdefault(tap.tensor.op, name)
    for operation in reversed(way.operations):
        for source in operation.inputs:
            if operation in owners:
                owners.setdefault(source.op, owners[operation])
    return owners


def draw(network: Network, function: Callable[[tf.Tensor], tf.Tensor]) -> None:
    """Run a function of preprocessed images once in a graph of its own, which is then forgotten."""
    images = tf.TensorSpec((2, *network.input_shape), tf.float32)
    tf.function(function, autograph=False).get_concrete_function(images)


def calls_functions(network: Network) -> bool:
    """Whether functions are called on the way to the logits, as Keras does for grouped convolutions."""
    found: list[str] = []

    def look(images: tf.Tensor) -> tf.Tensor:
        logits = network.trace(images, [LOGITS])[LOGITS]
        found.extend(operation.name for operation in upstream(logits) if operation.type in _CALLS)
        return logits

    draw(network, look)
    return bool(found)


def kinds_inside(operation: tf.Operation) -> set[str]:
    """The type of an operation; for a call (Keras makes one of a grouped convolution), those of all that it runs."""
    if operation.type not in _CALLS:
        return {operation.type}
    library = {function.signature.name: function for function in operation.graph.as_graph_def().library.function}
    waiting, seen, kinds = [operation.get_attr("f").name], set(), set()
    while waiting:
        name = waiting.pop()
        if name not in seen and name in library:
            seen.add(name)
            for node in library[name].node_def:
                kinds.add(node.op)
                waiting += [value.func.name for value in node.attr.values() if value.HasField("func")]
    return kinds


def upstream(tensor: tf.Tensor) -> list[tf.Operation]:
    """The operations that make a tensor, in forward order."""
    found: set[tf.Operation] = set()
    waiting = [tensor.op]
    while waiting:
        operation = waiting.pop()
        if operation not in found:
            found.add(operation)
            waiting += [source.op for source in operation.inputs]
    return [operation for operation in tensor.graph.get_operations() if operation in found]


def map_size(operation: tf.Operation) -> tuple[int, int]:
    """Height and width of what a convolution gives; (1, 1) where it gives no map."""
    shape = operation.outputs[0].shape
    if shape.rank != 4:
        return 1, 1
    attributes = operation.node_def.attr
    first = "data_format" in attributes and attributes["data_format"].s.startswith(b"NC")
    height, width = (shape[2], shape[3]) if first else (shape[1], shape[2])
    return height or 1, width or 1


def _fingerprint(operation: tf.Operation, known: Mapping[tf.Operation, bytes]) -> bytes:
    """Equal for operations of one type and one setting on equal inputs."""
    digest = hashlib.sha256(operation.type.encode())
    if operation.type in ("Placeholder", "PlaceholderWithDefault") or operation.type.startswith("Random"):
        digest.update(operation.name.encode())
    attributes = operation.node_def.attr
    for name in sorted(attributes):
        if not name.startswith("_"):  # those tell of devices, and of gradients under names of their own
            digest.update(name.encode() + attributes[name].SerializeToString(deterministic=True))
    for source in operation.inputs:
        # Where a loop goes back, what comes round is not known yet.
        digest.update(known.get(source.op, source.op.name.encode()) + bytes([source.value_index % 256]))
    return digest.digest()
