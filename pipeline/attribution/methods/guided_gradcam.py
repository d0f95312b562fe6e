"""Guided-GradCAM: guided backpropagation times GradCAM, enlarged to the pixels."""

from __future__ import annotations

import numpy as np

from pipeline.attribution.heat import enlarge
from pipeline.attribution.methods.class_activation import GRADCAM
from pipeline.attribution.methods.gradients import GUIDED_BACKPROP
from pipeline.attribution.methods.method import Evidence, Method


def _explain(evidence: Evidence, layer: str | None) -> np.ndarray:
    pixels, maps = GUIDED_BACKPROP.explain(evidence, None), np.maximum(GRADCAM.explain(evidence, layer), 0)
    height, width = pixels.shape[2:4]
    large = np.stack([[enlarge(values, height, width) for values in row] for row in maps])
    return pixels * large[..., np.newaxis]


GUIDED_GRADCAM = Method(
    name="guided_gradcam",
    title="Guided-GradCAM",
    paper="Selvaraju et al., 2017",
    looks_at="layer",
    draws="colours",
    needs=lambda layer: (*GUIDED_BACKPROP.needs(None), *GRADCAM.needs(layer)),
    explain=_explain,
)
