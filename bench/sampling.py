"""What the sample behind neighbours and twins costs a scan: images/s with it, of those without, in turn over the same images.

python -m bench.sampling [--rounds N]

Seconds are CPU seconds of all threads. A round's ratio includes the neighbours themselves, found once after the scan of 5,000
images: their seconds are added for as many images as a round has.
"""

from __future__ import annotations

import argparse
import statistics
import time
from unittest import mock

import numpy as np

from bench.scan import CASES, WARM_UP, Case, InMemory, Scanning
from pipeline.activations.distribution import Distribution
from pipeline.activations.neighbours import neighbour_columns
from pipeline.run import start_tensorflow

IMAGES = 5_000  # of a job, over which the search for neighbours is spread


def measure(case: Case, rounds: int) -> tuple[list[float], float]:
    """The share of its speed that the scan keeps, round by round; and the seconds of the search for neighbours."""
    network = case.open()
    plan, images = case.plan(network), case.images(network, rounds)
    with_sample, without = (Scanning(network, plan, InMemory(images)) for _ in range(2))
    shares, search = [], 0.0
    for number in range(rounds + WARM_UP):
        with mock.patch.object(Distribution, "_with_sample", lambda self, order, sample: self):
            bare = without.rate(time.process_time)
        sampling = with_sample.rate(time.process_time)
        if number == WARM_UP - 1:
            started = time.process_time()
            neighbour_columns(with_sample.part, {layer.name: np.arange(layer.channels) for layer in plan.layers})
            search = time.process_time() - started
        if number >= WARM_UP:
            shares.append(1 / bare / (1 / sampling + search / IMAGES))
    return shares, search


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    start_tensorflow()
    print("| network | speed kept, median | least | most | search for neighbours, s |")
    print("|---|---|---|---|---|")
    for case in CASES:
        shares, search = measure(case, options.rounds)
        print(
            f"| {case.title} | {statistics.median(shares):.3f} | {min(shares):.3f} | {max(shares):.3f} | {search:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
