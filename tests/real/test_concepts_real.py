"""Names of channels whose meaning is known: the logits of the shipped network, and the colours of a first layer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from jobs.specs import shipped_specs
from pipeline import run
from pipeline.load import parse_spec

REAL, SHARED = os.environ.get("CONVSCOPE_REAL"), os.environ.get("CONVSCOPE_SHARED")
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.mark.skipif(not REAL, reason="CONVSCOPE_REAL names no folder of real inputs")
def test_the_logits_of_the_cifar10_network_are_named_by_its_classes(tmp_path: Path, quiet: Any) -> None:
    import keras

    shipped = keras.models.load_model(shipped_specs()["demo"].parent / "shipped" / "cifar10.keras")
    last = shipped.get_layer("logits")  # a layer of this name cannot be looked at
    scores = keras.layers.Dense(10, name="scores")
    keras.Model(shipped.input, scores(last.input)).save(tmp_path / "first.keras")
    scores.set_weights(last.get_weights())
    keras.Model(shipped.input, scores(last.input)).save(tmp_path / "cifar10.keras")
    spec = parse_spec(
        {
            "name": "cifar10",
            "stages": ["activations", "concepts"],
            "model": {"source": f"file:{tmp_path / 'cifar10.keras'}", "layers": ["scores"]},
            "data": {"source": "tfds:cifar10/test", "data_dir": f"{REAL}/tfds", "limit": 2000},
            "concepts": {"embeddings": {"layer": "local4", "measures": ["rank_reorder", "wpmi", "soft_wpmi"]}},
        }
    )
    rows = pd.read_parquet(run(spec, tmp_path, reporter=quiet) / "index" / "concepts.parquet")
    for measure, names in rows[rows["rank"] == 0].groupby("measure"):
        assert names.sort_values("channel")["concept"].tolist() == CLASSES, measure
        assert (names["named"] == (names["fits"] >= 0.5)).all() and names["named"].sum() >= 9, measure
    assert rows["measure"].nunique() == 5


@pytest.mark.skipif(not (REAL and SHARED), reason="CONVSCOPE_REAL or CONVSCOPE_SHARED names no folder")
def test_the_colour_channels_of_the_first_layer_get_their_colours(tmp_path: Path, quiet: Any) -> None:
    spec = parse_spec(
        {
            "name": "colours",
            "stages": ["activations", "concepts"],
            "model": {"source": "keras:MobileNetV2", "weights": f"{REAL}/mobilenet_v2.h5", "layers": ["Conv1_relu"]},
            "data": {"source": f"folder:{SHARED}/photos", "limit": 200},
            "concepts": {"labels": False, "masks": {"source": "colours"}},
        }
    )
    rows = pd.read_parquet(run(spec, tmp_path, reporter=quiet) / "index" / "concepts.parquet")
    first = rows[(rows["rank"] == 0) & (rows["value"] > 0.1)].set_index("channel")
    assert dict(first["concept"]) == {2: "blue", 4: "purple", 20: "blue", 21: "blue", 29: "blue", 31: "yellow"}
    assert first["named"].all()
