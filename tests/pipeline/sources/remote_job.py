"""A job of a small network over images at any address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from pipeline.load import parse_spec


def job(tmp_path: Path, source: str) -> Any:
    model = tmp_path / "small.keras"
    if not model.exists():
        keras.utils.set_random_seed(3)
        x = inputs = keras.Input((16, 16, 3))
        x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(x)
        x = keras.layers.Conv2D(3, 3, strides=2, name="deep")(x)
        keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))).save(model)
    return parse_spec(
        {
            "name": "small",
            "stages": ["activations"],
            "model": {"source": f"file:{model}", "layers": ["conv", "deep"], "preprocess": "unit"},
            "data": {"source": source, "batch": 4, "max_bad": 0.5},
            "activations": {"top_k": 2},
        }
    )
