"""How clear the patches of directions are beside those of raw channels, judged by a network that neither comes from.

    python -m bench.clarity PHOTOS WEIGHTS JUDGE EMBEDS OUT [--layer block_13_expand_relu] [--methods nmf64 kmeans64]

WEIGHTS is a file of MobileNetV2's weights for Keras, JUDGE an ONNX file, such as a vision transformer, EMBEDS its layer.
Directions of the layer are found in the photographs; a second job looks at its channels and at the directions alike, and its
stage `concepts` embeds the crops of every winner by the judge (`concepts.quality`). Prints medians over those that fire.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd


def main() -> None:
    """Run both jobs and print the table; jobs that are done are not run again."""
    from pipeline import run
    from pipeline.load import parse_spec

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, kind in {"photos": Path, "weights": Path, "judge": Path, "embeds": str, "out": Path}.items():
        parser.add_argument(name, type=kind)
    parser.add_argument("--layer", default="block_13_expand_relu")
    parser.add_argument("--methods", nargs="+", default=["nmf64", "kmeans64"])
    parser.add_argument("--channels", type=int, default=64, help="how many of each layer are judged: those from 0 on")
    parser.add_argument("--images", type=int, default=400)
    options = parser.parse_args()
    model = {"source": "keras:MobileNetV2", "weights": str(options.weights), "layers": [options.layer]}
    data = {"source": f"folder:{options.photos}", "batch": 32, "limit": options.images}
    find: dict[str, Any] = {
        "name": "find",
        "stages": ["directions"],
        "model": model,
        "data": data,
        "directions": {"methods": options.methods, "per_image": 49},
    }
    directions = run(parse_spec(find), options.out)
    embeddings = {"model": f"onnx:{options.judge}", "layer": options.embeds, "preprocess": "torch"}
    look: dict[str, Any] = {
        "name": "look",
        "stages": ["activations", "concepts"],
        "model": model | {"layers": [options.layer, f"{options.layer}@*"], "directions": str(directions)},
        "data": data,
        "activations": {"channels": list(range(options.channels))},
        "concepts": {"labels": False, "quality": True, "embeddings": embeddings},
    }
    quality = pd.read_parquet(str(run(parse_spec(look), options.out) / "index" / "quality.parquet"))
    medians = quality.groupby("layer", sort=False)[["clarity", "polysemanticity", "redundancy"]].median()
    counts, raw = quality.dropna(subset="clarity").groupby("layer", sort=False).size(), medians["clarity"][options.layer]
    print("| layer | channels | clarity | of raw channels' | polysemanticity | redundancy |\n|---|---|---|---|---|---|")
    for layer, row in medians.iterrows():
        numbers = f"{row.clarity:.3f} | {row.clarity / raw:.2f} | {row.polysemanticity:.3f} | {row.redundancy:.3f}"
        print(f"| `{layer}` | {counts[str(layer)]} | {numbers} |")


if __name__ == "__main__":
    main()
