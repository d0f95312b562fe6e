"""The scan against OpenVINO: its forward pass with the same four spatial maxima, and the scan's own graph, in images/s.

    python -m bench.openvino [--python ENV/bin/python] [--mobilenet FILE] [--precisions P ...] [--rounds N] [--cpu]

OpenVINO need not be in this environment: --python names the interpreter of one that has it. It runs there, in a process of
its own, over random images in memory. "maxima" are the spatial maxima alone, of whole batches by all cores or of micro-batches
in a stream for each core, whichever is faster: no values before a clamp, no positions, no heaps, no statistics. "same graph" is
all that a scan has TensorFlow compute, with thresholds as after the warm-up: as an engine for scans, OpenVINO would run that,
and something would still have to fill the heaps. "scan" is that of `bench.scan`, heaps included. In each round all run in turn;
figures are medians over rounds, ratios medians of the rounds' ratios. --mobilenet names MobileNetV2's weights; without it, and
for ResNet50, they are random, batch normalisation included: biases of zero would be left out. With --cpu, seconds are CPU
seconds of all threads, for machines that do other work at the same time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.scan import CASES, TOP_K, WARM_UP, Case, InMemory, Scanning
from bench.yardsticks import keras_model
from pipeline.run import start_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

    from pipeline.models.network import Network

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
MICROBATCH = 4

# Runs in the other interpreter: compiles every graph, keeps the faster, and then measures whenever it is given a line.
_WORKER = """
import sys, time, json
import numpy as np
try:
    import openvino
except ImportError:
    sys.exit(3)
given = json.loads(sys.argv[1])
clock, core, ways = getattr(time, given["clock"]), openvino.Core(), []
for path, batch, streams in given["graphs"]:
    hint = "THROUGHPUT" if streams > 1 else "LATENCY"
    threads = {} if given["threads"] is None else {"INFERENCE_NUM_THREADS": given["threads"]}
    options = {"INFERENCE_PRECISION_HINT": given["precision"], "NUM_STREAMS": streams, "PERFORMANCE_HINT": hint} | threads
    compiled = core.compile_model(core.read_model(path), "CPU", options)
    ways.append((openvino.AsyncInferQueue(compiled, streams), batch))
rng = np.random.default_rng(0)
images = {batch: rng.integers(0, 256, (batch, *given["shape"]), np.uint8) for _, batch in ways}
def rate(queue, batch):
    started = clock()
    for _ in range(given["images"] // batch):
        queue.start_async({0: images[batch]})
    queue.wait_all()
    return given["images"] / (clock() - started)
rates = [max([rate(*way) for _ in range(3)][1:]) for way in ways]
fastest = ways[rates.index(max(rates))]
print(core.get_property("CPU", "FULL_DEVICE_NAME"), flush=True)
for line in sys.stdin:
    print(rate(*fastest), flush=True)
"""


class OpenVino:
    """OpenVINO's pass in a process of its own."""

    def __init__(self, python: str, given: dict[str, object]) -> None:
        self._process = subprocess.Popen(
            [python, "-I", "-c", _WORKER, json.dumps(given)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if not self._read() and self._process.wait() == 3:
            sys.exit(
                f"{python} has no openvino. Install it in an environment of its own (python -m venv ENV; ENV/bin/pip install "
                "openvino) and name that: --python ENV/bin/python"
            )

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def rate(self) -> float:
        """Images/s of another round."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        self._process.communicate()


def opened(case: Case, weights: str | None) -> Network:
    """The network of a case with these weights, or with random ones and random statistics of batch normalisation."""
    if weights is not None:
        from pipeline.models.registry import open_network
        from pipeline.spec.model import ModelSpec

        spec = {"source": case.source, "layers": list(case.layers), "weights": weights}
        return open_network(ModelSpec.model_validate(spec))
    network, random = case.open(), np.random.default_rng(0)
    for variable in keras_model(network).weights:
        if "kernel" not in variable.path:
            variable.assign(np.asarray(variable) + random.uniform(0.01, 0.1, variable.shape))
    return network


def frozen(path: Path, function: Callable[[tf.Tensor], Any], network: Network, batch: int, streams: int) -> tuple[str, int, int]:
    """A function of a batch of uint8 pixels as a file: (file, images in a batch, batches at a time)."""
    from pipeline.compiled.compile import network_input
    from pipeline.compiled.freezing import FrozenGraph

    path.write_bytes(FrozenGraph.of(function, network_input(network, batch)).graph.SerializeToString())
    return str(path), batch, streams


def maxima_graphs(case: Case, network: Network, folder: str) -> list[tuple[str, int, int]]:
    """Frozen graphs of the layers' maxima, as `frozen` gives them: of a micro-batch for each core, and of a whole batch."""
    import tensorflow as tf

    from pipeline.hardware import cores

    def maxima(images: tf.Tensor) -> list[tf.Tensor]:
        maps = network.trace(network.preprocess(images), case.layers)
        return [tf.reduce_max(maps[layer], axis=[1, 2]) for layer in case.layers]

    ways = ((MICROBATCH, cores()), (case.batch, 1))
    return [frozen(Path(folder, f"maxima-{batch}.pb"), maxima, network, batch, streams) for batch, streams in ways]


def scan_graph(scan: Scanning, case: Case, network: Network, folder: str) -> list[tuple[str, int, int]]:
    """The graph of the scan's micro-batches, as `frozen` gives it, with the thresholds that the scan has reached."""
    import tensorflow as tf

    from pipeline.activations.scan_pass import ScanPass
    from pipeline.hardware import cores

    scan_pass, thresholds = ScanPass(network, scan.plan), scan.part.thresholds(np.full(case.batch, -1))
    edges = [edge[:1] for layer in case.layers for edge in (thresholds[layer].floor, thresholds[layer].ceiling)]

    def scanned(images: tf.Tensor) -> list[tf.Tensor]:
        return tf.nest.flatten(scan_pass.of_microbatch()(images, tf.constant(0, tf.int64), *map(tf.constant, edges)))

    return [frozen(Path(folder, "scan.pb"), scanned, network, scan_pass.size, cores())]


def measure(case: Case, network: Network, chosen: argparse.Namespace) -> dict[tuple[str, str], list[float]]:
    """Images/s by program and precision, round by round."""
    from pipeline.hardware import cores

    images, plan = case.images(network, chosen.rounds), case.plan(network)
    clock = "process_time" if chosen.cpu else "perf_counter"
    ours: Callable[[], float] = getattr(time, clock)
    with tempfile.TemporaryDirectory() as folder:
        scans = {name: Scanning(network, replace(plan, precision=name), InMemory(images)) for name in chosen.precisions}
        warm = Scanning(network, plan, InMemory(images))
        for _ in range(WARM_UP):
            warm.rate()
        given = {
            "shape": network.input_shape,
            "images": case.batch * case.batches,
            "threads": cores(),
            "clock": clock,
        }
        graphs = {"maxima": maxima_graphs(case, network, folder), "same graph": scan_graph(warm, case, network, folder)}
        others = {
            (way, name): OpenVino(chosen.python, given | {"graphs": of_way, "precision": PRECISIONS[name]})
            for way, of_way in graphs.items()
            for name in chosen.precisions
        }
        rates: dict[tuple[str, str], list[float]] = {}
        for _ in range(chosen.rounds + WARM_UP):
            for name in chosen.precisions:
                rates.setdefault(("scan", name), []).append(scans[name].rate(ours))
                for way in graphs:
                    rates.setdefault((way, name), []).append(others[way, name].rate())
        for other in others.values():
            other.close()
    return {key: values[WARM_UP:] for key, values in rates.items()}


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--python", default=sys.executable, help="the interpreter of an environment that has openvino")
    options.add_argument("--mobilenet", help="MobileNetV2's weights")
    options.add_argument("--precisions", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--cpu", action="store_true")
    chosen = options.parse_args()
    start_tensorflow()
    columns = ("scan", "maxima", "same graph", "scan/maxima", "scan/same", "over float32")
    print(f"{f'images/s, k = {TOP_K}':<28}{'precision':>10}" + "".join(f"{name:>13}" for name in columns), flush=True)
    for case in CASES[:2]:
        network = opened(case, chosen.mobilenet if case is CASES[0] else None)
        rates = measure(case, network, chosen)
        for name in chosen.precisions:
            scan, *others = (rates[way, name] for way in ("scan", "maxima", "same graph"))
            beside = [*others, *([rates["scan", "float32"]] if "float32" in chosen.precisions else [])]
            ratios = [statistics.median(a / b for a, b in zip(scan, each, strict=True)) for each in beside]
            speeds = "".join(f"{statistics.median(of_way):>13.1f}" for of_way in (scan, *others))
            print(f"{case.title:<28}{name:>10}{speeds}" + "".join(f"{ratio:>13.2f}" for ratio in ratios), flush=True)


if __name__ == "__main__":
    main()
