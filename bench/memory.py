"""Peak memory of the main job as its data grow: 5,000 and 50,000 examples, each in a process of its own.

    python -m bench.memory [--data-dir DIR]

With --data-dir, a folder of prepared TensorFlow Datasets, the data are CIFAR-10's training images; without,
windows over the photographs that come inside scikit-image.
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
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "jobs", "run", *job, "--set", f"data.limit={examples}", "--out", out]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(process.stderr.read().decode() if process.stderr else "the job failed")
        return time.perf_counter() - started, usage.ru_maxrss / 1e3


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data-dir")
    data_dir = options.parse_args().data_dir
    print(f"{'examples':>10}{'seconds':>10}{'peak MB':>10}{'of the first':>14}")
    first = 0.0
    for examples in SIZES:
        seconds, megabytes = measure(examples, data_dir)
        first = first or megabytes
        print(f"{examples:>10,}{seconds:>10.1f}{megabytes:>10.0f}{megabytes / first:>14.3f}", flush=True)


if __name__ == "__main__":
    main()
