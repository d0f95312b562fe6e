"""Walks over the graph that `Network.trace` builds: what the logits are computed from, and where in it a layer lies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import tensorflow as tf

from pipeline.errors import UnusableModel
from pipeline.models.network import LOGITS, LayerInfo, Network, own_layers

_CONVOLUTIONS = {"Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv"}
CALLS = ("PartitionedCall", "StatefulPartitionedCall")

# How a layer may be read without changing its numbers: types, checks, the order of axes.
_VIEWS: dict[str, Callable[[tf.Operation, tf.Tensor], tf.Tensor]] = {
    "Identity": lambda operation, value: value,
    "EnsureShape": lambda operation, value: value,
    "Cast": lambda operation, value: tf.cast(value, operation.outputs[0].dtype),
    "Transpose": lambda operation, value: tf.transpose(value, operation.inputs[1]),
    "StridedSlice": lambda operation, value: value[:, tf.newaxis, tf.newaxis, :],  # a vector is read as a map of 1 x 1
    # tokens are put where they lie: their axes moved, and some of them taken
    "Reshape": lambda operation, value: tf.reshape(value, operation.inputs[1]),
    "Slice": lambda operation, value: tf.slice(value, operation.inputs[1], operation.inputs[2]),
    "GatherV2": lambda operation, value: tf.gather(value, operation.inputs[1], axis=1),
}


@dataclass(frozen=True)
class LayerTensor:
    """The tensor of a layer that the logits are computed from.

    tensor: in the network's own type and order of axes.
    views: the operations by which `Network.trace` makes a map of it, first to last.
    """

    tensor: tf.Tensor
    views: tuple[tf.Operation, ...]

    @property
    def channel_axis(self) -> int:
        """Where the channels lie in the tensor."""
        axis = -1
        for view in reversed(self.views):
            if view.type == "Transpose":
                axis = int(tf.get_static_value(view.inputs[1])[axis])
            elif view.inputs[0].shape.rank != view.outputs[0].shape.rank:
                axis = -1  # what changes the number of axes leaves the channels last
        return axis

    def as_map(self, value: tf.Tensor) -> tf.Tensor:
        """The tensor, or its gradient, as `Network.trace` returns maps: float32 (batch, h, w, c)."""
        for operation in self.views:
            value = _VIEWS[operation.type](operation, value)
        return value


class LogitsGraph:
    """The part of a graph that some logits are computed by: `operations`, in forward order."""

    def __init__(self, logits: tf.Tensor) -> None:
        self.operations = upstream(logits)
        self._known = set(self.operations)
        self._fingerprints: dict[tf.Operation, bytes] = {}

    def locate(self, layer: tf.Tensor) -> LayerTensor | None:
        """The tensor behind a layer's map that `Network.trace` returned; None where the logits do not depend on the layer.

        The map itself is often outside this part of the graph: in another order of axes or, in nested models, computed
        a second time.
        """
        views: list[tf.Operation] = []
        while layer.op not in self._known:
            twin = self._twin(layer)
            if twin is not None:
                return LayerTensor(twin, tuple(reversed(views)))
            if layer.op.type not in _VIEWS:
                return None
            views.append(layer.op)
            layer = layer.op.inputs[0]
        return LayerTensor(layer, tuple(reversed(views)))

    def downstream(self, operation: tf.Operation) -> list[tf.Operation]:
        """The operation and those that depend on it, in forward order."""
        reached = {operation}
        for later in self.operations:
            if any(source.op in reached for source in later.inputs):
                reached.add(later)
        return [later for later in self.operations if later in reached]

    def _twin(self, tensor: tf.Tensor) -> tf.Tensor | None:
        """The tensor in this part of the graph that the same operations compute from the same inputs."""
        if tensor.op.type in ("Identity", "EnsureShape"):  # these pass their input on, which may be inside
            return None
        if not self._fingerprints:
            for operation in tensor.graph.get_operations():  # each comes after those it takes inputs from
                self._fingerprints[operation] = _fingerprint(operation, self._fingerprints)
        fingerprint = self._fingerprints[tensor.op]
        twin = next((operation for operation in self.operations if self._fingerprints[operation] == fingerprint), None)
        return None if twin is None else twin.outputs[tensor.value_index]


def last_convolution(network: Network) -> LayerInfo:
    """The last convolutional layer, found by walking back from the logits, including what follows it at the same size.

    The last convolution with a map larger than 1 x 1 (which excludes those of gates and classifiers) decides the size. Its
    normalisation, its activation, and the sum or concatenation after them are part of the layer, which is the network's
    last map before pooling or flattening.

    Raises: UnusableModel, for a network without logits, or in which no convolution with a map leads to them.
    """
    spatial = {
        layer.name: layer
        for layer in own_layers(network)
        # Tokens have the size of the convolution that cut the patches, but do not belong to it.
        if layer.shape[0] * layer.shape[1] > 1 and not layer.of_tokens and "#" not in layer.name
    }
    last: LayerInfo | None = None

    def search(images: tf.Tensor) -> tf.Tensor:
        nonlocal last
        traced = network.trace(images, [*spatial, LOGITS])
        logits_graph = LogitsGraph(traced[LOGITS])
        tensors = {name: logits_graph.locate(traced[name]) for name in spatial}
        for operation in reversed(logits_graph.operations):
            size = map_size(operation) if types_inside(operation) & _CONVOLUTIONS else (1, 1)
            if size == (1, 1):
                continue
            order = {later: number for number, later in enumerate(logits_graph.downstream(operation))}
            ends = {
                name: order[layer.tensor.op]
                for name, layer in tensors.items()
                if layer and layer.tensor.op in order and spatial[name].shape[:2] == size
            }
            if ends:
                last = spatial[max(ends, key=lambda name: ends[name])]  # the first of several names for one tensor
                break
        return traced[LOGITS]

    trace_once(network, search)
    if last is None:
        raise UnusableModel(
            f"{network.name} has no convolution with a map that leads to its logits. Name a layer that has one: gradcam.layers."
        )
    return last


def layers_of(logits_graph: LogitsGraph, traced: Mapping[str, tf.Tensor]) -> dict[tf.Operation, str]:
    """The layer that each operation belongs to: the nearest one that its output is, or is used for.

    Args:
        traced: the map of every layer, as `Network.trace` returned it in the same graph.
    """
    owners: dict[tf.Operation, str] = {}
    for name, value in traced.items():
        layer = logits_graph.locate(value)
        if layer:
            owners.setdefault(layer.tensor.op, name)
    for operation in reversed(logits_graph.operations):
        for source in operation.inputs:
            if operation in owners:
                owners.setdefault(source.op, owners[operation])
    return owners


def trace_once(network: Network, function: Callable[[tf.Tensor], tf.Tensor]) -> None:
    """Trace a function of preprocessed images in a graph of its own, which is then discarded; nothing runs."""
    images = tf.TensorSpec((2, *network.input_shape), tf.float32)
    tf.function(function, autograph=False).get_concrete_function(images)


def types_inside(operation: tf.Operation) -> set[str]:
    """The type of an operation; for a call (of a function that XLA compiles, say), the types of all that it runs."""
    if operation.type not in CALLS:
        return {operation.type}
    library = {function.signature.name: function for function in operation.graph.as_graph_def().library.function}
    waiting, seen, types = [operation.get_attr("f").name], set(), set()
    while waiting:
        name = waiting.pop()
        if name not in seen and name in library:
            seen.add(name)
            for node in library[name].node_def:
                types.add(node.op)
                waiting += [value.func.name for value in node.attr.values() if value.HasField("func")]
    return types


def upstream(tensor: tf.Tensor) -> list[tf.Operation]:
    """The operations that a tensor is computed by, in forward order."""
    reached: set[tf.Operation] = set()
    waiting = [tensor.op]
    while waiting:
        operation = waiting.pop()
        if operation not in reached:
            reached.add(operation)
            waiting += [source.op for source in operation.inputs]
    return [operation for operation in tensor.graph.get_operations() if operation in reached]


def map_size(operation: tf.Operation) -> tuple[int, int]:
    """Height and width of the map that an operation gives; (1, 1) where it gives no map."""
    shape = operation.outputs[0].shape
    if shape.rank != 4:
        return 1, 1
    attributes = operation.node_def.attr
    first = "data_format" in attributes and attributes["data_format"].s.startswith(b"NC")
    height, width = (shape[2], shape[3]) if first else (shape[1], shape[2])
    return height or 1, width or 1


def _fingerprint(operation: tf.Operation, known: Mapping[tf.Operation, bytes]) -> bytes:
    """Equal for operations of the same type and attributes on equal inputs."""
    digest = hashlib.sha256(operation.type.encode())
    if operation.type in ("Placeholder", "PlaceholderWithDefault") or operation.type.startswith("Random"):
        digest.update(operation.name.encode())
    attributes = operation.node_def.attr
    for name in sorted(attributes):
        if not name.startswith("_"):  # an underscore marks devices and gradients, which change no number
            digest.update(name.encode() + attributes[name].SerializeToString(deterministic=True))
    for source in operation.inputs:
        # The backward edge of a loop comes from an operation further on.
        digest.update(known.get(source.op, source.op.name.encode()) + bytes([source.value_index % 256]))
    return digest.digest()
