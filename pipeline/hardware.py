"""The machine: its cores, and how busy its GPU is while something runs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # as the kernel calls them, on x86 and on ARM
_EVERY = 1  # seconds between two samples


def cores() -> int:
    """The number of cores that this process may use, or that the machine has if the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def emulates_bfloat16(cpu: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has no bfloat16 of its own, so that it takes several times as long as float32; False where nobody says.

    Args:
        cpu: what the kernel says of the CPU.
    """
    try:
        lines = cpu.read_text().splitlines()
    except OSError:
        return False
    known = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.partition(":")[2].split()}
    return bool(known) and known.isdisjoint(_BFLOAT16)


def release_memory() -> None:
    """Give the system what the C library keeps of memory that was freed; does nothing where it is not glibc.

    After a scan glibc holds a sixth of what the process takes, in pieces between what is still in use, and the next step,
    which asks for other sizes, takes as much again on top of it.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class GpuUse:
    """busy: the mean share of time in which this process's GPU was busy, 0 to 1; None where there is none."""

    busy: float | None = None


@contextmanager
def watch_gpu(own: bool = True) -> Iterator[GpuUse]:
    """Sample the GPU that this process uses, the first visible one, while the block runs; the result is filled in when it ends.

    Args:
        own: whether this process computes on it at all; workers on other machines have theirs.
    """
    use, program = GpuUse(), shutil.which("nvidia-smi")
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if not own or program is None or first in ("", "-1"):
        yield use
        return
    # nvidia-smi counts in the order of the PCI bus, and so does CUDA here. A part of a card (MIG) has no such figure.
    command = [program, f"--id={first}", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", f"--loop={_EVERY}"]
    with tempfile.TemporaryFile("w+") as samples:
        # A separate process takes no time from the scan.
        sampler = subprocess.Popen(command, stdout=samples, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        try:
            yield use
        finally:
            sampler.terminate()
            sampler.wait()
            samples.seek(0)
            shares = [float(line) / 100 for line in samples.read().splitlines() if line.strip().isdigit()]
            use.busy = round(statistics.fmean(shares), 3) if shares else None
