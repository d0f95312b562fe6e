"""Eigen-CAM: a layer's maps along the direction in which they are largest, whatever the class."""

from __future__ import annotations

import numpy as np

from pipeline.attribution.methods.maps_alone import maps_at
from pipeline.attribution.methods.method import Evidence, Method


def _explain(evidence: Evidence, layer: str | None) -> np.ndarray:
    maps = evidence.of(maps_at(layer))
    cams = []
    for feature_map in maps[:, 0]:
        positions = feature_map.reshape(-1, feature_map.shape[-1]).astype(np.float64)
        projected = positions @ np.linalg.svd(positions, full_matrices=False)[2][0]
        cams.append(
            (projected * (np.sign(projected.sum()) or 1)).reshape(feature_map.shape[:2])
        )  # a direction has no sign of its own
    return np.repeat(np.stack(cams)[:, np.newaxis], maps.shape[1], axis=1).astype(np.float32)


EIGEN_CAM = Method(
    name="eigencam",
    title="Eigen-CAM",
    paper="Muhammad and Yeasin, 2020",
    looks_at="layer",
    draws="heat",
    needs=lambda layer: (maps_at(layer),),
    explain=_explain,
)
