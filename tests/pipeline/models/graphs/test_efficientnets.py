"""EfficientNets of both generations as graphs: frozen and as SavedModels, with random weights, they are what Keras computes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parent))

from frozen_graphs import freeze_v2, opened

SIZE = 64
CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")


@pytest.mark.slow  # a minute: Keras takes its time to export them
@pytest.mark.parametrize("name", ["EfficientNetB0", "EfficientNetV2B0"])
def test_an_efficientnet_opens_from_both_kinds_of_graph_and_gives_what_keras_gives(tmp_path: Path, name: str) -> None:
    keras.utils.set_random_seed(0)
    model: Any = getattr(keras.applications, name)(weights=None, input_shape=(SIZE, SIZE, 3))
    images = np.random.default_rng(0).uniform(0, 255, (2, SIZE, SIZE, 3)).astype(np.float32)
    expected = model(images, training=False).numpy()
    model.export(str(tmp_path / "saved"), verbose=False)
    frozen = freeze_v2(tmp_path, lambda x: model(x, training=False), tf.TensorSpec((None, SIZE, SIZE, 3), name="image"))
    for kind, path in (("frozen", frozen), ("savedmodel", tmp_path / "saved")):
        network = opened(path, kind)
        layers = network.layers()
        assert network.input_shape == (SIZE, SIZE, 3) and sum(layer.kind in CONVOLUTIONS for layer in layers) >= 49
        last = [layer.name for layer in layers if layer.shape == (1, 1, 1000)][-1]
        np.testing.assert_allclose(np.squeeze(network.trace(images, [last])[last]), expected, rtol=1e-4, atol=1e-6)
