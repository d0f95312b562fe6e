"""What each command does; `jobs.cli` says what each is given."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from pipeline.errors import MissingInput
from pipeline.progress import Reporter
from pipeline.run import open_job, read_receipt, run, start_tensorflow
from pipeline.spec import JobSpec, load_spec
from pipeline.store.places import Place, place


def shipped_specs() -> dict[str, Path]:
    """The example specs that come with convscope, by name."""
    folder = Path(str(resources.files("jobs")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_spec(options: argparse.Namespace) -> JobSpec:
    """The spec that a command line names: a file, or a shipped spec by its name."""
    named = Path(options.spec)
    shipped = shipped_specs()
    if not named.exists() and options.spec in shipped:
        named = shipped[options.spec]
    elif not named.exists() and named.suffix != ".toml":
        raise MissingInput(f"there is no spec {options.spec!r}. Name a TOML file, or one of: {', '.join(shipped)}.")
    return load_spec(named, options.overrides)


def _run(options: argparse.Namespace) -> None:
    spec = read_spec(options)
    reporter = Reporter(spec.name)
    folder = run(spec, options.out, options.stage, reporter)
    for line in summary(folder):
        print(line)


def _layers(options: argparse.Namespace) -> None:
    spec = read_spec(options)
    start_tensorflow()
    from pipeline.fields import solve_in_groups
    from pipeline.models.opening import open_network

    network = open_network(spec.model)
    layers = network.layers()
    seen: dict[str, tuple[str, ...]] = {}
    for group in () if options.fast else solve_in_groups(network, layers):
        for name, field in group.items():
            size = "whole image" if field.is_global else "{} x {}".format(*field.size)
            seen[name] = (size, "" if field.is_global else "{:g} x {:g}".format(*field.stride))
    rows: list[tuple[str, ...]] = [("layer", "kind", "map", "channels", *(() if options.fast else ("field", "stride")))]
    for layer in layers:
        height, width, channels = layer.shape
        rows.append((layer.name, layer.kind, f"{height} x {width}", str(channels), *seen.get(layer.name, ())))
    _print_table(rows)
    if options.tensorboard:
        from pipeline.models.summary import write_graph

        print(f"graph: {write_graph(network, Path(options.tensorboard))}; look at it: tensorboard --logdir {options.tensorboard}")


def _check(options: argparse.Namespace) -> None:
    spec = read_spec(options)
    folder = place(options.out) / spec.name
    job = open_job(spec, folder, Reporter(spec.name), fetch=False)
    height, width, _ = job.network.input_shape
    counts = [layer.channels if spec.activations.channels == "all" else len(spec.activations.channels) for layer in job.layers]
    print(f"{spec.name}: {len(job.source):,} examples, {spec.data.resize} to {height} x {width}, batches of {spec.data.batch}")
    print(f"network: {job.network.name}, {len(job.layers)} layers, {sum(counts):,} channels")
    for layer, count in zip(job.layers, counts, strict=True):
        print(f"  {layer.name}: {layer.kind}, map {layer.shape[0]} x {layer.shape[1]}, {count} channels")
    print(f"stages: {', '.join(spec.stages)}")
    print(f"writes: {folder}/run.json, index/, crops/, mosaics/ (up to {sum(counts) * spec.activations.top_k:,} patches)")


def _show(options: argparse.Namespace) -> None:
    for line in summary(place(options.folder)):
        print(line)


def _params(options: argparse.Namespace) -> None:
    from jobs.params import convert

    print(convert(Path(options.old)), end="")


def _train(options: argparse.Namespace) -> None:
    start_tensorflow()
    from jobs.training import train_cifar10

    result = train_cifar10(Path(options.out), options.data_dir, options.epochs, options.batch)
    print(f"{result['test_accuracy']:.2%} of {result['test_images']:,} test images right; {options.out}/cifar10.keras")


def summary(folder: Place) -> list[str]:
    """What a job's folder holds, in a few lines. Raises: WrongSpec, where it holds none."""
    receipt = read_receipt(folder)
    lines = [f"{receipt['name']}: {receipt['state']}, {receipt['examples']:,} examples, {len(receipt['layers'])} layers"]
    for stage in receipt["spec"]["stages"]:
        done = receipt["stages"].get(stage)
        if done is None:
            lines.append(f"  {stage}: not yet")
            continue
        lines.append(f"  {stage}: {_told(done)}{done['seconds']:g} s in all")
        if done.get("skipped"):
            lines.append(f"    {done['skipped']:,} images could not be read: index/skipped.parquet")
        for layer, count in done.get("nans", {}).items():
            lines.append(f"    {layer}: {count:,} values were NaN and were passed over")
    for part, what in (("mosaics", "pictures"), ("index", "tables"), ("crops", "patches")):
        files = sorted(path for path in (folder / part).rglob("*") if path.is_file() and not path.name.startswith("."))
        if files:
            lines.append(
                f"  {what}: {folder / part}: {len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB"
            )
    pictures = sorted((folder / "mosaics").rglob("*-crop.png"))
    if pictures:
        lines.append(f"  look at: {pictures[-1]}")
    return lines


def _told(done: dict[str, Any]) -> str:
    """What a stage's receipt says of its pass over the data, where it made one."""
    spent = done.get("scan_seconds")
    if not spent:
        return f"{done['told']}, " if done.get("told") else ""
    total = max(sum(spent.values()), 1e-9)
    share = ", ".join(f"{part} {seconds / total:.0%}" for part, seconds in spent.items())
    return f"{done['images']:,} images at {done['images_per_second']:g}/s ({share}), "


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "run": _run,
    "layers": _layers,
    "check": _check,
    "show": _show,
    "params": _params,
    "train": _train,
}
