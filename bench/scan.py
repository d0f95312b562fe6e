"""The scan beside the bare network: images/s, interleaved, in one process.

    python -m bench.scan [--rounds N]

The yardstick is the same Keras model, called through tf.function on batches that lie in memory, with nothing
read from it. Ours taps layers of it, takes every channel's spatial maximum, fills the heaps and the
statistics, and finds the places of what enters. A ratio of 1 means that looking costs nothing. Ratios are
medians over rounds in which both run in turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@dataclass(frozen=True)
class Case:
    """A network and how it is read."""

    title: str
    source: str
    layers: tuple[str, ...]
    batch: int
    batches: int  # in a round


CASES = (
    Case(
        "MobileNetV2 224, 4 layers",
        "keras:MobileNetV2",
        ("block_1_expand_relu", "block_3_expand_relu", "block_6_expand_relu", "out_relu"),
        32,
        4,
    ),
    Case(
        "ResNet50 224, 4 layers",
        "keras:ResNet50",
        ("conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out"),
        16,
        2,
    ),
    Case(
        "CIFAR-10 network, conv1 and conv2",
        f"file:{resources.files('jobs') / 'shipped/cifar10.keras'}",
        ("conv1", "conv2"),
        256,
        4,
    ),
)


def measure(case: Case, rounds: int) -> tuple[float, float, float]:
    """Images/s of the bare network and of the scan (medians), and the median of their ratios."""
    import numpy as np
    import tensorflow as tf

    from pipeline.activations.scan import Plan, Tap, learn
    from pipeline.models.opening import open_network, select_layers
    from pipeline.sections.model import ModelSpec

    weights = {} if case.source.startswith("file:") else {"weights": "none"}
    spec = ModelSpec(source=case.source, layers=list(case.layers), **weights)
    network = open_network(spec)
    height, width, _ = network.input_shape
    images = np.random.default_rng(0).integers(0, 256, (case.batches, case.batch, height, width, 3), np.uint8)

    model = network.model  # the yardstick is the Keras model itself
    bare = tf.function(lambda pixels: model(tf.cast(pixels, tf.float32), training=False), jit_compile=False)
    plan = Plan(tuple(select_layers(network, case.layers)), None, 9, case.batch)
    tap = Tap(network, plan)
    part, seen = plan.empty(), 0

    def run_bare() -> None:
        for batch in images:
            bare(tf.constant(batch)).numpy()

    def run_ours() -> None:
        nonlocal part, seen
        for batch in images:
            part = learn(part, tap.forward(batch), np.arange(seen, seen + case.batch))
            seen += case.batch

    for warm_up in (run_bare, run_ours, run_ours):
        warm_up()
    count = case.batches * case.batch
    pairs = [(count / _seconds(run_bare), count / _seconds(run_ours)) for _ in range(rounds)]
    ratio = statistics.median(ours / yardstick for yardstick, ours in pairs)
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs), ratio


def _seconds(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=9)
    rounds = options.parse_args().rounds
    print(f"{'network':<36}{'batch':>6}{'bare images/s':>16}{'scan images/s':>16}{'ratio':>8}")
    for case in CASES:
        bare, ours, ratio = measure(case, rounds)
        print(f"{case.title:<36}{case.batch:>6}{bare:>16.1f}{ours:>16.1f}{ratio:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
