"""The learned kernels of Keras's convolutions."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from pipeline.models.keras.keras_graph import LayerCall
from pipeline.models.network import Kernel

_CONVOLUTIONS = tuple(getattr(keras.layers, name) for name in ("Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "SeparableConv2D"))


def has_kernel(call: LayerCall) -> bool:
    """Whether the call of a layer is a convolution over height and width."""
    layer = _unwrapped(call)
    if isinstance(layer, keras.layers.Dense):  # over maps it is a convolution of 1 x 1
        # The whole numbers of a quantised one are not its weights.
        return len(call.output.shape) == 4 and not getattr(layer, "quantization_mode", None)
    return isinstance(layer, _CONVOLUTIONS)


def kernels_of(call: LayerCall) -> tuple[Kernel, ...]:
    """The kernels of a layer that has one: two, where it is a separable convolution."""
    layer = _unwrapped(call)
    if isinstance(layer, keras.layers.SeparableConv2D):
        depthwise = Kernel.depthwise(_array(layer.depthwise_kernel), part="depthwise")
        return depthwise, Kernel(_array(layer.pointwise_kernel), part="pointwise")
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return (Kernel.depthwise(_array(layer.kernel)),)
    if isinstance(layer, keras.layers.Conv2DTranspose):
        return (Kernel.of_transposed(_array(layer.kernel)),)
    if isinstance(layer, keras.layers.Dense):
        return (Kernel(_array(layer.kernel)[np.newaxis, np.newaxis]),)
    return (Kernel(_array(layer.kernel), layer.groups),)


def _unwrapped(call: LayerCall) -> keras.Operation:
    layer = call.operation
    while isinstance(layer, keras.layers.Wrapper):
        layer = layer.layer
    return layer


def _array(variable: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype(np.float32)
