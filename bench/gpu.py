"""The first run on a GPU: what must hold there, and how fast it is. Prints one table and writes one JSON file to send home.

    python -m bench.gpu [--out FILE] [--part NAME ...] [--anyway] [--kernels]

`make gpu-check` installs the extra `gpu` first. On a machine without a GPU it says what it would do; with --anyway it does it
there. Each part runs in a process of its own, within its own time, so that one that fails or hangs spoils no other; all
together take less than ten minutes. --kernels looks, on any machine, for operations of the compiled passes that have no GPU
kernel, prints them stage by stage, and exits 1 where there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.gpu_parts import MEASURES, STAGES, kernels_missing

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_TESTS = (
    "tests/recfield/test_fields_against_oracle.py",
    "tests/recfield/test_leaking_rounding.py",
    "tests/pipeline/activations/test_scan_kernels.py",
    "tests/pipeline/compiled/test_gradients.py",
    "tests/pipeline/compiled/test_precision.py",
)
# What each part does, and how many seconds it may take.
PARTS = {
    "kernels": ("operations of all passes without a GPU kernel", 90),
    "tests": ("fields against the oracle on the GPU, gradients, float16: " + ", ".join(_TESTS), 140),
    "bytes": ("a job twice, and as two shards: the same tables, byte for byte", 70),
    "ascents": ("patterns and dreams twice: the same pictures, byte for byte", 80),
    "fields": ("receptive fields solved on the GPU, and whether rounding leaks there, beside those of the CPU", 40),
    "precision": ("float16, tf32 and XLA: winners that stay, and how far scores move", 60),
    "scan": ("images/s of the scan over the bare pass, by network, batch and precision; memory of two batches on their way", 80),
    "job": ("JPEG files to index, images/s; GradCAM, images/s; ascent, steps/s", 40),
}


def environment() -> dict[str, Any]:
    """The machine, its GPUs and the versions that decide about digits."""
    import tensorflow as tf

    from pipeline.compiled.devices import visible_gpus

    smi = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,mig.mode.current", "--format=csv,noheader"]
    try:
        cards = subprocess.run(smi, capture_output=True, text=True, timeout=20).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        cards = []
    build = {name: str(value) for name, value in tf.sysconfig.get_build_info().items()}
    details = [tf.config.experimental.get_device_details(gpu) for gpu in visible_gpus()]
    cores = os.cpu_count()
    return {
        "machine": platform.platform(),
        "cores": cores,
        "cards": cards,
        "details": details,
        "tensorflow": tf.__version__,
        **build,
    }


def measured(part: str, anyway: bool) -> dict[str, Any]:
    """The result of a part, from a process of its own: what it measured, or its error, and the seconds it took."""
    began, (_, limit) = time.monotonic(), PARTS[part]
    if part == "tests":
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *_TESTS]
    else:
        command = [sys.executable, "-m", "bench.gpu", "--measure", part]
    result: dict[str, Any]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=limit * (20 if anyway else 1))
        last = (child.stdout.strip().splitlines() or [""])[-1]
        if part == "tests":
            result = {"passed": child.returncode == 0, "said": last}
        elif child.returncode == 0:
            result = json.loads(last)
        else:
            result = {"passed": False, "error": child.stderr[-1500:]}
    except subprocess.TimeoutExpired:
        result = {"passed": False, "error": f"not finished after {limit} s"}
    return {**result, "seconds": round(time.monotonic() - began, 1)}


def line(part: str, result: dict[str, Any]) -> str:
    """A row of the table."""
    verdict = {True: "holds", False: "FAILS", None: ""}[result.get("passed")]
    lines = result.get("error", "").strip().splitlines()[-1:] or [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in result.items()
        if name not in ("passed", "seconds")
    ]
    return f"{part:<10}{verdict:<7}{result['seconds']:>7.1f} s  " + "\n".ljust(28).join(lines)


def print_kernels(missing: dict[str, list[str]]) -> None:
    """The operations without a GPU kernel, stage by stage."""
    for stage in missing:
        print(f"{stage:<24}{', '.join(missing[stage]) or 'every operation has a GPU kernel'}")


def main() -> int:
    """Print the table. Returns: 1 where anything fails, or an operation has no GPU kernel."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", default="gpu-check.json", type=Path)
    options.add_argument("--part", action="append", choices=PARTS, default=[])
    options.add_argument("--anyway", action="store_true")
    options.add_argument("--kernels", action="store_true")
    options.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    from pipeline.run import start_tensorflow

    start_tensorflow()
    if chosen.measure:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(MEASURES[chosen.measure](Path(folder))))
        return 0
    if chosen.kernels:
        with tempfile.TemporaryDirectory() as folder:
            missing = kernels_missing(Path(folder), STAGES)
        print_kernels(missing)
        return int(any(missing.values()))
    parts = chosen.part or [*PARTS]
    about = environment()
    if not about["details"] and not chosen.anyway:
        print("TensorFlow sees no GPU here. On a machine with one, this command would run:")
        print("\n".join(f"  {part:<10} {PARTS[part][0]} (at most {PARTS[part][1]} s)" for part in parts))
        return 0
    results: dict[str, Any] = {}
    for part in parts:
        results[part] = measured(part, chosen.anyway)
        print(line(part, results[part]), flush=True)
        chosen.out.write_text(json.dumps({"environment": about, "parts": results}, indent=1, default=str))
    print(f"written: {chosen.out}. Please send this file to the project.")
    return int(any(result.get("passed") is False for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
