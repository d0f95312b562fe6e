"""The network as a frozen graph of a job's layers, traced and frozen once for all passes without gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import tensorflow as tf

from pipeline.compiled.folding import folded
from pipeline.compiled.freezing import FrozenGraph
from pipeline.models.network import Network, Unclipped, read_unclipped

_MOST_BYTES = 2**28  # of a graph that is kept: what is larger takes more memory than tracing it again takes time


@dataclass(frozen=True)
class _LayerGraph:
    """The frozen graph of some layers for images of one shape: {layer: {name of a field of Unclipped: its tensor}}."""

    layers: frozenset[str]
    images: tf.TensorSpec
    frozen: FrozenGraph


_KEPT: WeakKeyDictionary[Network, list[_LayerGraph]] = WeakKeyDictionary()


def read_layers(network: Network, images: tf.Tensor, layers: Sequence[str]) -> dict[str, Unclipped]:
    """The layers of preprocessed images, as `read_unclipped` gives them, added to the current graph.

    The first pass of a job traces and freezes the network; later ones that read the same layers, or fewer, from images
    of the same shape add what that gave. Gradients do not follow the overrides of the caller's graph.

    Args:
        images: of fully defined shape.
    """
    return layer_graph(network, tf.TensorSpec(images.shape, images.dtype), layers)(images)


def layer_graph(network: Network, images: tf.TensorSpec, layers: Sequence[str]) -> Callable[[tf.Tensor], dict[str, Unclipped]]:
    """What `read_layers` does to images of this shape, as a function of them; the network is traced and frozen now."""
    kept = _KEPT.setdefault(network, [])
    known = next((graph for graph in kept if graph.images == images and graph.layers.issuperset(layers)), None)
    if known is None:
        with tf.init_scope():
            graph = FrozenGraph.of(lambda images: _fields(network, images, layers), images)
            graph = replace(graph, graph=folded(graph.graph, [*graph.inputs, *graph.outputs]))
            known = _LayerGraph(frozenset(layers), images, graph)
        if known.frozen.graph.ByteSize() <= _MOST_BYTES:
            kept.append(known)
    frozen = known.frozen

    def read(images: tf.Tensor) -> dict[str, Unclipped]:
        outputs = frozen(images)
        return {layer: Unclipped(**outputs[layer]) for layer in layers}

    return read


def _fields(network: Network, images: tf.Tensor, layers: Sequence[str]) -> dict[str, dict[str, tf.Tensor]]:
    read = read_unclipped(network, images, layers)
    return {name: {key: value for key, value in vars(layer).items() if value is not None} for name, layer in read.items()}
