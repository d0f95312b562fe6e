"""How clear the patches of directions are beside those of raw channels, judged by a network that neither comes from.

    python -m bench.clarity PHOTOS WEIGHTS JUDGE EMBEDS OUT [--layer block_13_expand_relu] [--methods nmf64 kmeans64]

WEIGHTS is a file of MobileNetV2's weights for Keras, JUDGE an ONNX file, such as a vision transformer, EMBEDS its layer.
Directions of the layer are found in the photographs; a second job looks at its channels and at the directions alike, and its
stage `concepts` embeds the crops of every winner by the judge (`concepts.quality`). Prints medians over those that fire, and
beside them what the judge finds of crops that have nothing in common: those of the raw channels, dealt out anew at random.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def at_random(job: Path, layer: str, judge: dict[str, Any], groups: int = 24) -> float:
    """The median clarity of groups of nine crops of a layer, each of another image, drawn at random."""
    from pipeline.concepts.embedder import Embedder
    from pipeline.concepts.quality import clarity
    from pipeline.drawing.pixels import decode_png
    from pipeline.models.registry import open_network
    from pipeline.report.job_reader import JobReader
    from pipeline.sources.fit import Fit
    from pipeline.spec.model import ModelSpec

    network = open_network(ModelSpec(source=judge["model"], layers=[judge["layer"]], preprocess=judge["preprocess"]))
    table = JobReader(job).pictures("crops", layer, ("example", "image"))
    crops = pd.DataFrame(table.to_pylist() if table is not None else []).drop_duplicates("example")
    crops = crops.sample(min(len(crops), 9 * groups), random_state=0)
    pictures = [decode_png(row["bytes"]) for row in crops["image"]]
    no_source: Any = None  # pictures need none
    height, width, _ = network.input_shape
    vectors = Embedder(network, no_source).of_pictures(judge["layer"], pictures, Fit(height, width), 16)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return float(np.median([clarity(units[first : first + 9]) for first in range(0, len(units) - 8, 9)]))


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
    job = run(parse_spec(look), options.out)
    quality = pd.read_parquet(str(job / "index" / "quality.parquet"))
    random = at_random(Path(str(job)), options.layer, embeddings)
    medians = quality.groupby("layer", sort=False)[["clarity", "polysemanticity", "redundancy"]].median()
    counts, raw = quality.dropna(subset="clarity").groupby("layer", sort=False).size(), medians["clarity"][options.layer]
    print(f"clarity of crops at random: {random:.3f}\n")
    print("| layer | channels | clarity | of raw channels' | above crops at random | polysemanticity | redundancy |")
    print("|---|---|---|---|---|---|---|")
    for layer, row in medians.iterrows():
        ratios = f"{row.clarity / raw:.2f} | {row.clarity - random:+.3f}"
        numbers = f"{row.clarity:.3f} | {ratios} | {row.polysemanticity:.3f} | {row.redundancy:.3f}"
        print(f"| `{layer}` | {counts[str(layer)]} | {numbers} |")


if __name__ == "__main__":
    main()
