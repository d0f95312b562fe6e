"""How the scan's speed, memory and state grow: with the data, the workers, the channels and the heaps.

    python -m bench.scaling [--quick]

Every line is a process of its own, or one a worker, over windows of the photographs that come inside scikit-image.
The network is one convolution of so many channels, 8x8 maps each, so that what the heaps cost shows; with
"shipped", it is the shipped CIFAR-10 network. Printed are images/s, the share of the time in which the network ran, peak
resident memory, the bytes of a saved part, and how long two such parts take to be merged.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@dataclass(frozen=True)
class Case:
    """A scan; channels = 0 is the shipped network."""

    images: int = 10_000
    workers: int = 1
    channels: int = 0
    k: int = 9

    @property
    def title(self) -> str:
        return f"{self.channels:,} channels" if self.channels else "shipped, 128 channels"


CASES = (
    *(Case(images=images) for images in (1_000, 10_000, 50_000)),
    *(Case(workers=workers) for workers in (1, 2)),
    *(Case(channels=channels) for channels in (16, 256, 2_048)),
    *(Case(channels=256, k=k) for k in (1, 9, 100)),
    Case(channels=2_048, k=100),
)


@dataclass(frozen=True)
class Found:
    """What one worker tells: seconds of its scan, peak MB, bytes of its part, seconds of a merge."""

    seconds: float
    running: float
    megabytes: float
    state: int
    merge: float


def work(case: Case, index: int) -> Found:
    """Scan one worker's shard, in this process."""
    from pipeline.activations.part_file import Provenance, SavedPart, write_part
    from pipeline.activations.plan import ScanPlan
    from pipeline.activations.scan import scan
    from pipeline.job import Job
    from pipeline.load import parse_spec
    from pipeline.progress import Reporter
    from pipeline.run import open_job
    from pipeline.sources.source import Shard
    from pipeline.store.places import place

    with tempfile.TemporaryDirectory() as folder:
        model = {"source": f"file:{_network(case.channels, Path(folder))}", "layers": ["conv1", "conv2"]}
        if case.channels:
            model["layers"] = ["conv"]
        data = {"source": "sample:photos", "window": {"size": 32, "stride": 10}, "limit": case.images, "batch": 256}
        tree = {"name": "scaling", "model": model, "data": data, "activations": {"top_k": case.k}}
        job: Job = open_job(parse_spec(tree), place(folder), Reporter("bench"))
        shard = Shard(index, case.workers, 256)
        began = time.perf_counter()
        part, times = scan(job.network, job.source, ScanPlan.of(job), shard)
        seconds = time.perf_counter() - began
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        write_part(place(folder) / "one.part", SavedPart(Provenance.of(job), shard, part))
        began = time.perf_counter()
        part.merge(part)
        merge = time.perf_counter() - began
        return Found(seconds, times.network / times.seconds, megabytes, (Path(folder) / "one.part").stat().st_size, merge)


def measure(case: Case) -> list[Found]:
    """All workers' scans, at the same time."""
    command = [sys.executable, "-m", "bench.scaling", "--case", json.dumps(asdict(case))]
    workers = [subprocess.Popen([*command, "--worker", str(index)], stdout=subprocess.PIPE) for index in range(case.workers)]
    answers = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise SystemExit("a worker failed")
    return [Found(**json.loads(answer.splitlines()[-1])) for answer in answers]


def _network(channels: int, folder: Path) -> Path:
    if not channels:
        return Path(str(resources.files("jobs") / "shipped/cifar10.keras"))
    import keras

    inputs = keras.Input((32, 32, 3))
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    keras.utils.set_random_seed(0)
    outputs = keras.layers.Conv2D(channels, 4, strides=4, activation="relu", name="conv")(scaled)
    keras.Model(inputs, outputs).save(folder / "one.keras")
    return folder / "one.keras"


def main() -> None:
    """Print the table, or scan for it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="a tenth of the images")
    options.add_argument("--case", help=argparse.SUPPRESS)
    options.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.case:
        print(json.dumps(asdict(work(Case(**json.loads(chosen.case)), chosen.worker))))
        return
    columns = ("images/s", "network", "peak MB", "state KB", "merge ms")
    print(f"{'network':<24}{'k':>5}{'images':>9}{'workers':>9}" + "".join(f"{column:>10}" for column in columns))
    for case in CASES:
        if chosen.quick:
            case = Case(case.images // 10, case.workers, case.channels, case.k)
        actual = measure(case)
        rate = case.images / max(one.seconds for one in actual)
        print(
            f"{case.title:<24}{case.k:>5}{case.images:>9,}{case.workers:>9}{rate:>10.0f}{actual[0].running:>10.0%}"
            f"{max(one.megabytes for one in actual):>10.0f}{actual[0].state / 1e3:>10.1f}{actual[0].merge * 1e3:>10.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
