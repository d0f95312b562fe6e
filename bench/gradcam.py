"""GradCAM beside the bare network and beside tf-keras-vis: images/s, interleaved, in one process.

    python -m bench.gradcam [--rounds N] [--batch N] [--network NAME]

The yardsticks are the same Keras model: called through tf.function with nothing read from it, and given to
tf-keras-vis, which explains the same images and classes at the same layer. The two maps are compared with their
signs, as convscope keeps them: tf-keras-vis drops what speaks against the class unless it is told not to. Where they
differ by more than 1e-3 of the peak, the program exits 1. Weights are random, which takes no other time. Ratios are
medians over rounds in which all run in turn; a ratio of 1 to the bare network means that explaining costs nothing.
Last comes the memory that the process had at most, for half the batch and for the whole.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

LARGEST = 1e-3  # difference, of the map's peak


def measure(name: str, batch: int, rounds: int) -> dict[str, list[float]]:
    """Seconds a batch, round by round, of each contestant."""
    import numpy as np
    import tensorflow as tf
    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.utils.scores import CategoricalScore

    from bench.yardsticks import keras_model
    from pipeline.attribution.explanation_graph import trace_explanations
    from pipeline.attribution.methods import METHODS
    from pipeline.attribution.plan import ExplainPlan
    from pipeline.attribution.targets import Classes, ClassTarget
    from pipeline.compiled.graph_walk import last_convolution
    from pipeline.models.registry import open_network
    from pipeline.spec.model import ModelSpec

    network = open_network(ModelSpec(source=f"keras:{name}", weights="none", layers=["*"], preprocess="none"))
    layer = last_convolution(network).name
    images = np.random.default_rng(0).integers(0, 256, (batch, *network.input_shape), np.uint8)
    pixels, classes = images.astype(np.float32), np.arange(batch, dtype=np.int32) % 1000
    model = keras_model(network)
    bare = tf.function(lambda pixels: model(tf.cast(pixels, tf.float32), training=False), jit_compile=False)
    theirs, scores = Gradcam(model, clone=False), CategoricalScore(classes.tolist())

    def run_theirs() -> np.ndarray:
        return theirs(
            scores,
            pixels,
            penultimate_layer=layer,
            seek_penultimate_conv_layer=False,
            activation_modifier=None,
            expand_cam=False,
            normalize_cam=False,
        )

    def compiled(size: int) -> Callable[[], np.ndarray]:
        plan = ExplainPlan.of([METHODS["gradcam"]], [layer], [ClassTarget(Classes(1000, None), "predicted")], size)
        graph = trace_explanations(network, plan)
        return lambda: graph.run(images[:size], classes[:size, np.newaxis], plan.quantities).values[plan.quantities[0]]

    compiled(batch // 2)()
    print(f"{'peak memory, GradCAM of ' + str(batch // 2):<36}{_peak():>8.2f} GB")
    run = compiled(batch)
    contestants: dict[str, Callable[[], object]] = {
        "bare network": lambda: bare(tf.constant(images)).numpy(),
        "GradCAM": run,
        "tf-keras-vis": run_theirs,
    }
    ours = run()[:, 0]
    print(f"{'peak memory, GradCAM of ' + str(batch):<36}{_peak():>8.2f} GB")
    difference = np.abs(ours - np.asarray(run_theirs())).max() / np.abs(ours).max()
    print(f"{'largest difference of the two maps':<36}{difference:>8.1e} of the peak")
    if difference > LARGEST:
        raise SystemExit(1)
    for contestant in contestants.values():
        contestant()
    timings: dict[str, list[float]] = {title: [] for title in contestants}
    for _ in range(rounds):
        for title, contestant in contestants.items():
            started = time.perf_counter()
            contestant()
            timings[title].append(time.perf_counter() - started)
    return timings


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--network", default="ResNet50")
    chosen = options.parse_args()
    timings = measure(chosen.network, chosen.batch, chosen.rounds)
    print(f"{chosen.network + f', batch {chosen.batch}':<20}{'images/s':>12}{'GradCAM is':>16}")
    for title, seconds in timings.items():
        ratio = statistics.median(theirs / ours for theirs, ours in zip(seconds, timings["GradCAM"], strict=True))
        print(f"{title:<20}{chosen.batch / statistics.median(seconds):>12.1f}{ratio:>11.2f} times")


if __name__ == "__main__":
    main()
