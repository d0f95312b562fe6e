"""The layer that GradCAM explains where none is named: the last convolution, or the last tokens that reach the logits."""

from __future__ import annotations

import tensorflow as tf

from pipeline.compiled.gradients import gradients_of
from pipeline.compiled.graph_walk import LayerTensor, LogitsGraph, last_convolution, upstream
from pipeline.errors import UnusableModel
from pipeline.models.network import LOGITS, LayerInfo, Network, own_layers

_SUMS = ("Add", "AddV2")


def default_layer(network: Network) -> LayerInfo:
    """The last convolutional layer before the logits or, where tokens come after it, the last layer of tokens that reach them.

    Where the class token alone is read out, the tokens of the image reach the logits no later than by the keys and values of
    the last block; so what those are made from is taken, its first norm. In general: of the layers by whose single places
    the logits have a gradient, the last one of the width of the residual stream that all the others come before or after.

    Raises: UnusableModel, where no convolution and no tokens lead to the logits.
    """
    if not any(layer.of_tokens for layer in own_layers(network)):
        return last_convolution(network)
    try:
        convolution = last_convolution(network)
    except UnusableModel:
        convolution = None
    tokens = _last_tokens(network, convolution)
    if tokens is None and convolution is None:
        raise UnusableModel(f"{network.name} has no tokens that reach its logits by any gradient. Name a layer: gradcam.layers.")
    return tokens or convolution  # type: ignore[return-value]


def _last_tokens(network: Network, convolution: LayerInfo | None) -> LayerInfo | None:
    """The last layer of tokens; None where none comes after the convolution."""
    layers = [layer for layer in own_layers(network) if layer.shape[0] * layer.shape[1] > 1 and "#" not in layer.name]
    if convolution is not None:
        names = [layer.name for layer in layers]
        layers = layers[names.index(convolution.name) + 1 :]
    spatial = {layer.name: layer for layer in layers}
    tensors: dict[str, LayerTensor] = {}
    entry: list[tf.Operation] = []

    @tf.function(autograph=False)
    def largest(images: tf.Tensor) -> list[tf.Tensor]:
        """By layer, the largest gradient of the logits at a single place."""
        traced = network.trace(images, [*spatial, LOGITS])
        graph = LogitsGraph(traced[LOGITS])
        entry.append(images.op)
        boxes = traced[LOGITS].shape[1] if traced[LOGITS].shape.rank == 3 else None  # a detector's rows, which are no tokens
        for name, layer in spatial.items():
            located = graph.locate(traced[name])
            if located is not None and not (layer.of_tokens and layer.shape[0] * layer.shape[1] == boxes):
                tensors[name] = located
        weights = tf.random.stateless_uniform(tf.shape(traced[LOGITS]), (0, 1))
        total = tf.reduce_sum(traced[LOGITS] * weights)
        gradients = gradients_of(total, [located.tensor for located in tensors.values()])
        return [
            tf.constant(0.0) if gradient is None else tf.reduce_max(tf.abs(located.as_map(gradient)))
            for located, gradient in zip(tensors.values(), gradients, strict=True)
        ]

    noise = tf.random.stateless_uniform((1, *network.input_shape), (0, 1))
    reached = [name for name, value in zip(tensors, largest(noise), strict=False) if float(value) > 0]
    if not any(spatial[name].of_tokens for name in reached):
        return None
    before = {name: set(upstream(tensors[name].tensor)) for name in reached}
    residual = next((name for name in reversed(reached) if _is_residual(tensors[name].tensor, entry[0])), None)
    width = None if residual is None else spatial[residual].channels
    for name in reversed(reached):
        operation = tensors[name].tensor.op
        comparable = all(tensors[other].tensor.op in before[name] or operation in before[other] for other in reached)
        if comparable and width in (None, spatial[name].channels):
            return spatial[name]
    return spatial[reached[-1]]


def _is_residual(tensor: tf.Tensor, entry: tf.Operation) -> bool:
    """Whether a tensor is the sum of two that both depend on the images, which enter at an operation."""
    return tensor.op.type in _SUMS and all(entry in upstream(source) for source in tensor.op.inputs)
