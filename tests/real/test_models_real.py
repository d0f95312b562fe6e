"""Networks as they are found in the wild: real weights, real photographs, a file that carries code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.compiled.compile import compile_tap
from pipeline.errors import UnusableModel
from pipeline.models.registry import open_network
from pipeline.sources.fit import Fit
from pipeline.spec.model import ModelSpec

REAL = Path(os.environ.get("CONVSCOPE_REAL", ""))

pytestmark = pytest.mark.skipif(not os.environ.get("CONVSCOPE_REAL"), reason="CONVSCOPE_REAL names no folder of real inputs")


def opened(**keys: Any) -> Any:
    return open_network(ModelSpec(layers=["*"], **keys))


def read(file: Any) -> Any:
    return cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)


def test_mobilenet_with_real_weights_knows_what_is_in_the_photographs() -> None:
    network = opened(source="keras:MobileNetV2", weights=str(REAL / "mobilenet_v2.h5"))
    files = sorted((REAL / "imagenet20").glob("*.jpg"))
    fit = Fit(*network.input_shape[:2], "crop")  # type: ignore[call-arg]
    photos = np.stack([fit.apply(read(file)) for file in files])
    outputs = np.argmax(compile_tap(network, ["logits"], len(files))(photos)["logits"], axis=1)
    right = sum(int(file.stem.rsplit("_", 1)[1]) == guess for file, guess in zip(files, outputs, strict=True))
    assert len(files) == 20 and right >= 17


def test_vgg16_without_its_classifier_loads_and_top_with_such_weights_is_an_error() -> None:
    weights = str(REAL / "vgg16_notop.weights.h5")
    network = opened(source="keras:VGG16", weights=weights, top=False)
    assert network.input_shape == (224, 224, 3) and network.layers()[-1].shape == (7, 7, 512)
    with pytest.raises(UnusableModel, match="Set model.top = false"):
        opened(source="keras:VGG16", weights=weights)


def test_a_real_file_with_bytecode_is_refused() -> None:
    with pytest.raises(UnusableModel, match="layer 'lambda' and 20 more.*model.trusted = true"):
        opened(source=f"file:{REAL / 'facenet_keras.h5'}")


@pytest.mark.skipif("CONVSCOPE_SHARED" not in os.environ, reason="CONVSCOPE_SHARED names no folder of shared inputs")
@pytest.mark.skipif("CONVSCOPE_SHARED" not in os.environ, reason="CONVSCOPE_SHARED names no folder of real inputs")
def test_the_same_network_without_bytecode_loads_and_tells_people_apart() -> None:
    network = opened(source=f"file:{REAL / 'facenet.keras'}", preprocess="standardize")
    assert network.input_shape == (160, 160, 3) and network.layers()[-1].shape == (1, 1, 128)
    folders = sorted((Path(os.environ["CONVSCOPE_SHARED"]) / "lfw").iterdir())
    files = [file for folder in folders for file in sorted(folder.glob("*.jpg"))[:2]]
    # The middle of these pictures is the face; their border is background that the network was not trained on.
    faces = np.stack([Fit(160, 160).apply(read(file)[50:200, 50:200]) for file in files])
    outputs = compile_tap(network, ["logits"], len(files))(faces)["logits"].numpy()
    outputs /= np.linalg.norm(outputs, axis=1, keepdims=True)
    likeness = outputs @ outputs.T - 2 * np.eye(len(files))
    nearest = [files[index].parent for index in likeness.argmax(axis=1)]
    right = sum(person == file.parent for person, file in zip(nearest, files, strict=True))
    assert len(files) >= 30 and right >= 0.9 * len(files)
