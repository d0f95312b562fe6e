"""Every private or undocumented part of Keras that convscope uses, one small function for each.

Nothing else in the tree may import `keras.src` or touch an underscored attribute of Keras's. Each function has a contract
test in tests/pipeline/compiled/test_keras_private.py, which names what a new Keras has broken. All of it is as in
Keras 3.15, the newest minor version that setup.cfg allows.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import h5py
import keras
from keras.src.backend.tensorflow import nn as backend_nn
from keras.src.saving.serialization_lib import ObjectSharingScope

_PATCHING = threading.RLock()

_UNKNOWN_CLASS = re.compile(
    r"Could not locate (?:class|function) '([^']+)'|Unknown (?:layer|object|[\w ]*function): '?([\w.>]+)'?"
)


@dataclass(frozen=True)
class Node:
    """One call of an operation in the graph of a functional model.

    number: which call of the operation in this model it is, from 0, in the order in which they were made.
    """

    operation: keras.Operation
    inputs: tuple[keras.KerasTensor, ...]
    outputs: tuple[keras.KerasTensor, ...]
    number: int = 0


def has_graph(operation: Any) -> bool:
    """Whether it is a model that knows its own graph: functional, or sequential and built.

    Relies on `_nodes_by_depth`, which is what makes a model functional however its class is derived, and on
    `Sequential._functional`.
    """
    return isinstance(operation, keras.Model) and hasattr(_functional(operation), "_nodes_by_depth")


def ends_of(model: keras.Model) -> tuple[list[keras.KerasTensor], list[keras.KerasTensor]]:
    """The inputs and the outputs of a model that `has_graph`, flat, as the tensors that its nodes refer to.

    Relies on `Sequential._functional`: a sequential model's own inputs may be others.
    """
    functional = _functional(model)
    return list(functional.inputs), list(functional.outputs)


def nodes_of(model: keras.Model) -> list[Node]:
    """The calls that a model which `has_graph` is made of, in forward order, without those that only give its inputs.

    An operation's own list of calls also holds those in other models, so only the model's list will do.
    Relies on `_nodes_by_depth`, on `Operation._inbound_nodes`, and on a node's `operation`, `is_input`, `input_tensors`
    and `outputs`.
    """
    by_depth = _functional(model)._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]
    node_ids = {id(node) for node in nodes}
    numbers = {
        id(call): number
        for operation in {id(node.operation): node.operation for node in nodes}.values()
        for number, call in enumerate(call for call in operation._inbound_nodes if id(call) in node_ids)
    }
    return [Node(node.operation, tuple(node.input_tensors), tuple(node.outputs), numbers[id(node)]) for node in nodes]


def run_graph(model: keras.Model, values: Sequence[Any]) -> Any:
    """Run a model that `has_graph` in inference on tensors as they are, not cast to the types that its inputs declare.

    Relies on `Function._run_through_graph` and on `operation_fn`, by which a functional model hands on `training`.
    """
    from keras.src.models.functional import operation_fn

    return model._run_through_graph(list(values), operation_fn=lambda operation: operation_fn(operation, training=False))


def maker_of(tensor: keras.KerasTensor) -> keras.Operation:
    """The operation that gave a tensor of a graph, an input layer perhaps. Relies on `KerasTensor._keras_history`."""
    return tensor._keras_history.operation


def layers_inside(operation: keras.Operation) -> list[keras.Layer]:
    """The layers that a layer holds, at any depth. Relies on `Layer._flatten_layers`."""
    return list(operation._flatten_layers(include_self=False)) if isinstance(operation, keras.Layer) else []


@contextmanager
def calls_through(call: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Have every call of a Keras operation, in all threads, go through `call(operation, *arguments, **options)`.

    Keras has hooks for single layers, and none for whatever a model's own code calls.
    Relies on layers and operations being called through `keras.Operation.__call__`.

    Yields: the plain call, which `call` is to pass on to.
    """
    with _PATCHING:
        plain = keras.Operation.__call__
        keras.Operation.__call__ = call
        try:
            yield plain
        finally:
            keras.Operation.__call__ = plain


@contextmanager
def convolutions_by(call: Callable[..., Any]) -> Iterator[None]:
    """Have Keras compute every convolution, in all threads, as `call(plain, inputs, kernel, *arguments, **options)`.

    plain: Keras's own computation. The rest is as `keras.ops.conv` is given it.
    Relies on `keras.src.backend.tensorflow.nn.conv`, which Keras looks up at every call.
    """
    with _PATCHING:
        plain = backend_nn.conv
        backend_nn.conv = partial(call, plain)
        try:
            yield
        finally:
            backend_nn.conv = plain


@cache
def own_attributes() -> frozenset[str]:
    """The attributes in which Keras itself keeps what a model holds, whatever the model's own code does.

    Relies on `vars` of a model listing them.
    """
    model = keras.Model()
    model.layer = keras.layers.Identity()
    return frozenset(vars(model).keys() - {"layer"})


@contextmanager
def shared_objects() -> Iterator[None]:
    """Have a layer that several places of a description name by one id be one layer, as Keras's own loading does.

    Relies on `ObjectSharingScope`.
    """
    with ObjectSharingScope():
        yield


@contextmanager
def weights_limited(numbers: int) -> Iterator[None]:
    """Refuse, in all threads, layers that ask for more numbers as weights than that, before memory is given to them.

    Relies on layers making their weights through `add_weight`.

    Raises, inside: ValueError.
    """
    left = numbers
    plain = keras.layers.Layer.add_weight

    def add_weight(layer: keras.Layer, shape: Any = None, *args: Any, **options: Any) -> Any:
        nonlocal left
        left -= math.prod(size or 0 for size in ((shape,) if isinstance(shape, int) else shape or ()))
        if left < 0:
            raise ValueError(f"the layer {layer.name!r} asks for more weights than the {numbers:,} numbers that are stored")
        return plain(layer, shape, *args, **options)

    with _PATCHING:
        keras.layers.Layer.add_weight = add_weight
        try:
            yield
        finally:
            keras.layers.Layer.add_weight = plain


def is_weights_file(file: h5py.File) -> bool:
    """Whether an HDF5 file without a model's description holds weights that Keras saved.

    Relies on the layout of Keras 2's files (`layer_names`), of Keras 3's (`layers`), and of early 3.x's
    (`_layer_checkpoint_dependencies`).
    """
    return "layer_names" in file.attrs or "layers" in file or "_layer_checkpoint_dependencies" in file


def unknown_class(error: Exception) -> str | None:
    """The class or function that Keras could not find while it loaded a model; None for any other error.

    Relies on the words of that error: it has no type of its own.
    """
    match = _UNKNOWN_CLASS.search(str(error))
    return None if match is None else match[1] or match[2]


def error_inside(error: Exception) -> Exception:
    """What went wrong inside of the models and layers that Keras was making; it wraps each in pages of their description.

    Relies on the words that stand before the error inside, and on the exceptions being chained.
    """
    while "could not be deserialized properly" in str(error) or "Error when deserializing class" in str(error):
        if not isinstance(error.__context__, Exception):
            return ValueError(str(error).rpartition("Exception encountered: ")[2])
        error = error.__context__
    return error


def size_asked_for(error: Exception) -> tuple[int, int] | None:
    """The (height, width) that a builder of keras.applications names where it refuses another; None for any other error.

    Relies on the words of that error: no builder tells its default size otherwise.
    """
    match = re.search(r"should be \((\d+), (\d+), 3\)", str(error))
    return None if match is None else (int(match[1]), int(match[2]))


def _functional(model: keras.Model) -> Any:
    # A subclassed model may have an attribute of this name for purposes of its own.
    return (model._functional if isinstance(model, keras.Sequential) else None) or model
