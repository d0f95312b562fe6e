"""The shipped specs on what they are made for: FaceNet on faces, VGG16 and MobileNetV2 on photographs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jobs.specs import shipped_specs
from pipeline import load_spec, run

REAL, SHARED = os.environ.get("CONVSCOPE_REAL"), os.environ.get("CONVSCOPE_SHARED")
needs_real = pytest.mark.skipif(not REAL, reason="CONVSCOPE_REAL names no folder of real inputs")
needs_photos = pytest.mark.skipif(
    not (REAL and SHARED), reason="CONVSCOPE_REAL and CONVSCOPE_SHARED name no folders of real inputs"
)

# The layers of the Keras file that stand for those of the graph, as the spec itself tells them.
TWINS = ["Conv2d_2b_3x3", "Conv2d_4a_3x3", "Conv2d_4b_3x3", "add", "add_10"]


def shipped(name: str, *overrides: str) -> Any:
    return load_spec(shipped_specs()[name], overrides)


@needs_real
def test_facenet_has_the_same_winners_from_the_graph_and_from_the_keras_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACENET", f"{REAL}/facenet.pb")
    few = [f"data.data_dir={REAL}/tfds", "data.limit=64", "activations.channels=[0, 9, 21, 40, 62]", "activations.top_k=3"]
    keras_file = [f"model.source=file:{REAL}/facenet.keras", f"model.layers={TWINS}".replace("'", '"'), "name=keras"]
    specs = [shipped("lfw_facenet", *few), shipped("lfw_facenet", *few, *keras_file)]
    assert all(layer in " ".join(shipped_specs()["lfw_facenet"].read_text().split()) for layer in TWINS)
    ours, theirs = (pd.read_parquet(run(spec, tmp_path) / "index" / "activations.parquet") for spec in specs)
    assert len(ours) == 5 * 5 * 3 and set(theirs["layer"]) == set(TWINS)
    assert ours["layer"].map(dict(zip(specs[0].model.layers, TWINS, strict=True))).tolist() == theirs["layer"].tolist()
    np.testing.assert_allclose(ours["score"], theirs["score"], rtol=1e-4, atol=1e-4)
    same = (ours[["example", "row", "col"]] == theirs[["example", "row", "col"]]).all(axis=1)
    assert same.mean() > 0.98  # responses that are equal but for rounding may change places
    boxes = ["y1", "x1", "y2", "x2", "src_y1", "src_x1", "src_y2", "src_x2"]
    pd.testing.assert_frame_equal(ours.loc[same, boxes], theirs.loc[same, boxes])
    # Of pictures of 250 pixels the middle 160 are shown, one window each.
    assert ours["key"].str.endswith("@45,45").all() and ours[["src_y1", "src_x1"]].min().min() >= 45
    assert ours[["src_y2", "src_x2"]].max().max() <= 205


@needs_photos
@pytest.mark.parametrize(
    ("name", "weights"), [("imagenet_vgg16", "vgg16_notop.weights.h5"), ("imagenet_mobilenet_v2", "mobilenet_v2.h5")]
)
def test_a_shipped_network_looks_at_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any, weights: Any) -> None:
    monkeypatch.setenv("PHOTOS", f"{SHARED}/photos")
    top = ["model.top=false", "model.size=112"] if "notop" in weights else []
    few = ["data.limit=24", "data.batch=8", "activations.channels=[0, 5, 11]", "activations.top_k=2"]
    folder = run(shipped(name, f"model.weights={REAL}/{weights}", *top, *few), tmp_path)
    index = pd.read_parquet(folder / "index" / "activations.parquet")
    fields = pd.read_parquet(folder / "index" / "fields.parquet")
    channels = pd.read_parquet(folder / "index" / "channels.parquet")
    assert len(channels) == 5 * 3 and len(index) == 2 * int((~channels["dead"]).sum()) > 20  # what never fires has no winners
    assert index["example"].max() < 24 and index["score"].max() > 0
    assert fields["height"].is_monotonic_increasing and fields["height"].iloc[0] < 12
    assert len(list((folder / "mosaics" / "activations").glob("*-crop.png"))) == 5
