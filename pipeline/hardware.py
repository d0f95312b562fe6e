"""The machine: its cores, and how busy its GPUs are while something runs."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_EVERY = 1  # seconds between two samples


def cores() -> int:
    """The number of cores that this process may use, or that the machine has if the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class GpuUse:
    """busy: the mean share of time in which the visible GPUs were busy, 0 to 1; None where there is none."""

    busy: float | None = None


@contextmanager
def watch_gpus() -> Iterator[GpuUse]:
    """Sample the GPUs that this process may use while the block runs; the result is filled in when it ends."""
    use, program = GpuUse(), shutil.which("nvidia-smi")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if program is None or visible in ("", "-1"):
        yield use
        return
    command = [program, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", f"--loop={_EVERY}"]
    with tempfile.TemporaryFile("w+") as samples:
        # A separate process takes no time from the scan.
        sampler = subprocess.Popen(
            [*command, *([f"--id={visible}"] if visible else [])],
            stdout=samples,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )
        try:
            yield use
        finally:
            sampler.terminate()
            sampler.wait()
            samples.seek(0)
            shares = [float(line) / 100 for line in samples.read().splitlines() if line.strip().isdigit()]
            use.busy = round(statistics.fmean(shares), 3) if shares else None
