"""Peak memory of the main job as its data grow: 5,000 and 50,000 examples, each in a process of its own.

    python -m bench.memory [--data-dir DIR]
    python -m bench.memory --large [NAME] [--stages STAGE ...]

With --data-dir, a folder of prepared TensorFlow Datasets, the data are CIFAR-10's training images; without,
windows over the photographs that come inside scikit-image. With --large, a network of keras.applications, by default VGG16 with
random weights, goes through jobs of one stage each over four of those photographs, one by one, beside the size of its weights.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

SIZES = (5_000, 50_000)


def measure(examples: int, data_dir: str | None) -> tuple[float, float]:
    """Seconds and peak resident megabytes of one job."""
    if data_dir:
        job = ["cifar10", "--set", f"data.data_dir={data_dir}"]
    else:
        job = [
            "demo",
            "--set",
            "data.window.stride=10",
            "--set",
            'model.layers=["conv1", "conv2"]',
            "--set",
            "activations.top_k=5",
        ]
    return measure_job([*job, "--set", f"data.limit={examples}"])


def measure_job(job: list[str]) -> tuple[float, float]:
    """Seconds and peak resident megabytes of one job, by the words of its command line."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "jobs", "run", *job, "--out", out]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(process.stderr.read().decode() if process.stderr else "the job failed")
        return time.perf_counter() - started, usage.ru_maxrss / 1e3


def print_large(name: str, stages: list[str]) -> None:
    """A row for each stage."""
    import keras

    weights = getattr(keras.applications, name)(weights=None).count_params() * 4 / 1e6
    job = [f"keras:{name}", "sample:photos", "--set", "model.weights=none", "--set", "data.limit=4"]
    job += ["--set", "patterns.channels=[0]", "--set", "patterns.steps=4"]  # memory does not grow with them
    print(f"{name}: {weights:.0f} MB of weights\n{'stage':>14}{'seconds':>10}{'peak MB':>10}{'of weights':>12}")
    for stage in stages:
        seconds, megabytes = measure_job([*job, "--set", f'stages=["{stage}"]'])
        print(f"{stage:>14}{seconds:>10.1f}{megabytes:>10.0f}{megabytes / weights:>12.1f}", flush=True)


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data-dir")
    options.add_argument("--large", nargs="?", const="VGG16", metavar="NAME")
    options.add_argument("--stages", nargs="+", default=["gradcam", "featuremaps", "patterns"])
    asked = options.parse_args()
    if asked.large:
        print_large(asked.large, asked.stages)
        return
    data_dir = asked.data_dir
    print(f"{'examples':>10}{'seconds':>10}{'peak MB':>10}{'of the first':>14}")
    first = 0.0
    for examples in SIZES:
        seconds, megabytes = measure(examples, data_dir)
        first = first or megabytes
        print(f"{examples:>10,}{seconds:>10.1f}{megabytes:>10.0f}{megabytes / first:>14.3f}", flush=True)


if __name__ == "__main__":
    main()
