"""The first seconds: how long commands take that do no work, beside the import of TensorFlow that some of them need.

    python -m bench.start [--rounds N] [--job DIR]

`check` and `layers --fast` open MobileNetV2 (mobilenet_v2.h5 below CONVSCOPE_REAL) and the photographs below CONVSCOPE_SHARED;
`report` and `compare` need the folder of a finished job. Figures are medians over rounds in which all commands run in turn, each
in a process of its own, after one that compiles the modules: seconds by the clock, and of the CPU, those of child processes too.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SPEC = """
name = "start"
[model]
source = "keras:MobileNetV2"
weights = "{real}/mobilenet_v2.h5"
layers = ["block_3_expand_relu", "block_6_expand_relu", "block_13_expand_relu", "out_relu"]
[data]
source = "folder:{shared}/photos"
"""


def measured(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Run a command. Returns: its seconds by the clock and of the CPU. Raises: SystemExit, where it fails."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, check=False)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--job", type=Path, help="the folder of a finished job, for report and compare")
    options = parser.parse_args()
    folders = {name: os.environ.get(f"CONVSCOPE_{name.upper()}") for name in ("real", "shared")}
    if not all(folders.values()):
        raise SystemExit("Set CONVSCOPE_REAL and CONVSCOPE_SHARED.")
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "start.toml"
        spec.write_text(SPEC.format(**folders), encoding="utf-8")
        jobs = ["-m", "jobs"]
        commands = {
            "import tensorflow": ["-c", "import tensorflow"],
            "--help": [*jobs, "--help"],
            "--version": [*jobs, "--version"],
            "check": [*jobs, "check", str(spec), "--out", folder],
            "layers --fast": [*jobs, "layers", "--fast", str(spec)],
        }
        if options.job:
            commands["report"] = [*jobs, "report", str(options.job)]
            commands["compare"] = [*jobs, "compare", str(options.job), str(options.job), "--out", f"{folder}/compared"]
        compiled = {"PYTHONPYCACHEPREFIX": f"{folder}/compiled", "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | compiled
        rounds = [{name: measured(command, environment) for name, command in commands.items()} for _ in range(options.rounds + 1)]
    print(f"{'':<20}{'seconds':>9}{'CPU':>7}")
    for name in commands:
        wall, cpu = (statistics.median(row[name][part] for row in rounds[1:]) for part in (0, 1))
        print(f"{name:<20}{wall:>9.2f}{cpu:>7.2f}")


if __name__ == "__main__":
    main()
