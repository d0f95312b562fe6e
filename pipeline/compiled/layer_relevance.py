"""The relevance of every position and channel of some layers for the class that the network predicts, inside a pass."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from pipeline.compiled.graph_walk import LayerTensor, LogitsGraph, trace_once
from pipeline.compiled.relevance import COMPOSITES, Propagation
from pipeline.errors import WrongSpec
from pipeline.models.network import LOGITS, Network

_COMPOSITE = "epsilon_plus_flat"


def layer_relevance(network: Network, images: tf.Tensor, layers: Sequence[str]) -> dict[str, tf.Tensor]:
    """How much each value of some layers counts for the predicted class (Achtibat et al., 2023), by relevance propagation.

    Args:
        images: preprocessed, in a graph.

    Returns: float32 (batch, h, w, channels) by layer. Of one logit alone, it is the evidence for the side that it is on.
    Raises: WrongSpec, for a layer on which the logits do not depend; UnusableModel, for an operation without a rule.
    """
    traced = network.trace(images, [*layers, LOGITS])
    logits = traced[LOGITS]
    logits_graph = LogitsGraph(logits)
    tensors = {layer: _located(logits_graph, traced[layer], layer, network) for layer in layers}
    propagation = Propagation(logits_graph, images, COMPOSITES[_COMPOSITE], network.name)
    best = tf.one_hot(tf.argmax(logits, axis=-1), logits.shape[-1], dtype=logits.dtype)
    start = tf.abs(logits) if logits.shape[-1] == 1 else logits * best
    relevances = propagation.back(logits, start, [located.tensor for located in tensors.values()])
    return {layer: located.as_map(values) for (layer, located), values in zip(tensors.items(), relevances, strict=True)}


def check_relevance(network: Network, layers: Sequence[str]) -> None:
    """Find what `layer_relevance` would refuse, before a scan. Raises: WrongSpec, UnusableModel."""
    trace_once(network, lambda images: next(iter(layer_relevance(network, images, layers).values())))


def _located(logits_graph: LogitsGraph, traced: tf.Tensor, layer: str, network: Network) -> LayerTensor:
    located = logits_graph.locate(traced)
    if located is None:
        raise WrongSpec(
            f'activations.rank = "relevance": the logits of {network.name} do not depend on {layer!r}. Name other layers.'
        )
    return located
