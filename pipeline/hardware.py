"""What the machine has to offer: its cores, and how busy its GPUs are while something runs."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_EVERY = 1  # seconds between two looks


def cores() -> int:
    """The cores that this process may use; all of the machine's where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class GpuUse:
    """busy: the mean share of time in which the visible GPUs were at work, 0 to 1; None where there was none to look at."""

    busy: float | None = None


@contextmanager
def watch_gpus() -> Iterator[GpuUse]:
    """Look at the GPUs that this process may use for as long as the block runs; what was seen is there after it."""
    use, program = GpuUse(), shutil.which("nvidia-smi")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if program is None or visible in ("", "-1"):
        yield use
        return
    command = [program, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", f"--loop={_EVERY}"]
    with tempfile.TemporaryFile("w+") as told:
        # Its own program, so that looking takes nothing from the scan.
        looking = subprocess.Popen(
            [*command, *([f"--id={visible}"] if visible else [])],
            stdout=told,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )
        try:
            yield use
        finally:
            looking.terminate()
            looking.wait()
            told.seek(0)
            seen = [float(line) / 100 for line in told.read().splitlines() if line.strip().isdigit()]
            use.busy = round(statistics.fmean(seen), 3) if seen else None
