"""What reduced precision brings and what it changes: the scan in bfloat16 or float16 beside the scan in float32.

    python -m bench.precision [--precision NAME] [--rounds N] [--photos DIR --mobilenet FILE] [--cifar DIR]

Speeds are those of bench.scan's networks over images in memory, interleaved, medians over rounds. Then, for the data
that bench.endtoend finds, layer by layer: which share of the winners in float32 are winners in the other precision too,
and by how much the scores of those moved, in the median.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.endtoend import cases, naming, opened
from bench.scan import CASES, WARM_UP, Case, InMemory, Scanning
from pipeline.run import start_tensorflow

if TYPE_CHECKING:
    from pipeline.activations import Activations


def speeds(case: Case, precision: str, rounds: int) -> dict[str, list[float]]:
    """Images/s in float32 and in the other precision, round by round. Raises: WrongSpec, where it cannot be had."""
    network = case.open()
    plan, images = case.plan(network), case.images(network, rounds)
    scans = {name: Scanning(network, replace(plan, precision=name), InMemory(images)) for name in ("float32", precision)}
    actual: dict[str, list[float]] = {name: [] for name in scans}
    for _ in range(rounds + WARM_UP):
        for name, scanning in scans.items():
            actual[name].append(scanning.rate())
    return {name: rates[WARM_UP:] for name, rates in actual.items()}


def winners(tree: dict[str, Any], precision: str) -> dict[str, tuple[Activations, Activations]]:
    """By layer, the heaps of a whole data set in float32 and in the other precision."""
    from pipeline.activations.heap_members import Strongest
    from pipeline.activations.scan import scan

    job, plan = opened(tree)
    plans = (replace(plan, precision=name) for name in ("float32", precision))
    full, other = (scan(job.network, job.source, each)[0].of(Strongest) for each in plans)
    return {name: (full[name].heap, other[name].heap) for name in full}


def compare(full: Activations, other: Activations) -> tuple[float, float]:
    """The share of the winners that stay winners, and by how much their scores moved, in the median."""
    moved, places = [], 0
    for examples, scores, others, changed in zip(full.examples, full.scores, other.examples, other.scores, strict=True):
        by_example = dict(zip(others.tolist(), changed.tolist(), strict=True))
        for example, score in zip(examples.tolist(), scores.tolist(), strict=True):
            places += 1
            if example in by_example:
                moved.append(abs(by_example[example] - score) / max(abs(score), 1e-9))
    return len(moved) / places, statistics.median(moved)


def main() -> None:
    """Print both tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--precision", choices=("bfloat16", "float16"), default="bfloat16")
    options.add_argument("--rounds", type=int, default=5)
    naming(options)
    chosen = options.parse_args()
    start_tensorflow()
    from pipeline.errors import WrongSpec

    print(f"{'images/s':<36}{'float32':>10}{chosen.precision:>10}{'ratio':>8}")
    for case in CASES:
        try:
            actual = speeds(case, chosen.precision, chosen.rounds)
        except WrongSpec as error:
            print(f"{case.title:<36}{error}")
            continue
        ratio = statistics.median(a / b for a, b in zip(actual[chosen.precision], actual["float32"], strict=True))
        medians = "".join(f"{statistics.median(rates):>10.1f}" for rates in actual.values())
        print(f"{case.title:<36}{medians}{ratio:>8.2f}", flush=True)
    for title, tree in cases(chosen):
        for layer, pair in winners(tree, chosen.precision).items():
            kept, moved = compare(*pair)
            print(f"{title}, {layer}: {kept:.1%} of the winners stay, their scores moved by {moved:.2%}", flush=True)


if __name__ == "__main__":
    main()
