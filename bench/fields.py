"""Receptive fields by probes, beside the bare forward pass of as many images, and from the cache the second time.

    python -m bench.fields [--model SOURCE] [--weights FILE] [--layers GLOB ...] [--rounds N] [--cpu]

Without arguments: the 13 convolutions of VGG16 at 224 x 224, with the weights vgg16_notop.weights.h5 below CONVSCOPE_REAL
or, where that is not set, random ones. The bare pass runs the same graph up to the deepest layer, as many batches of the same
size, and nothing is read from it but that layer's map. Figures are medians over rounds in which both run in turn. Compiling is
part of solving, and not of the bare pass. With --cpu, seconds are those of all threads on the CPU, not of the clock: for
machines that do other work at the same time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pipeline.models.network import LayerInfo, Network

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def opened(model: str, weights: str, layers: list[str]) -> tuple[Network, list[LayerInfo]]:
    """A network without its classifier, and some of its layers."""
    from pipeline.models.registry import open_network, select_layers
    from pipeline.spec.model import ModelSpec

    network = open_network(ModelSpec(source=model, weights=weights, top=False, layers=layers))
    return network, select_layers(network, layers)


def forward(network: Network, layers: list[LayerInfo], batch: int) -> Callable[[int], None]:
    """The bare pass to the deepest layer: runs as many batches as asked for."""
    import tensorflow as tf

    from pipeline.compiled.freezing import freeze

    height, width, channels = network.input_shape
    spec, last = tf.TensorSpec((batch, height, width, channels), tf.float32), layers[-1].name
    run = freeze(lambda images: network.trace(images, [last])[last], spec)
    images = np.random.default_rng(0).standard_normal(spec.shape, np.float32)
    run(images)

    def batches(count: int) -> None:
        for _ in range(count):
            run(images).numpy()

    return batches


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    real = Path(os.environ.get("CONVSCOPE_REAL", "")) / "vgg16_notop.weights.h5"
    options.add_argument("--model", default="keras:VGG16")
    options.add_argument("--weights", default=str(real) if "CONVSCOPE_REAL" in os.environ and real.exists() else "none")
    options.add_argument("--layers", nargs="+", default=["block*_conv*"])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--cpu", action="store_true")
    chosen = options.parse_args()
    clock = time.process_time if chosen.cpu else time.perf_counter
    from pipeline.run import start_tensorflow

    start_tensorflow()
    from pipeline.fields import FieldCache, solve_in_groups

    network, layers = opened(chosen.model, chosen.weights, chosen.layers)
    with tempfile.TemporaryDirectory() as folder:
        cache = FieldCache(network.digest(), network.input_shape[:2], (Path(folder),))
        solving, passing, again = [], [], []
        for number in range(chosen.rounds):
            for path in Path(folder).glob("*.json"):
                path.unlink()
            began = clock()
            probes = 0
            batches: list[tuple[list[str], int, int]] = []  # the layers of each group, images in a batch, and batches
            for group in solve_in_groups(network, layers, cache):
                field = next(iter(group.values()))
                probes, batches = probes + field.probes, [*batches, (list(group), field.batch, field.probes // field.batch)]
            solving.append(clock() - began)
            if number == 0:
                named = {layer.name: layer for layer in layers}
                passes = [(forward(network, [named[name] for name in names], batch), count) for names, batch, count in batches]
            began = clock()
            for run, count in passes:
                run(count)
            passing.append(clock() - began)
            began = clock()
            second = sum(next(iter(group.values())).probes for group in solve_in_groups(network, layers, cache))
            again.append(clock() - began)
    ratio = statistics.median(ours / bare for ours, bare in zip(solving, passing, strict=True))
    seconds = [statistics.median(times) for times in (solving, passing, again)]
    print(f"{'':<24}{'layers':>8}{'groups':>8}{'probes':>8}{'seconds':>9}{'bare pass':>11}{'ratio':>7}{'again':>9}{'probes':>8}")
    print(f"{network.name:<24}{len(layers):>8}{len(batches):>8}{probes:>8}{seconds[0]:>9.2f}", end="")
    print(f"{seconds[1]:>11.2f}{ratio:>7.2f}{seconds[2]:>9.3f}{second:>8}")


if __name__ == "__main__":
    main()
