"""Receptive fields of networks with trained weights agree with the layer graph in every unit, at their price in probes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import keras
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "recfield"))

import agreement
import networks
import oracle

from recfield import ReceptiveField

REAL = os.environ.get("CONVSCOPE_REAL")
pytestmark = pytest.mark.skipif(not REAL, reason="CONVSCOPE_REAL is not set")

VGG_LAYERS = ["block1_conv1", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3"]


def path(name: str) -> Path:
    return Path(str(REAL)) / name


@pytest.fixture(scope="module")
def vgg16() -> keras.Model:
    return keras.applications.VGG16(weights=path("vgg16_notop.weights.h5"), include_top=False, input_shape=(224, 224, 3))


@pytest.fixture(scope="module")
def mobilenet() -> keras.Model:
    return keras.applications.MobileNetV2(weights=path("mobilenet_v2.h5"))


@pytest.fixture(scope="module")
def facenet() -> keras.Model:
    return keras.models.load_model(path("facenet.keras"), compile=False)


def solve_and_compare(model: keras.Model, layers: list[str]) -> int:
    """Returns the probes it took."""
    result = agreement.solve(model, layers, batch=8)
    print("\n" + result.line(model.name))
    wrong = [f"{one.layer}: {one.difference}" for one in result.agreements if one.difference]
    assert not wrong, "\n".join(wrong)
    return result.probes


def test_five_layers_of_vgg16_agree_within_450_probes(vgg16: Any) -> None:
    assert solve_and_compare(vgg16, VGG_LAYERS) <= 450


@pytest.mark.parametrize("layer", ["block3_conv3"])
def test_one_layer_of_vgg16_agrees_within_160_probes(vgg16: Any, layer: Any) -> None:
    field = ReceptiveField((8, 224, 224, 3), networks.forward_one(vgg16, layer))
    agreement.assert_agree({layer: field}, oracle.fields(vgg16))
    assert field.probes <= 160


def test_mobilenet_v2_agrees(mobilenet: Any) -> None:
    solve_and_compare(mobilenet, ["Conv1_relu", "block_3_expand_relu", "block_6_project", "block_12_add", "out_relu"])


def test_facenet_agrees(facenet: Any) -> None:
    solve_and_compare(facenet, agreement.three_depths(facenet))


def test_the_channels_of_a_concatenation_in_facenet_agree(facenet: Any) -> None:
    """Mixed_5a... joins branches of unlike reach: its channels differ, and each gets its own boxes."""
    layer = next(op.name for op in facenet.operations if isinstance(op, keras.layers.Concatenate))
    expected = oracle.fields(facenet)[layer]
    field = ReceptiveField((8, 160, 160, 3), networks.forward_one(facenet, layer))
    for channel in (0, expected.groups[0].channels, expected.channels - 1):
        one = agreement.compare(layer, field.channel_boxes(channel), expected.channel_boxes(channel))
        assert not one.difference, f"channel {channel}: {one.difference}"
