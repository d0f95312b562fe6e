"""Ablation-CAM: every channel of a layer weighted by the share of the score that is lost without it."""

from __future__ import annotations

import numpy as np

from pipeline.attribution.methods.maps_alone import channels_of, maps_at
from pipeline.attribution.methods.method import Evidence, LayerOutput, Method

_LEAST = 1e-12  # of a score, below which shares of it mean nothing


def _explain(evidence: Evidence, layer: str | None) -> np.ndarray:
    assert layer is not None
    maps = evidence.of(maps_at(layer))
    scores = evidence.score.astype(np.float64)
    cams = []
    for number, feature_map in enumerate(maps[:, 0]):
        channels = channels_of(feature_map, evidence)
        lost = scores[number] - evidence.without_channels(layer, number, channels)
        cams.append(np.einsum("hwc,ct->thw", feature_map[..., channels], lost / np.maximum(np.abs(scores[number]), _LEAST)))
    return np.stack(cams).astype(np.float32)


ABLATION_CAM = Method(
    name="ablationcam",
    title="Ablation-CAM",
    paper="Desai and Ramaswamy, 2020",
    looks_at="layer",
    draws="heat",
    needs=lambda layer: (maps_at(layer), LayerOutput(layer or "")),
    explain=_explain,
)
