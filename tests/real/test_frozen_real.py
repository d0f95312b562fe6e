"""Frozen graphs as they are found: the original TF1 MobileNet, and FaceNet beside the Keras model it was frozen from."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parents[1] / "recfield"))

import agreement
import oracle

from pipeline.activations.heap_members import Strongest
from pipeline.activations.plan import ScanPlan
from pipeline.activations.scan import scan
from pipeline.compiled.compile import compile_tap
from pipeline.fields import solve_fields
from pipeline.models.registry import open_network, select_layers
from pipeline.sources.fit import Fit
from pipeline.sources.registry import open_source
from pipeline.spec.data import DataSpec
from pipeline.spec.model import ModelSpec

REAL, SHARED = os.environ.get("CONVSCOPE_REAL"), os.environ.get("CONVSCOPE_SHARED")
needs_real = pytest.mark.skipif(not REAL, reason="CONVSCOPE_REAL names no folder of real inputs")
needs_shared = pytest.mark.skipif(not SHARED, reason="CONVSCOPE_SHARED names no folder of shared inputs")

# The layers that stand for the seed's five, in the graph and in the Keras model.
_SCOPE = "InceptionResnetV1_1"
TWINS = {
    f"{_SCOPE}/Conv2d_2b_3x3_Activation_1/Relu": "Conv2d_2b_3x3_Activation",
    f"{_SCOPE}/Conv2d_4a_3x3_Activation_1/Relu": "Conv2d_4a_3x3_Activation",
    f"{_SCOPE}/Conv2d_4b_3x3_Activation_1/Relu": "Conv2d_4b_3x3_Activation",
    f"{_SCOPE}/add_1/Add": "add",
    f"{_SCOPE}/Block17_5_Activation_1/Relu": "Block17_5_Activation",
}


def mobilenet() -> Any:
    path = f"{SHARED}/models/mobilenet_v1_0.25_224.frozen.pb"
    return open_network(ModelSpec(source=f"frozen:{path}", layers=["*"], preprocess="symmetric"))


@pytest.fixture(scope="module")
def facenets() -> Any:
    return [
        open_network(ModelSpec(source=f"{kind}:{REAL}/facenet.{end}", layers=["*"], preprocess="standardize"))
        for kind, end in (("frozen", "pb"), ("file", "keras"))
    ]


@needs_shared
def test_the_tf1_mobilenet_knows_what_is_in_four_hundred_photographs() -> None:
    network = mobilenet()
    files = sorted(Path(f"{SHARED}/photos").iterdir())
    classes = np.array([int(file.name[:3]) for file in files])
    tap, fit = compile_tap(network, ["logits"], 50), Fit(*network.input_shape[:2], "crop")  # type: ignore[call-arg]
    ranked = []
    for start in range(0, len(files), 50):
        photos = np.stack([fit.apply(cv2.imread(str(file))[..., ::-1]) for file in files[start : start + 50]])
        # 1001 classes: the graph's first one is the background, ImageNet's follow.
        ranked.append(np.argsort(-tap(photos)["logits"].numpy()[:, 1:], axis=1)[:, :5])
    right = np.concatenate(ranked) == classes[:, None]
    print(f"\ntop-1 {right[:, 0].mean():.2%}, top-5 {right.any(axis=1).mean():.2%} of {len(files)} photographs")
    assert len(files) == 400 and right[:, 0].mean() > 0.55 and right.any(axis=1).mean() > 0.78


@needs_shared
def test_the_fields_of_the_tf1_mobilenet_are_those_of_its_keras_twin() -> None:
    network = mobilenet()
    twin = keras.applications.MobileNet(alpha=0.25, weights=None, input_shape=(224, 224, 3))
    blocks = (1, 3, 5, 11)
    names = {f"MobilenetV1/MobilenetV1/Conv2d_{block}_pointwise/Relu6": f"conv_pw_{block}_relu" for block in blocks}
    fields = solve_fields(network, select_layers(network, list(names)))
    agreement.assert_agree({names[name]: field for name, field in fields.items()}, oracle.fields(twin))


@needs_real
def test_facenet_gives_the_same_maps_from_the_graph_and_from_keras(facenets: Any) -> None:
    frozen, twin = facenets
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (4, 160, 160, 3), np.uint8))
    ours = compile_tap(frozen, [*TWINS, "logits"], 4)(images)
    theirs = compile_tap(twin, [*TWINS.values(), "logits"], 4)(images)
    for name, other in {**TWINS, "logits": "logits"}.items():
        scale = np.abs(theirs[other]).max()
        difference = np.abs(ours[name] - theirs[other]).max()
        print(f"{name}: {difference:.1e} of {scale:.1f}")
        assert difference <= 1e-4 * max(1.0, scale)


@needs_real
def test_facenet_has_the_same_winners_from_the_graph_and_from_keras(facenets: Any) -> None:
    frozen, twin = facenets
    source = open_source(DataSpec(source="tfds:lfw/train", data_dir=f"{REAL}/tfds", limit=200), Fit(160, 160))
    actual = []
    for network, names in ((frozen, TWINS.keys()), (twin, TWINS.values())):
        layers = tuple(select_layers(network, list(names)))
        part, times = scan(network, source, ScanPlan(layers, None, 5, 20))
        print(f"{network.name}: {times.images} images, {times.images / times.seconds:.1f}/s")
        actual.append({name: member.heap for name, member in part.of(Strongest).items()})
    same = total = 0
    for ours, theirs in TWINS.items():
        one, two = actual[0][ours], actual[1][theirs]
        np.testing.assert_allclose(one.scores, two.scores, rtol=1e-4, atol=1e-4)
        agree = (one.examples == two.examples) & (one.rows == two.rows) & (one.cols == two.cols)
        print(f"{ours}: {agree.sum()} of {agree.size} winners are the same")
        same, total = same + int(agree.sum()), total + agree.size
    print(f"{same} of {total} in all")
    assert same / total > 0.999  # responses that are equal but for rounding may change places


@needs_real
def test_the_fields_of_the_facenet_graph_are_those_of_the_keras_model(facenets: Any) -> None:
    frozen, twin = facenets
    fields = solve_fields(frozen, select_layers(frozen, list(TWINS)))
    agreement.assert_agree({TWINS[name]: field for name, field in fields.items()}, oracle.fields(twin.reader.model))


@needs_real
def test_gradients_flow_through_the_facenet_graph_as_through_the_keras_model(facenets: Any) -> None:
    frozen, twin = facenets
    images = np.random.default_rng(0).normal(0, 1, (1, 160, 160, 3)).astype(np.float32)

    def gradient(network: Any, layer: Any) -> Any:
        def run(pixels: Any) -> Any:
            return tf.gradients(tf.reduce_max(network.trace(pixels, [layer])[layer]), pixels)[0]

        return tf.function(run, autograph=False)(tf.constant(images)).numpy()

    for ours, theirs in list(TWINS.items())[-2:]:
        one, two = gradient(frozen, ours), gradient(twin, theirs)
        assert np.abs(two).max() > 0
        np.testing.assert_allclose(one, two, atol=1e-3 * np.abs(two).max())
