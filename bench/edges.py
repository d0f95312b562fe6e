"""Edges as a concept: which channels of a first layer are named by the edges that HED (Xie & Tu 2015) finds in photographs.

    python -m bench.edges --hed hed.weights.h5 --network mobilenet_v2.h5 --photos DIR --out OUT

The weights are those of `make real`. A pixel is an edge where HED is surest: one in fifty of all pixels; smooth where it is
least sure, half of all.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import h5py
import keras
import numpy as np
import pandas as pd

from pipeline import run
from pipeline.drawing.pixels import encode_grey_png, resize
from pipeline.load import parse_spec
from pipeline.models.preprocessing import prepare
from pipeline.sources.decode import Decoder

_SIDE = 256  # pixels of a side to which photographs are brought for HED
_EDGES, _SMOOTH = 0.98, 0.5  # quantiles of all pixels
_WIDTHS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def hed(weights: str) -> keras.Model:
    """HED for prepared images of `_SIDE` pixels a side: probabilities of edges, (batch, h, w, 1)."""
    layers = keras.layers
    x = inputs = keras.Input((_SIDE, _SIDE, 3))
    sides, convolutions = [], {}
    for block, (width, count) in enumerate(_WIDTHS, start=1):
        if block > 1:
            x = layers.MaxPooling2D(2, padding="same")(x)
        for number in range(count):
            layer = convolutions[f"block{block}/layers/conv2d{f'_{number}' if number else ''}"] = layers.Conv2D(
                width, 3, padding="same", activation="relu"
            )
            x = layer(x)
        side = convolutions[f"dsn{block}"] = layers.Conv2D(1, 1)
        sides.append(keras.ops.image.resize(side(x), (_SIDE, _SIDE), interpolation="bilinear"))
    fuse = convolutions["fuse"] = layers.Conv2D(1, 1, activation="sigmoid")
    model = keras.Model(inputs, fuse(keras.ops.concatenate(sides, axis=-1)))
    with h5py.File(weights) as file:
        for path, layer in convolutions.items():
            layer.set_weights([file[f"{path}/vars/{number}"][()] for number in range(2)])
    return model


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("hed", "network", "photos", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--limit", type=int, default=100)
    options = parser.parse_args(arguments)
    masks = Path(options.out) / "masks"
    masks.mkdir(parents=True, exist_ok=True)
    (masks / "names.txt").write_text("1 edge\n2 smooth\n")
    model, maps = hed(options.hed), {}
    for path in sorted(Path(options.photos).glob("*.jpg"))[: options.limit]:
        pixels = Decoder().decode(path.read_bytes())
        edges = model(prepare(resize(pixels, _SIDE, _SIDE)[np.newaxis], "caffe", 3))
        maps[path] = cv2.resize(np.asarray(edges)[0, ..., 0], pixels.shape[1::-1])
    sure = np.concatenate([values.ravel() for values in maps.values()])
    edges, smooth = np.quantile(sure, [_EDGES, _SMOOTH])
    for path, values in maps.items():
        mask = np.where(values > edges, 1, np.where(values < smooth, 2, 0)).astype(np.uint8)
        (masks / f"{path.stem}.png").write_bytes(encode_grey_png(mask))
    spec: dict[str, Any] = {
        "name": "edges",
        "stages": ["activations", "concepts", "report"],
        "model": {"source": "keras:MobileNetV2", "weights": options.network, "layers": ["Conv1_relu"]},
        "data": {"source": f"folder:{options.photos}", "limit": options.limit},
        "concepts": {"labels": False, "masks": {"source": str(masks), "names": str(masks / "names.txt"), "step": 2}},
    }
    rows = pd.read_parquet(str(run(parse_spec(spec), options.out) / "index" / "concepts.parquet"))
    first = rows[rows["rank"] == 0].sort_values("value", ascending=False)
    print(first[["channel", "concept", "value", "margin", "false_discovery", "fits", "named"]].to_string(index=False))


if __name__ == "__main__":
    main()
