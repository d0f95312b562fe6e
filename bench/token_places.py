"""Whether tokens lie where the image says: one square of it is changed at a time, and each layer's map must change there most.

    python -m bench.token_places [--size SIDE] [--names] FILE.onnx...

Needs no knowledge of a network's order of tokens, so it holds for any: windows, units, orders that no raster has. A layer whose
rows lie wrong is hit by chance alone, as often as nine squares of the SQUARES x SQUARES are. Exits 1 where a layer is hit in less
than LEAST of the squares. Layers below that are named with --names: a network that mixes all tokens evenly has such, too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

SQUARES, LEAST, SEED = 7, 0.75, 0
CHANGED = ((0, 3), (1, 1), (2, 5), (3, 0), (3, 3), (4, 6), (5, 2), (6, 4))  # row and column of squares, spread over the image


def shares(path: Path, size: int | None) -> dict[str, float]:
    """By each layer of a grid of at least 4 x 4: in which share of the changed squares its map changes most."""
    import tensorflow as tf

    from pipeline.models.onnx.onnx_network import open_onnx
    from pipeline.spec.model import ModelSpec

    spec = ModelSpec(source=f"onnx:{path}", layers=["*"], preprocess="torch", size=None if size is None else (size, size))
    network = open_onnx(str(path), spec)
    layers = [layer for layer in network.layers() if min(layer.shape[:2]) >= 4 and not layer.name.endswith("#heads")]
    trace = tf.function(lambda images: network.trace(images, [layer.name for layer in layers]), autograph=False)
    height, width, bands = network.input_shape
    rng = np.random.default_rng(SEED)
    image = rng.normal(0, 0.3, (height, width, bands)).astype(np.float32)
    plain = {name: value.numpy()[0] for name, value in trace(tf.constant(np.stack([image, image]))).items()}
    hits = dict.fromkeys(plain, 0)
    for row, column in CHANGED:
        changed = image.copy()
        top, bottom = row * height // SQUARES, (row + 1) * height // SQUARES
        left, right = column * width // SQUARES, (column + 1) * width // SQUARES
        changed[top:bottom, left:right] = rng.normal(0, 1, (bottom - top, right - left, bands))
        for name, value in trace(tf.constant(np.stack([changed, image]))).items():
            difference = ((value.numpy()[0] - plain[name]) ** 2).sum(-1)
            down, across = np.unravel_index(int(difference.argmax()), difference.shape)
            centre = (down + 0.5) / difference.shape[0] * SQUARES - row, (across + 0.5) / difference.shape[1] * SQUARES - column
            hits[name] += all(-1 <= along <= 2 for along in centre)
    return {name: count / len(CHANGED) for name, count in hits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--size", type=int, help="of the image, where a file leaves it open")
    parser.add_argument("--names", action="store_true", help="name the layers that are hit too seldom")
    options = parser.parse_args()
    failed = False
    print(f"{'network':44} {'layers':>6} {'hit':>6} {'least':>6} {'below':>6}")
    for path in options.files:
        hit = shares(path, options.size)
        below = {name: share for name, share in hit.items() if share < LEAST}
        mean = sum(hit.values()) / len(hit)
        print(f"{path.stem:44} {len(hit):6} {mean:6.3f} {min(hit.values()):6.2f} {len(below):6}", flush=True)
        if options.names:
            print(*(f"    {share:.2f} {name}" for name, share in below.items()), sep="\n")
        failed = failed or bool(below)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
