"""Effective fields of FaceNet on real faces: noise inside moves a unit, noise outside hardly does, from .pb and .keras alike."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tensorflow as tf

from pipeline.fields import solve_fields
from pipeline.fields.effective import EffectiveFields
from pipeline.models.registry import open_network, select_layers
from pipeline.sources.fit import Fit
from pipeline.spec.model import ModelSpec

REAL, SHARED = os.environ.get("CONVSCOPE_REAL"), os.environ.get("CONVSCOPE_SHARED")
pytestmark = pytest.mark.skipif(
    not (REAL and SHARED), reason="CONVSCOPE_REAL and CONVSCOPE_SHARED name no folders of real and shared inputs"
)

LAYERS = {"file:facenet.keras": "Block17_5_Activation", "frozen:facenet.pb": "InceptionResnetV1_1/Block17_5_Activation_1/Relu"}
FACES = 6


@pytest.fixture(scope="module")
def faces() -> Any:
    files = sorted(Path(f"{SHARED}/lfw").rglob("*.jpg"))[::11][:FACES]
    return np.stack([Fit(160, 160).apply(cv2.imread(str(file))[..., ::-1]) for file in files])


@pytest.fixture(scope="module")
def solved(faces: Any) -> Any:
    """By network: how to trace the layer, the strongest units of some channels, and their effective fields."""
    answers = {}
    units = None
    for source, name in LAYERS.items():
        kind, _, file = source.partition(":")
        network = open_network(ModelSpec(source=f"{kind}:{REAL}/{file}", layers=[name], preprocess="standardize"))
        maps = tf.function(lambda x, network=network, name=name: network.trace(x, [name])[name], autograph=False)
        if units is None:
            values = maps(network.preprocess(faces)).numpy()
            units = []
            for number, value in enumerate(values):
                channel = int(value.max(axis=(0, 1)).argsort()[-1 - number])
                units.append((*np.unravel_index(value[..., channel].argmax(), value.shape[:2]), channel))
            units = np.array(units)  # type: ignore[assignment]
        (layer,) = select_layers(network, [name])
        field = solve_fields(network, [layer])[name]
        answers[source] = network, maps, units, EffectiveFields(network, layer, field).boxes(faces, units)
    return answers


def test_both_files_of_one_network_give_the_same_effective_fields(solved: Any) -> None:
    first, second = (boxes for *_, boxes in solved.values())
    np.testing.assert_array_equal(first, second)
    areas = (first[:, 2:] - first[:, :2]).prod(axis=1)
    assert (areas > 0).all() and np.median(areas) < 0.25 * 160**2


def test_faint_noise_inside_moves_a_unit_and_outside_hardly(solved: Any, faces: Any) -> None:
    network, maps, units, boxes = solved["file:facenet.keras"]
    random = np.random.default_rng(0)
    for face, (row, col, channel), (y1, x1, y2, x2) in zip(faces, units, boxes, strict=True):
        pixels = network.preprocess(face[None]).numpy()
        inside = np.zeros((160, 160, 1), np.float32)
        inside[y1:y2, x1:x2] = 1
        noise = random.normal(0, 0.003, (24, 160, 160, 3)).astype(np.float32)
        still = maps(tf.constant(pixels))[0, row, col, channel].numpy()
        moved = [
            np.square(maps(tf.constant(pixels + noise * part))[:, row, col, channel].numpy() - still).mean()
            for part in (inside, 1 - inside)
        ]
        assert moved[0] > 5 * moved[1]  # 19 times, were there no curvature and no end of noise
