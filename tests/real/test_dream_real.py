"""Dreams of real networks: they fire their channels more than photographs do, and do not ask what kind of network it is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from pipeline import run
from pipeline.ascent.objectives import channel
from pipeline.ascent.optimizer import Ascent, AscentConfig, State
from pipeline.ascent.parametrization import fourier
from pipeline.ascent.starts import Noise, find_starts
from pipeline.load import parse_spec
from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec

REAL, SHARED = os.environ.get("CONVSCOPE_REAL"), os.environ.get("CONVSCOPE_SHARED")
needs_real = pytest.mark.skipif(not REAL, reason="CONVSCOPE_REAL names no folder of real inputs")
needs_photos = pytest.mark.skipif(
    not (REAL and SHARED), reason="CONVSCOPE_REAL and CONVSCOPE_SHARED name no folders of real inputs"
)


@needs_photos
def test_patterns_of_mobilenet_fire_their_channels_more_than_the_strongest_patch_of_the_photographs(tmp_path: Path) -> None:
    spec = parse_spec(
        {
            "name": "dreams",
            "stages": ["activations", "patterns"],
            "model": {
                "source": "keras:MobileNetV2",
                "weights": f"{REAL}/mobilenet_v2.h5",
                "layers": ["block_3_expand_BN", "block_6_expand_BN"],  # what their ReLU6 cuts off at 6 cannot be surpassed
            },
            "data": {"source": f"folder:{SHARED}/photos", "batch": 16, "limit": 96},
            "activations": {"top_k": 3, "channels": list(range(5))},
            "patterns": {"channels": list(range(5)), "steps": 128},
        }
    )
    folder = run(spec, tmp_path)
    rows = pd.read_parquet(folder / "index" / "patterns.parquet")
    assert (rows.state == "done").all()
    assert rows.exceeds.mean() >= 0.9
    entry = json.loads((folder / "run.json").read_text())["stages"]["patterns"]
    assert entry["exceeding"] == rows.exceeds.sum()


@needs_real
def test_a_frozen_network_dreams_as_the_keras_network_that_it_was_frozen_from() -> None:
    layers = {
        f"frozen:{REAL}/facenet.pb": "InceptionResnetV1_1/Block35_1_Activation_1/Relu",
        f"file:{REAL}/facenet.keras": "Block35_1_Activation",
    }
    curves = []
    for source, name in layers.items():
        network = open_network(ModelSpec(source=source, layers=[name], preprocess="standardize"))
        objectives = [channel(name, 3), channel(name, 8)]
        height, width, _ = network.input_shape
        ascent = Ascent.compile(network, fourier(height, width), objectives, AscentConfig())
        start = State.start(tf.stack([ascent.parametrization.noise((0, number), 0.1) for number in range(2)]))
        curves.append(ascent.run(start, objectives, 4)[1])
    np.testing.assert_allclose(*curves, rtol=5e-2)
    assert (curves[0][-1] > curves[0][0]).all()


@needs_real
def test_a_deep_channel_that_noise_leaves_silent_wakes_at_its_second_start() -> None:
    name = "block5_conv3"
    weights = f"{REAL}/vgg16_notop.weights.h5"
    network = open_network(ModelSpec(source="keras:VGG16", layers=[name], top=False, size=96, weights=weights))
    objectives = [channel(name, number) for number in (25, 25)]
    ascent = Ascent.compile(network, fourier(96, 96), objectives, AscentConfig())
    state, starts = find_starts(ascent, objectives, ["a", "b"], Noise(seed=0, contrast=0.1))
    assert starts.tolist() == [2, 2]
    assert (ascent.run(state, objectives, 1)[1] > 1).all()
