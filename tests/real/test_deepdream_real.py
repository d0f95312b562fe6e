"""DeepDream and classes of real networks: what is drawn as a class is taken for it, by Keras models and frozen graphs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import run
from pipeline.drawing.pixels import decode_png
from pipeline.load import parse_spec

REAL, SHARED = os.environ.get("CONVSCOPE_REAL"), os.environ.get("CONVSCOPE_SHARED")
needs_real = pytest.mark.skipif(not REAL, reason="CONVSCOPE_REAL names no folder of real inputs")
needs_shared = pytest.mark.skipif(not SHARED, reason="CONVSCOPE_SHARED names no folder of real inputs")

# The sizes of the old defaults, in a fifth of their steps.
OCTAVES = [{"scale": 1.4, "iter_n": steps} for steps in (40, 40)]

# Twenty times what a class has by chance: the whole picture is shrunk to the network's input to be judged, and after few
# steps its many small things are not all seen there.
CHANCE = 20 / 1000


def rows_of(tmp_path: Path, model: Any, dream: Any) -> pd.DataFrame:
    tree = {"name": "dreams", "stages": ["dream"], "model": model, "data": {"source": "sample:photos"}, "dream": dream}
    folder = run(parse_spec(tree), tmp_path)
    rows = pd.read_parquet(folder / "index/dreams.parquet")
    rows["picture"] = [decode_png((folder / path).read_bytes()) for path in rows.path]  # type: ignore[assignment]
    return rows


def looks_well(picture: np.ndarray) -> bool:
    """No grey fog, no colours at their ends, no checkerboard: rows and columns that alternate."""
    clipped = ((picture == 0) | (picture == 255)).mean()
    grey = picture.astype(np.float64).mean(axis=-1)
    spectrum = np.abs(np.fft.fft2(grey - grey.mean())) ** 2
    corner = spectrum[grey.shape[0] // 2 - 2 : grey.shape[0] // 2 + 3, grey.shape[1] // 2 - 2 : grey.shape[1] // 2 + 3]
    return bool(picture.std() > 15 and clipped < 0.1 and corner.sum() < 0.01 * spectrum.sum())


def takes_them_for_the_classes(tmp_path: Path, model: Any, classes: list[int]) -> bool:
    """Whether a network takes what is drawn as some classes for them, and it looks well."""
    rows = rows_of(tmp_path, model, {"visualization": {"classes": classes, "octaves": OCTAVES}})
    taken = (rows.probability > CHANCE).all() and (rows.reached > rows.before + 5).all()
    return bool(len(rows) == len(classes) and taken and all(map(looks_well, rows.picture)))


@needs_real
def test_mobilenet_takes_what_is_drawn_for_the_class(tmp_path: Path) -> None:
    model = {"source": "keras:MobileNetV2", "weights": f"{REAL}/mobilenet_v2.h5", "layers": ["out_relu"]}
    assert takes_them_for_the_classes(tmp_path, model, [76, 327])


@needs_shared
def test_a_frozen_graph_takes_what_is_drawn_for_the_class(tmp_path: Path) -> None:
    path = f"{SHARED}/models/mobilenet_v1_0.25_224.frozen.pb"
    model = {"source": f"frozen:{path}", "preprocess": "symmetric", "layers": ["*Conv2d_13_pointwise/Relu6"]}
    assert takes_them_for_the_classes(tmp_path, model, [77, 981])


@needs_real
def test_vgg_dreams_on_a_photograph_that_can_still_be_told(tmp_path: Path) -> None:
    weights = f"{REAL}/vgg16_notop.weights.h5"
    model = {"source": "keras:VGG16", "top": False, "size": 128, "weights": weights, "layers": ["block4_conv3"]}
    rows = rows_of(tmp_path, model, {"keys": ["chelsea.png"], "longest": 200, "num_octave": 2, "iterations": 8})
    assert rows.reached[0] > 3 * rows.before[0] and looks_well(rows.picture[0])
