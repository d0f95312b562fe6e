"""A whole job from the command line: seconds, bytes and peak memory of what follows the scan, as ratios to the scan.

    python -m bench.job [CASE ...] [--code DIR] [--out DIR]

Cases: mobilenet (400 photographs, 2,192 channels), facenet (LFW, five layers), cifar10 (50,000 images) and resnet50
(8,192 channels over 24 photographs, random weights). They need CONVSCOPE_REAL and CONVSCOPE_SHARED. `--code` runs the job
with another checkout of convscope, so that two commits can be compared; `--out` keeps the results.

A step's seconds run from the line with which the job reports it to that of the next step; its peak is the largest resident
set of the process up to its end, as the kernel keeps it (VmHWM).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

SPECS = {
    "mobilenet": """
stages = ["activations", "report"]
[model]
source = "keras:MobileNetV2"
weights = "{real}/mobilenet_v2.h5"
layers = ["block_3_expand_relu", "block_6_expand_relu", "block_13_expand_relu", "out_relu"]
[data]
source = "folder:{shared}/photos"
""",
    "facenet": """
stages = ["activations", "report"]
[model]
source = "frozen:{real}/facenet.pb"
layers = [
    "InceptionResnetV1_1/Conv2d_2b_3x3_1/convolution", "InceptionResnetV1_1/Conv2d_4a_3x3_1/convolution",
    "InceptionResnetV1_1/Conv2d_4b_3x3_1/convolution", "InceptionResnetV1_1/add_1/Add", "InceptionResnetV1_1/add_10_1/Add",
]
preprocess = "standardize"
[data]
source = "folder:{shared}/lfw"
[activations]
top_k = 5
""",
    "cifar10": """
stages = ["activations", "report"]
[model]
source = "file:{cifar10}/jobs/shipped/cifar10.keras"
layers = ["conv1", "conv2"]
[data]
source = "tfds:cifar10/train"
data_dir = "{real}/tfds"
batch = 256
[activations]
top_k = 5
""",
    "resnet50": """
stages = ["activations", "report"]
[model]
source = "keras:ResNet50"
weights = "none"
layers = [
    "conv2_block3_out", "conv3_block4_out", "conv4_block1_out", "conv4_block6_out", "conv5_block1_out", "conv5_block2_out",
    "conv5_block3_2_relu",
]
[data]
source = "folder:{shared}/photos"
limit = 24
""",
}
STEPS = {"scan": "scan", "receptive fields": "fields", "patches": "patches", "report": "report"}  # by what a line begins with


@dataclass
class Step:
    """One step of a job: when it began, on the monotonic clock, and the peak memory of the process up to its end, in bytes."""

    name: str
    began: float
    ended: float = 0.0
    peak: int = 0


@dataclass
class Measured:
    """What one job took."""

    steps: list[Step] = field(default_factory=list)
    bytes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def of(self, name: str) -> Step:
        """A step by its name. Raises: KeyError."""
        return next(step for step in self.steps if step.name == name)


def measure(spec: Path, code: Path, out: Path) -> Measured:
    """Run one job in a process of its own. Raises: SystemExit, where it fails, or was run before."""
    measured = Measured()
    began = time.monotonic()
    command = [sys.executable, "-m", "jobs", "run", str(spec), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(code), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=code, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, measured, stop), daemon=True)
    watcher.start()
    said = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        match = re.match(r"\S+ \S+ [^:]+: (scan|receptive fields|patches|report)(\s|$)", line)
        now = time.monotonic()
        if match and not any(step.name == STEPS[match[1]] for step in measured.steps):
            if measured.steps:
                measured.steps[-1].ended = now
            measured.steps.append(Step(STEPS[match[1]], now))
    code_of_exit = process.wait()
    stop.set()
    watcher.join()
    measured.seconds = time.monotonic() - began
    if code_of_exit:
        raise SystemExit("".join(said[-20:]) + f"\nthe job ended with {code_of_exit}")
    if not measured.steps:
        raise SystemExit(f"{out} holds the results of this job already. Name a new folder.")
    measured.steps[-1].ended = began + measured.seconds
    for path in out.rglob("*"):
        if path.is_file():
            parts = path.relative_to(out).parts[1:]
            folder = "/".join(parts[:2]) if parts[0] == "mosaics" else parts[0] if len(parts) > 1 else "other files"
            measured.bytes[folder] = measured.bytes.get(folder, 0) + path.stat().st_size
    return measured


def _watch(pid: int, measured: Measured, stop: threading.Event) -> None:
    while not stop.wait(0.05):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return
        match = re.search(r"VmHWM:\s+(\d+)", status)
        if match and measured.steps:
            measured.steps[-1].peak = int(match[1]) * 1024


def report(case: str, measured: Measured) -> None:
    """Print the tables of one job."""
    scan = measured.of("scan")
    print(f"\n{case}\n{'step':<14}{'seconds':>9}{'of scan':>9}{'peak MB':>9}{'of scan':>9}")
    for step in measured.steps:
        _row(step.name, step.ended - step.began, step.peak, scan)
    _row("after the scan", measured.steps[-1].ended - scan.ended, max(step.peak for step in measured.steps), scan)
    print(f"{'whole process':<14}{measured.seconds:>9.1f}")
    print(f"{'folder':<24}{'MB':>9}")
    for folder, size in [*sorted(measured.bytes.items()), ("all", sum(measured.bytes.values()))]:
        print(f"{folder:<24}{size / 1e6:>9.1f}", flush=True)


def _row(name: str, seconds: float, peak: int, scan: Step) -> None:
    of_scan = seconds / max(scan.ended - scan.began, 1e-9)
    print(f"{name:<14}{seconds:>9.1f}{of_scan:>9.2f}{peak / 1e6:>9.0f}{peak / max(scan.peak, 1):>9.2f}")


def main() -> None:
    """Run the cases named and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(SPECS)}; absent: all")
    parser.add_argument(
        "--code", type=Path, default=Path(__file__).parents[1], help="the checkout of convscope that runs the job"
    )
    parser.add_argument("--out", type=Path, help="keep the results in this folder")
    options = parser.parse_args()
    places = {name: os.environ.get(f"CONVSCOPE_{name.upper()}") for name in ("real", "shared")}
    if not all(places.values()):
        raise SystemExit("Set CONVSCOPE_REAL and CONVSCOPE_SHARED.")
    with tempfile.TemporaryDirectory() as folder:
        for case in options.cases or SPECS:
            out = (options.out or Path(folder)).resolve() / case
            out.mkdir(parents=True, exist_ok=True)
            spec = out.parent / f"{case}.toml"
            spec.write_text(
                f'name = "{case}"\n' + SPECS[case].format(**places, cifar10=Path(__file__).parents[1]), encoding="utf-8"
            )
            report(case, measure(spec, options.code.resolve(), out))


if __name__ == "__main__":
    main()
