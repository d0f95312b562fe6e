"""Every network of keras.applications is explained: its last convolution, its classes, its ReLUs."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from explaining import compile_explanations

from pipeline.compiled.graph_walk import last_convolution
from pipeline.models.keras.applications import builders
from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec

_SIZE = 96
_SMOOTH = ("ConvNeXt", "EfficientNet")  # those that have no ReLU


@pytest.mark.slow
@pytest.mark.parametrize("name", builders())
def test_every_builder_is_explained(name: Any, capsys: pytest.CaptureFixture[str]) -> None:
    network = open_network(ModelSpec(source=f"keras:{name}", weights="none", layers=["*"], size=_SIZE))
    layer = last_convolution(network)
    run = compile_explanations(network, [("gradcam", layer.name), ("gradient", None), ("guided_backprop", None)], 1, 2)
    images = np.random.default_rng(0).integers(0, 256, (1, _SIZE, _SIZE, 3), dtype=np.uint8)
    outputs = run(images, np.array([[-1, 7]], np.int32))
    gradient, guided = outputs.maps["gradient", None], outputs.maps["guided_backprop", None]
    with capsys.disabled():
        share = np.abs(gradient - guided).max() / np.abs(gradient).max()
        print(f"{name}: {layer.name} {layer.shape}, {run.guide.rule} {run.guide.replaced}, guided differs by {share:.2g}")
    assert outputs.classes[0].tolist() == [outputs.logits[0].argmax(), 7]
    assert outputs.maps["gradcam", layer.name].shape == (1, 2, *layer.shape[:2]) and layer.shape[0] > 1
    for values in outputs.maps.values():
        assert np.isfinite(values).all()
    assert np.abs(gradient).max() > 0 and not np.array_equal(gradient, guided)
    assert run.guide.rule == ("smooth" if name.startswith(_SMOOTH) else "relu")
    keras.backend.clear_session()
