"""The scan compared with the bare network and with other programs: images/s, interleaved, in one process.

    python -m bench.scan [--rounds N] [--cpu]

The yardstick, "bare", is the same Keras model, called through tf.function on batches in memory, without reading any layer.
"scan" is the scan of the main job over the same images: it reads layers, computes every channel's spatial maximum,
updates heaps and statistics, and finds the positions of new winners. At a ratio of 1 all of this costs nothing.
"seed" copies maps to the host, where one object for each channel keeps images; "heaps" is a better version, whose objects
have heaps and keep only the images that enter them; "predict" is Keras' predict with NumPy. In every round all of them run
in turn; figures are medians over rounds. No image is repeated, and the heaps persist from round to round, as in a job. With
--cpu, seconds are CPU seconds of all threads instead of wall-clock seconds, for machines that do other work at the same
time; that favours single-threaded programs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from bench.yardsticks import as_the_seed, bare, keras_model, predict_and_numpy, with_heaps
from pipeline.run import start_tensorflow
from pipeline.sources.decode import DEFAULT_DECODER, Decoder
from pipeline.sources.record_batches import without_autotune
from pipeline.sources.source import Image, Shard

if TYPE_CHECKING:
    import tensorflow as tf

    from pipeline.activations.plan import ScanPlan
    from pipeline.activations.scan_pass import ScanPass
    from pipeline.models.network import Network

TOP_K = 9
WARM_UP = 2  # rounds that are not counted: compiling, and heaps that nothing has entered

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@dataclass(frozen=True)
class Case:
    """A network and how it is read."""

    title: str
    source: str
    layers: tuple[str, ...]
    batch: int
    batches: int  # in a round

    def open(self) -> Network:
        """The network; one of keras.applications with random weights."""
        from pipeline.models.registry import open_network
        from pipeline.spec.model import ModelSpec

        weights = {} if self.source.startswith("file:") else {"weights": "none"}
        return open_network(ModelSpec.model_validate({"source": self.source, "layers": list(self.layers), **weights}))

    def plan(self, network: Network) -> ScanPlan:
        """What a scan of it keeps."""
        from pipeline.activations.plan import ScanPlan
        from pipeline.models.registry import select_layers

        return ScanPlan(tuple(select_layers(network, self.layers)), None, TOP_K, self.batch)

    def images(self, network: Network, rounds: int) -> np.ndarray:
        """Random images for so many rounds and those that are not counted: uint8 (rounds, images, height, width, 3)."""
        shape = (rounds + WARM_UP, self.batches * self.batch, *network.input_shape[:2], 3)
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


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
        64,
    ),
)


@dataclass
class InMemory:
    """A source whose examples are all there; it grows by a round's images at a time."""

    rounds: np.ndarray
    grown: int = 0
    labels: list[str] | None = None
    decoder: Decoder = DEFAULT_DECODER

    def grow(self) -> np.ndarray:
        """Another round's images: uint8 (images, height, width, 3)."""
        import tensorflow as tf

        images, first = self.rounds[self.grown], len(self)
        self.grown += 1
        none = np.full(len(images), b"")
        columns = {"example": np.arange(first, len(self)), "key": none, "label": none, "image": images, "error": none}
        self._stream = without_autotune(tf.data.Dataset.from_tensor_slices(columns))
        return images

    def __len__(self) -> int:
        return self.grown * self.rounds.shape[1]

    def digest(self, count: int | None = None) -> str:
        return ""

    def stream(self, shard: Shard, start: int = 0) -> tf.data.Dataset:
        """The latest round's images: what came before was scanned before."""
        return self._stream

    def touch(self) -> None:
        """Read a first image: a job starts its stream once, and these would start one a round."""
        next(iter(self._stream.batch(1)))

    def find(self, key: str) -> int | None:
        raise NotImplementedError

    def fetch(self, examples: Iterable[int]) -> Iterator[tuple[int, Image]]:
        raise NotImplementedError


class Scanning:
    """A scan that goes on from round to round."""

    def __init__(self, network: Network, plan: ScanPlan, source: InMemory, scan_pass: ScanPass | None = None) -> None:
        from pipeline.activations.part import Part
        from pipeline.activations.scan_pass import ScanPass

        self._network, self.plan, self.source = network, plan, source
        self._pass, self.part = scan_pass or ScanPass(network, plan), Part.empty(plan)

    def rate(self, clock: Callable[[], float] = time.perf_counter) -> float:
        """Images/s of another round."""
        from pipeline.activations.scan import ScanSession, scan

        images = self.source.grow()
        self.source.touch()
        started = clock()
        self.part, _ = scan(self._network, self.source, self.plan, session=ScanSession(begun=self.part, scan_pass=self._pass))
        return len(images) / (clock() - started)


def measure(case: Case, rounds: int, clock: Callable[[], float] = time.perf_counter) -> dict[str, list[float]]:
    """Images/s of every way, round by round."""
    network = case.open()
    source = InMemory(case.images(network, rounds))
    scanning, model = Scanning(network, case.plan(network), source), keras_model(network)
    some = max(1, case.batches // 4)  # of the slow ways, which need not see all to be measured
    others = {
        "bare": (bare(model), case.batches),
        "seed": (as_the_seed(model, case.layers, TOP_K), some),
        "heaps": (with_heaps(model, case.layers, TOP_K), some),
        "predict": (predict_and_numpy(model, case.layers, TOP_K), some),
    }
    actual: dict[str, list[float]] = {name: [] for name in ("scan", *others)}
    for _ in range(rounds + WARM_UP):
        first, images = len(source), source.rounds[source.grown]
        actual["scan"].append(scanning.rate(clock))
        for name, (run, batches) in others.items():
            started = clock()
            for place in range(0, batches * case.batch, case.batch):
                run(images[place : place + case.batch], first + place)
            actual[name].append(batches * case.batch / (clock() - started))
    assert scanning.part.seen == len(source)
    return {name: speeds[WARM_UP:] for name, speeds in actual.items()}


def ratio(speeds: dict[str, list[float]], one: str, other: str) -> float:
    """The median, over rounds, of how many times as fast one way is as another."""
    return statistics.median(a / b for a, b in zip(speeds[one], speeds[other], strict=True))


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--cpu", action="store_true")
    chosen = options.parse_args()
    start_tensorflow()
    ways = ("bare", "scan", "predict", "heaps", "seed")
    print(f"{'images/s':<36}{'batch':>6}" + "".join(f"{way:>10}" for way in ways) + f"{'scan/bare':>12}{'scan/seed':>11}")
    for case in CASES:
        speeds = measure(case, chosen.rounds, time.process_time if chosen.cpu else time.perf_counter)
        medians = "".join(f"{statistics.median(speeds[way]):>10.1f}" for way in ways)
        ratios = f"{ratio(speeds, 'scan', 'bare'):>12.2f}{ratio(speeds, 'scan', 'seed'):>11.2f}"
        print(f"{case.title:<36}{case.batch:>6}{medians}{ratios}", flush=True)


if __name__ == "__main__":
    main()
