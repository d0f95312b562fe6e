"""How long directions take to find: CPU seconds of each method on vectors that are sparse sums of atoms, and what they explain.

python -m bench.directions [--vectors 100000] [--channels 1280] [--methods pca64 nmf64 …]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from pipeline.ascent.checkpoint import Checkpoint
from pipeline.directions.autoencoder import Training, train_directions
from pipeline.directions.fitting import SetPlan, explained, fit_directions
from pipeline.store.direction_sets import DirectionSet

_METHODS = ("pca64", "ica64", "nmf64", "kmeans64", "topk512", "jumprelu512")


def vectors_of(count: int, channels: int, seed: int = 0) -> np.ndarray:
    """Non-negative vectors, each a sum of a few of 2 x `channels` sparse atoms and noise: float32 (count, channels)."""
    random = np.random.default_rng(seed)
    atoms = random.exponential(size=(2 * channels, channels)) * (random.random((2 * channels, channels)) < 0.1)
    vectors = np.empty((count, channels), np.float32)
    for first in range(0, count, 4096):
        rows = vectors[first : first + 4096]
        weights = random.exponential(size=(len(rows), 2 * channels)) * (random.random((len(rows), 2 * channels)) < 0.01)
        rows[:] = np.maximum(weights @ atoms + random.normal(0, 0.05, rows.shape), 0)
    return vectors


def fitted(name: str, vectors: np.ndarray) -> DirectionSet:
    """One set of directions, with the stage's defaults."""
    plan = SetPlan("layer", name, "")
    if plan.method not in ("topk", "jumprelu"):
        return fit_directions(plan, vectors)
    with tempfile.TemporaryDirectory() as folder:
        return train_directions(plan, vectors, Training(16, 2000), Checkpoint(Path(folder) / "training.npz", 1e9))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--channels", type=int, default=1280)
    parser.add_argument("--methods", nargs="+", default=_METHODS)
    options = parser.parse_args()
    vectors = vectors_of(options.vectors, options.channels)
    print(f"{options.vectors:,} vectors of {options.channels:,} channels")
    print("| set | CPU seconds | seconds | explained | dead |")
    print("|---|---|---|---|---|")
    for name in options.methods:
        began, clock = time.process_time(), time.perf_counter()
        directions = fitted(name, vectors)
        cpu, wall = time.process_time() - began, time.perf_counter() - clock
        part = vectors[:: max(1, len(vectors) // 10_000)]
        dead = int((directions.respond(part) == 0).all(axis=0).sum())
        print(f"| {name} | {cpu:.0f} | {wall:.0f} | {explained(directions, part):.3f} | {dead} |", flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
