"""Layers on the way to the logits: a trace in which directions, which lie beside that way, lie on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from pipeline.compiled.freezing import FrozenGraph
from pipeline.compiled.graph_parts import part_of, source_behind, those_in
from pipeline.compiled.graph_walk import LogitsGraph
from pipeline.models.network import LOGITS, Network, own_layers
from pipeline.store.direction_sets import DirectionSet


def trace_on_the_way(network: Network, images: tf.Tensor, layers: Sequence[str]) -> dict[str, tf.Tensor]:
    """The layers and LOGITS as `Network.trace` gives them, with directions on the way from their layer to the logits.

    No number changes. The gradient of the logits by the responses u of a layer x is that of x = u · decoder + rest, with the
    rest held: the gradient by x, times the decoder transposed (as in CRAFT, Fel et al. 2023). The gradient by what is before x
    does not pass through u. With directions, the graph of the network is frozen and added to the current one.

    Args:
        images: of fully defined shape. layers: with LOGITS among them.
    """
    sets: Mapping[str, DirectionSet] = getattr(network, "directions", {})
    sides = [sets[layer] for layer in layers if layer in sets]
    if not sides:
        return network.trace(images, layers)
    of_sides = {directions.base for directions in sides}
    bases = [layer.name for layer in own_layers(network) if layer.name in of_sides]
    frozen, on_the_way = _frozen(network, images, layers, bases)
    names: dict[str, Any] = tf.nest.pack_sequence_as(frozen.structure, list(frozen.outputs))
    replaced: dict[str, tf.Tensor] = {frozen.inputs[0]: tf.identity(images)}
    responses: dict[str, tf.Tensor] = {}
    for base in bases:
        source = source_behind(frozen.graph, names["tensors"][base])
        of_base = [directions for directions in sides if directions.base == base]
        ends = [source, *(names["maps"][layer] for layer in (base, *(directions.layer for directions in of_base)))]
        part = part_of(frozen.graph, ends)
        tensor, maps, *values = tf.graph_util.import_graph_def(part, those_in(part, replaced), ends, name="before")
        responses |= {directions.layer: tf.stop_gradient(value) for directions, value in zip(of_base, values, strict=True)}
        if base in on_the_way:
            replaced[source] = _joined(
                tensor, maps, [(responses[directions.layer], directions.decoder) for directions in of_base]
            )
    others = [layer for layer in dict.fromkeys(layers) if layer not in sets]
    ends = [names["maps"][layer] for layer in others]
    outputs = tf.graph_util.import_graph_def(frozen.graph, replaced, ends, name="behind")
    return {**responses, **dict(zip(others, outputs, strict=True))}


def _frozen(
    network: Network, images: tf.Tensor, layers: Sequence[str], bases: Sequence[str]
) -> tuple[FrozenGraph, frozenset[str]]:
    """The frozen graph that gives {"maps": of layers and bases, "tensors": of the bases in the network's own order of axes},
    and those of the bases on which the logits depend."""
    on_the_way: set[str] = set()

    def read(images: tf.Tensor) -> dict[str, dict[str, tf.Tensor]]:
        traced = network.trace(images, list(dict.fromkeys([*layers, *bases])))
        graph = LogitsGraph(traced[LOGITS])
        located = {base: graph.locate(traced[base]) for base in bases}
        on_the_way.update(base for base, tensor in located.items() if tensor is not None)
        tensors = {base: traced[base] if tensor is None else tensor.tensor for base, tensor in located.items()}
        return {"maps": traced, "tensors": tensors}

    with tf.init_scope():
        frozen = FrozenGraph.of(read, tf.TensorSpec(images.shape, images.dtype))
    return frozen, frozenset(on_the_way)


def _joined(tensor: tf.Tensor, maps: tf.Tensor, sides: Sequence[tuple[tf.Tensor, Any]]) -> tf.Tensor:
    """A layer's tensor as it is, with gradients for responses, each with its decoder."""
    # The views that make the map of the tensor make the gradient by the map of that by the tensor.
    located = LogitsGraph(tensor).locate(maps)
    assert located is not None

    @tf.custom_gradient
    def join(tensor: tf.Tensor, *responses: tf.Tensor) -> Any:
        def gradient(above: tf.Tensor) -> list[tf.Tensor]:
            by_map = located.as_map(above)
            return [above, *(tf.tensordot(by_map, decoder.T, 1) for _, decoder in sides)]

        return tf.identity(tensor), gradient

    joined: tf.Tensor = join(tensor, *(responses for responses, _ in sides))
    return joined
