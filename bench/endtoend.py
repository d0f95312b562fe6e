"""From files on disk to heaps, beside decoding alone and the network alone: images/s, interleaved, in one process.

    python -m bench.endtoend [--photos DIR --mobilenet FILE] [--cifar DIR] [--rounds N] [--cpu] [--jobs]

--photos is a folder of JPEG files and --mobilenet the ImageNet weights of MobileNetV2 for them; --cifar a folder of
prepared TensorFlow Datasets that has CIFAR-10. What is not named is looked for below CONVSCOPE_REAL and
CONVSCOPE_SHARED, and left out with a word where it is not there. Decoding is the source's own stream, with nothing
done to its images; the network is the bare Keras model on batches in memory. Figures are medians over rounds in which
all three run in turn. `of the slower`: end to end over the slower of the two alone. `of both`: end to end over what they
do one after the other, 1 / (1 / decoding + 1 / network), near which it stays where both want the same cores. With --cpu,
seconds are those of all threads on the CPU, not of the clock: for machines that do other work at the same time. With
--jobs, each whole job is run once more, to its index, patches and pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.activations.plan import ScanPlan
    from pipeline.job import Job

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def naming(options: argparse.ArgumentParser) -> None:
    """The arguments that `cases` reads."""
    for name in ("--photos", "--mobilenet", "--cifar"):
        options.add_argument(name)


def cases(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """What can be measured here: a title and a spec."""
    photos = options.photos or _below("CONVSCOPE_SHARED", "photos")
    weights = options.mobilenet or _below("CONVSCOPE_REAL", "mobilenet_v2.h5")
    if photos and weights:
        layers = ["block_1_expand_relu", "block_3_expand_relu", "block_6_expand_relu", "out_relu"]
        model = {"source": "keras:MobileNetV2", "weights": weights, "layers": layers}
        yield "JPEG files, MobileNetV2", {"name": "photos", "model": model, "data": {"source": f"folder:{photos}", "batch": 32}}
    else:
        print("photographs: left out; name them with --photos and --mobilenet, or set CONVSCOPE_SHARED and CONVSCOPE_REAL")
    prepared = options.cifar or _below("CONVSCOPE_REAL", "tfds")
    if prepared:
        model = {"source": f"file:{resources.files('jobs') / 'shipped/cifar10.keras'}", "layers": ["conv1", "conv2"]}
        data = {"source": "tfds:cifar10/train", "data_dir": prepared, "batch": 256}
        yield "CIFAR-10 as TFDS", {"name": "cifar10", "model": model, "data": data}
    else:
        print("CIFAR-10: left out; name it with --cifar, or set CONVSCOPE_REAL")


def opened(tree: dict[str, Any]) -> tuple[Job, ScanPlan]:
    """What a spec names, and the plan of its scan; nothing is written."""
    from pipeline.activations.plan import ScanPlan
    from pipeline.load import parse_spec
    from pipeline.progress import Reporter
    from pipeline.run import open_job
    from pipeline.store.places import place

    job = open_job(parse_spec(tree), place(tempfile.gettempdir()), Reporter("bench"), fetch=False)
    return job, ScanPlan.of(job)


def measure(tree: dict[str, Any], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Images/s of decoding alone, of the network alone and of both with all that the scan does, round by round."""
    from bench.yardsticks import bare, keras_model
    from pipeline.activations.scan import ScanSession, scan
    from pipeline.activations.scan_pass import ScanPass
    from pipeline.sources.source import Shard

    job, plan = opened(tree)
    scan_pass = ScanPass(job.network, plan)
    run = bare(keras_model(job.network))
    in_memory = [batch["image"].numpy() for batch in job.source.stream(Shard()).batch(plan.batch, drop_remainder=True).take(8)]

    def decode() -> int:
        return sum(len(batch["example"]) for batch in job.source.stream(Shard()).batch(plan.batch).prefetch(2))

    def network() -> int:
        for number in range(len(job.source) // plan.batch):
            run(in_memory[number % len(in_memory)], 0)
        return len(job.source) // plan.batch * plan.batch

    def end_to_end() -> int:
        return scan(job.network, job.source, plan, session=ScanSession(scan_pass=scan_pass))[0].seen

    actual: dict[str, list[float]] = {}
    for _ in range(rounds + 1):
        for way in (decode, network, end_to_end):
            actual.setdefault(way.__name__, []).append(_rate(way, clock))
    return {name: speeds[1:] for name, speeds in actual.items()}


def whole_job(tree: dict[str, Any]) -> dict[str, Any]:
    """What run.json says of the job's pass, from images on disk to index, patches and pictures."""
    from pipeline import parse_spec, run

    with tempfile.TemporaryDirectory() as out:
        folder = run(parse_spec(tree), out)
        receipt: dict[str, Any] = json.loads((folder / "run.json").read_text())["stages"]["activations"]
    return receipt


def _rate(way: Callable[[], int], clock: Callable[[], float]) -> float:
    started = clock()
    return way() / (clock() - started)


def _below(variable: str, name: str) -> str | None:
    path = Path(os.environ.get(variable, "")) / name
    return str(path) if variable in os.environ and path.exists() else None


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    naming(options)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--cpu", action="store_true")
    options.add_argument("--jobs", action="store_true")
    chosen = options.parse_args()
    actual = list(cases(chosen))
    if actual:
        print(f"{'images/s':<28}{'decoding':>10}{'network':>10}{'end to end':>12}{'of the slower':>15}{'of both':>10}")
    for title, tree in actual:
        speeds = measure(tree, chosen.rounds, time.process_time if chosen.cpu else time.perf_counter)
        slower = [min(pair) for pair in zip(speeds["decode"], speeds["network"], strict=True)]
        both = [1 / (1 / decode + 1 / network) for decode, network in zip(speeds["decode"], speeds["network"], strict=True)]
        shares = [
            statistics.median(ours / alone for ours, alone in zip(speeds["end_to_end"], yardstick, strict=True))
            for yardstick in (slower, both)
        ]
        medians = [statistics.median(speeds[name]) for name in ("decode", "network", "end_to_end")]
        print(
            f"{title:<28}{medians[0]:>10.1f}{medians[1]:>10.1f}{medians[2]:>12.1f}{shares[0]:>15.2f}{shares[1]:>10.2f}",
            flush=True,
        )
    for title, tree in actual if chosen.jobs else ():
        done = whole_job(tree)
        spent = ", ".join(f"{name} {seconds:g}" for name, seconds in done["scan_seconds"].items())
        print(f"{title}: {done['seconds']:g} s in all; the scan: {spent}; ", end="")
        print(f"receptive fields {done['fields_seconds']:g}; patches and index {done['writing_seconds']:g}", flush=True)


if __name__ == "__main__":
    main()
