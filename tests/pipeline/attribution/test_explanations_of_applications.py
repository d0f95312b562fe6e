"""Every network of keras.applications is explained by every method: its last convolution, its classes, its ReLUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
from explaining import compile_explanations, explainer_of

from pipeline.attribution.blanks import Blanks
from pipeline.attribution.explainer import Explained, ImageBatch
from pipeline.attribution.methods import METHODS
from pipeline.attribution.methods.method import MethodSettings
from pipeline.attribution.plan import MapKey
from pipeline.compiled.graph_walk import last_convolution
from pipeline.errors import UnusableModel
from pipeline.models.keras.applications import builders
from pipeline.models.network import Network
from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec

_SIZE = 96  # from 75 on, all of them can be built
_SMOOTH = ("ConvNeXt", "EfficientNet")  # those that have no ReLU
_FEW = MethodSettings(steps=8, samples=8, patch=0.5, segments=8, channels=8)


def _opened(name: Any) -> Network:
    return open_network(ModelSpec(source=f"keras:{name}", weights="none", layers=["*"], size=_SIZE))


def _images(count: Any) -> Any:
    """Smooth random images: pixels that have nothing to do with their neighbours make no superpixels."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 6, 6, 3))
    return np.kron(coarse, np.ones((1, _SIZE // 6, _SIZE // 6, 1))).astype(np.uint8)


def _explained(network: Network, keys: Sequence[MapKey], images: Any) -> Explained:
    settings = MethodSettings(**{**vars(_FEW), "references": images[::-1].astype(np.float32)})
    explainer = explainer_of(network, keys, len(images), 2, settings=settings)
    return explainer.explain(ImageBatch([], images, [[-1, 7]] * len(images)))


@pytest.mark.slow
@pytest.mark.parametrize("name", builders())
def test_every_builder_is_explained(name: Any, capsys: pytest.CaptureFixture[str]) -> None:
    network = _opened(name)
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


@pytest.mark.slow
@pytest.mark.parametrize("name", builders())
def test_every_method_explains_every_builder_or_says_why_not(name: Any, capsys: pytest.CaptureFixture[str]) -> None:
    network = _opened(name)
    layer, images = last_convolution(network), _images(2)
    refused = ["attention_rollout", "attention_gradients", *(["deconvnet"] if name.startswith(_SMOOTH) else [])]
    for method in refused:
        with pytest.raises(UnusableModel, match=r"attention|ReLU"):
            _explained(network, [(method, None)], images)
    keys = [(key, layer.name if method.looks_at == "layer" else None) for key, method in METHODS.items() if key not in refused]
    explained, blanks = _explained(network, keys, images), Blanks()
    blanks.largest = float(np.abs(explained.logits).max())
    assert set(explained.maps) == set(keys)
    if name.startswith("ConvNeXt"):  # all composites keep the logit where no sum that is divided by is near zero
        assert {key for key in explained.gaps if key.startswith("lrp")} == {key for key in METHODS if key.startswith("lrp")}
        assert max(gap.max() for key, gap in explained.gaps.items() if key.startswith("lrp")) < 0.01
    for (key, at), maps in explained.maps.items():
        size = layer.shape[:2] if METHODS[key].looks_at == "layer" and key != "guided_gradcam" else (_SIZE, _SIZE)
        assert maps.shape == (2, 2, *size, *([3] if METHODS[key].draws == "colours" else [])), key
        assert np.isfinite(maps).all(), key
        for image in range(2):
            for target in range(2):
                sums = explained.sums[key, at][image, target].tolist()
                blanks.add((key, at), maps[image, target], sums, f"image {image} for target {target}")
    sentences = blanks.sentences()
    with capsys.disabled():
        print(f"{name}: {len(keys)} methods, logits up to {blanks.largest:.2g}", *sentences, sep="\n  ")
    # What is said must be so: of one side alone, for want of a GradCAM, or because nothing of the random network is left.
    for sentence in sentences:
        assert "on the other side" in sentence or "GradCAM without evidence" in sentence or blanks.largest < 2e-4, sentence
    keras.backend.clear_session()
