"""DeepDream beside its yardsticks: what a step over tiles costs, and how memory grows with the picture.

    python -m bench.deepdream [--weights FILE] [--rounds N] [--only step,memory]

Two tables. `step`: a whole step over a picture of one tile, and of 2 x 2, over bare forward and backward passes of the same
Keras model on as many tiles, in turns, the median of the ratios; and beside it DeepDream written the plain way, the whole
picture in one piece through a model that takes any size. `dream` raises a layer and `class` smooths as class
visualisation does; with `logits` both raise a class. `memory`: the peak of whole jobs on pictures of two sizes, each in
a process of its own. --weights is a file for MobileNetV2; without it all weights are random.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from bench.dream import bare, in_turns

CASES = (("keras:MobileNetV2", "block_12_add"), ("keras:VGG16", "block5_conv1"), ("keras:MobileNetV2", "logits"))
SIZES = ((600, 800), (3000, 4000))

_JOB = """
import resource, sys
from pipeline import run
from pipeline.load import parse_spec
picture, weights, out = sys.argv[1:]
model = {"source": "keras:MobileNetV2", "layers": ["block_12_add"], "weights": weights}
dream = {"files": [picture], "iterations": 2}
run(parse_spec({"name": "memory", "stages": ["dream"], "model": model, "data": {"source": "sample:photos"}, "dream": dream}), out)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def network(source: str, top: bool) -> Any:
    """A network of keras.applications with random weights; with its classes or without."""
    from pipeline.models.registry import open_network
    from pipeline.spec.model import ModelSpec

    return open_network(ModelSpec(source=source, layers=["*"], weights="none", top=top, size=(224, 224)))


def dreamer(net: Any, layer: str, side: int, batch: int, **keys: Any) -> Callable[[int], None]:
    """A function that makes so many steps of DeepDream on a square picture."""
    import numpy as np

    from pipeline.dream import layer as whole_layer
    from pipeline.dream import logit
    from pipeline.dream.tiles import Segment, TileConfig, TiledAscent, start

    objective = logit(207) if layer == "logits" else whole_layer(layer)
    ascent = TiledAscent.compile(net, objective, TileConfig(**keys), batch)
    state = start(np.random.default_rng(0).uniform(0.3, 0.7, (side, side, 3)).astype(np.float32))

    def run(steps: int) -> None:
        nonlocal state
        state, _ = ascent.run(state, objective, Segment(int(state.step), steps, 0.44, 0.304), steps)

    return run


def plain(net: Any, layer: str, side: int) -> Callable[[int], None]:
    """DeepDream as tutorials write it: a compiled step on the whole picture, its gradient over its mean size, in a loop."""
    import keras
    import tensorflow as tf

    model = getattr(keras.applications, type_of(net))(weights=None, include_top=False, input_shape=(None, None, 3))
    part = keras.Model(model.input, model.get_layer(layer).output)
    picture = tf.random.stateless_uniform((1, side, side, 3), (0, 0), -1.0, 1.0)

    @tf.function
    def step(picture: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(picture)
            loss = tf.reduce_mean(tf.square(part(picture, training=False)[:, 2:-2, 2:-2]))
        gradient = tape.gradient(loss, picture)
        return loss, picture + 0.01 * gradient / tf.maximum(tf.reduce_mean(tf.abs(gradient)), 1e-6)

    def run(steps: int) -> None:
        nonlocal picture
        for _ in range(steps):
            loss, picture = step(picture)
            float(loss)

    return run


def type_of(net: Any) -> str:
    """What keras.applications calls a network."""
    return "VGG16" if "vgg" in net.name.lower() else "MobileNetV2"


def show_step(rounds: int) -> None:
    """The table `step`."""
    cases: dict[str, dict[str, Any]] = {"dream": {"levels": 3}, "class": {"levels": 4, "sigma": 0.44}}
    print(f"{'a step over bare passes':<34}{'tiles':>6}{'bare s':>9}{'dream':>9}{'class':>9}{'plain':>9}")
    for source, layer in CASES:
        net = network(source, layer == "logits")
        for tiles in (1, 4):
            side = 224 * (1 if tiles == 1 else 2)
            runs = {"bare": bare(net, layer, tiles)}
            runs |= {name: dreamer(net, layer, side, tiles, **keys) for name, keys in cases.items()}
            if layer != "logits":  # with its classes, a network takes pictures of one size
                runs["plain"] = plain(net, layer, side)
            seconds = in_turns(runs, 4, rounds)
            bares = seconds.pop("bare")
            ratios = [statistics.median(a / b for a, b in zip(ours, bares, strict=True)) for ours in seconds.values()]
            label = f"{type_of(net)} {layer}"
            print(
                f"{label:<34}{tiles:>6}{statistics.median(bares):>9.3f}" + "".join(f"{r:>9.2f}" for r in ratios),
                flush=True,
            )


def show_memory(weights: Path | None) -> None:
    """The table `memory`."""
    import cv2
    import numpy as np

    print(f"{'picture':<16}{'peak MB':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for height, width in SIZES:
            picture = Path(folder) / f"{width}x{height}.png"
            small = np.random.default_rng(0).integers(0, 256, (height // 50, width // 50, 3), np.uint8)
            cv2.imwrite(str(picture), cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))
            arguments = [str(picture), str(weights or "none"), f"{folder}/{width}"]
            finished = subprocess.run([sys.executable, "-c", _JOB, *arguments], capture_output=True, text=True, check=True)
            print(f"{f'{width} x {height}':<16}{int(finished.stdout.split()[-1]) / 1e3:>9.0f}", flush=True)


def main() -> None:
    """Print the tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--weights", type=Path)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--only", default="step,memory")
    given = options.parse_args()
    if "step" in given.only:
        show_step(given.rounds)
    if "memory" in given.only:
        show_memory(given.weights)


if __name__ == "__main__":
    main()
