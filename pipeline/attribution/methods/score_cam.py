"""Score-CAM: every channel of a layer weighted by the score of the image with nothing but what the channel's own map shows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.attribution.heat import enlarge
from pipeline.attribution.methods.maps_alone import channels_of, maps_at
from pipeline.attribution.methods.masking import scores_behind
from pipeline.attribution.methods.method import Evidence, Method
from pipeline.models.head import softmax


def _explain(evidence: Evidence, layer: str | None) -> np.ndarray:
    maps, size = evidence.of(maps_at(layer))[:, 0], evidence.images.shape[1:3]
    tried = np.stack([feature_map[..., channels_of(feature_map, evidence)] for feature_map in maps])
    masked = ((number, mask) for number, feature_map in enumerate(tried) for mask in _masks(feature_map, *size))
    scores = scores_behind(evidence, masked).reshape(len(maps), tried.shape[-1], -1)
    return np.einsum("nhwc,ntc->nthw", tried, softmax(np.moveaxis(scores, 1, 2))).astype(np.float32)


def _masks(maps: np.ndarray, height: int, width: int) -> Iterator[np.ndarray]:
    """Each channel's map as large as the image and from 0 to 1; zeros, where it is the same everywhere."""
    for channel in range(maps.shape[-1]):
        large = enlarge(maps[..., channel], height, width)
        yield (large - large.min()) / (float(np.ptp(large)) or 1.0)


SCORE_CAM = Method(
    name="scorecam",
    title="Score-CAM",
    paper="Wang et al., 2020",
    looks_at="layer",
    draws="heat",
    needs=lambda layer: (maps_at(layer),),
    explain=_explain,
)
