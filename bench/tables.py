"""What the tables cost: the scan with its distributions beside the scan without, interleaved, in one process.

    python -m bench.tables [--rounds N]

The distributions are what index/channels.parquet tells beyond mean and deviation: histograms and quantiles, mean responses
by label, and the sample for twin channels. A ratio of 0.97 means that they cost 3%. Labelled images, ten labels.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
from unittest import mock

import numpy as np

from bench.scan import CASES, WARM_UP, Case, InMemory, Scanning
from pipeline.run import start_tensorflow


class Labelled(InMemory):
    """The same source with labels."""

    def grow(self) -> np.ndarray:
        import tensorflow as tf

        images = super().grow()
        labels = np.array([f"label {number % 10}".encode() for number in range(len(images))])
        self._stream = tf.data.Dataset.zip((self._stream, tf.data.Dataset.from_tensor_slices(labels))).map(
            lambda columns, label: {**columns, "label": label}
        )
        return images


def measure(case: Case, rounds: int) -> dict[str, list[float]]:
    """Images/s with and without distributions, round by round."""
    from pipeline.activations.distribution import Distribution
    from pipeline.activations.scan_pass import ScanPass

    network = case.open()
    plan, images = case.plan(network), case.images(network, rounds)
    scan_pass = ScanPass(network, plan)
    # Each way has a source of its own, whose images are the same.
    scans = {way: Scanning(network, plan, Labelled(images), scan_pass) for way in ("with", "without")}
    actual: dict[str, list[float]] = {way: [] for way in scans}
    for number in range(rounds + WARM_UP):
        for way in sorted(scans, reverse=number % 2 == 1):
            off = (
                mock.patch.object(Distribution, "update", lambda distribution, responses: distribution)
                if way == "without"
                else contextlib.nullcontext()
            )
            with off:
                actual[way].append(scans[way].rate())
    return {way: speeds[WARM_UP:] for way, speeds in actual.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    start_tensorflow()
    print(f"{'':36} {'without':>10} {'with':>10} {'ratio':>7}   images/s, medians of {options.rounds} interleaved rounds")
    for case in CASES:
        actual = measure(case, options.rounds)
        ratio = statistics.median(a / b for a, b in zip(actual["with"], actual["without"], strict=True))
        medians = {way: statistics.median(speeds) for way, speeds in actual.items()}
        print(f"{case.title:36} {medians['without']:10.1f} {medians['with']:10.1f} {ratio:7.3f}", flush=True)


if __name__ == "__main__":
    main()
