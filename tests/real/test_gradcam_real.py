"""What trained networks see in photographs, and where they look."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import run
from pipeline.load import parse_spec
from pipeline.store.tables import read_index

REAL, SHARED = os.environ.get("CONVSCOPE_REAL"), os.environ.get("CONVSCOPE_SHARED")
needs_real = pytest.mark.skipif(not REAL, reason="CONVSCOPE_REAL names no folder of real inputs")
needs_shared = pytest.mark.skipif(not SHARED, reason="CONVSCOPE_SHARED names no folder of shared inputs")


def explained(tmp_path: Any, quiet: Any, model: Any, data: Any, **keys: Any) -> Any:
    """The index of a job with this stage alone: classification, attributions."""
    tree = {"name": "real", "stages": ["gradcam"], "model": {"layers": ["*"], **model}, "data": {"source": f"folder:{data}"}}
    folder = run(parse_spec(tree | {"gradcam": keys}), tmp_path, reporter=quiet)
    return folder, [read_index(folder, name).to_pylist() for name in ("classification", "attributions")]


def mobilenet_v2() -> Any:
    return {"source": "keras:MobileNetV2", "weights": f"{REAL}/mobilenet_v2.h5"}


@needs_real
def test_mobilenet_knows_what_is_in_twenty_photographs(tmp_path: Path, quiet: Any) -> None:
    folder, (classes, maps) = explained(tmp_path, quiet, mobilenet_v2(), f"{REAL}/imagenet20", first=20, methods="gradcam")
    first = [row for row in classes if row["rank"] == 0]
    assert len(first) == 20
    right = sum(row["class"] == int(Path(row["key"]).stem.split("_")[-1]) for row in first)
    assert right >= 17
    assert {row["layer"] for row in maps} == {"out_relu"} and all((folder / row["picture"]).exists() for row in maps)


@needs_real
def test_upper_layers_matter_to_gradcam_and_hardly_to_guided_backprop(tmp_path: Path, quiet: Any) -> None:
    """What Adebayo et al. found, on a trained network."""
    keys = {"first": 2, "methods": ["gradcam", "guided_backprop"], "sanity": "randomisation"}
    folder, _ = explained(tmp_path, quiet, mobilenet_v2(), f"{REAL}/imagenet20", **keys)
    rows = [row for row in read_index(folder, "randomisation").to_pylist() if 0 < row["step"] <= 14]
    mean = {
        method: np.mean([row["rank_correlation"] for row in rows if row["method"] == method])
        for method in ("gradcam", "guided_backprop")
    }
    assert mean["guided_backprop"] > 0.8 and mean["gradcam"] < 0.5


@needs_shared
def test_the_tf1_mobilenet_classifies_and_explains_photographs(tmp_path: Path, quiet: Any) -> None:
    graph = f"{SHARED}/models/mobilenet_v1_0.25_224.frozen.pb"
    model = {"source": f"frozen:{graph}", "preprocess": "symmetric"}
    _, (classes, maps) = explained(tmp_path, quiet, model, f"{SHARED}/photos", first=60, methods=["gradcam", "guided_backprop"])
    right = [row["class"] == int(Path(row["key"]).stem.split("_")[0]) + 1 for row in classes if row["rank"] == 0]
    assert len(right) == 60 and sum(right) >= 30  # the smallest MobileNet: half of the thousand classes right, say its makers
    assert {row["replaced"] for row in maps if row["method"] == "guided_backprop"} == {27}
    assert {row["layer"] for row in maps if row["method"] == "gradcam"} == {"MobilenetV1/MobilenetV1/Conv2d_13_pointwise/Relu6"}
