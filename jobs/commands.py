"""The commands: one function each. `jobs.cli` declares their options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import MissingInput, WrongSpec, printable
from pipeline.load import load_spec
from pipeline.options import RunOptions
from pipeline.progress import Reporter
from pipeline.receipt import StageRecord, find_receipt, read_receipt
from pipeline.run import open_job, run, start_tensorflow
from pipeline.shards import merge, run_shard
from pipeline.spec import JobSpec
from pipeline.store.files import check_writable, file_name, sweep, write_bytes
from pipeline.store.locks import hold
from pipeline.store.places import Place, place

if TYPE_CHECKING:
    from pipeline.models.network import LayerInfo, Network, UnreadableLayer
    from recfield import ReceptiveField


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
    if options.dry_run:
        _check(options)
        return
    spec = read_spec(options)
    reporter = Reporter(spec.name, as_json=options.log_json)
    run_options = RunOptions(
        options.engine, options.workers, options.save_every, options.update, anew=options.anew, cache=not options.no_cache
    )
    if options.shard and options.engine != "local":
        raise WrongSpec(
            "--shard scans one part of the data in this process, and --engine ray divides the data itself. Leave one of them out."
        )
    if options.shard:
        run_shard(spec, options.shard, options.out, reporter, run_options)
        return
    folder = run(spec, options.out, options.stage, reporter, run_options)
    for line in summary(folder):
        _say(line)


def _merge(options: argparse.Namespace) -> None:
    folder = place(options.folder)
    reporter = Reporter(folder.name, as_json=options.log_json)
    for line in summary(merge(folder, reporter, RunOptions(save_every=options.save_every, cache=not options.no_cache))):
        _say(line)


def _layers(options: argparse.Namespace) -> None:
    spec = read_spec(options)
    start_tensorflow()
    from pipeline.fields import FieldCache, solve_in_groups
    from pipeline.models.registry import open_network

    network = open_network(spec.model)
    fields: dict[str, ReceptiveField] = {}
    cache = None if options.fast or options.no_cache else FieldCache.of(network, network.digest())
    for group in () if options.fast else solve_in_groups(network, network.layers(), cache):
        fields |= group
    for line in settings_of(network):
        _say(line)
    columns = ("layer", "kind", "map", "channels", *(() if options.fast else ("field", "stride")))
    every = [_layer_row(layer, fields, len(columns)) for layer in network.every_layer()]
    _print_table([(*columns, "cannot be looked at" if any(row[-1] for row in every) else ""), *every])
    if options.tensorboard:
        from pipeline.models.summary import write_graph

        print(f"graph: {write_graph(network, Path(options.tensorboard))}; look at it: tensorboard --logdir {options.tensorboard}")


def _layer_row(layer: LayerInfo | UnreadableLayer, fields: Mapping[str, ReceptiveField], columns: int) -> tuple[str, ...]:
    """A layer's cells: so many columns of facts, and why it cannot be looked at, if it cannot."""
    from pipeline.fields import as_ratio
    from pipeline.models.network import UnreadableLayer

    if isinstance(layer, UnreadableLayer):
        return (layer.name, layer.kind, *[""] * (columns - 2), layer.reason)
    height, width, channels = layer.shape
    facts = [layer.name, layer.kind, f"{height} x {width}", str(channels)]
    field = fields.get(layer.name)
    if field is not None:
        facts.append("whole image" if field.is_global else "{} x {}".format(*field.size))
        facts.append("" if field.is_global else " x ".join(map(as_ratio, field.stride)))
    return (*facts, "")


def _fields(options: argparse.Namespace) -> None:
    spec = read_spec(options)
    folder, reporter = place(options.out) / spec.name, Reporter(spec.name)
    rows: list[tuple[str, ...]] = [("layer", "field", "stride", "map", "global", "effective")]
    with hold(folder, reporter.say):
        sweep(folder)
        job = open_job(spec, folder, reporter, options=RunOptions(cache=not options.no_cache))
        from pipeline.drawing.pixels import encode_png
        from pipeline.fields import as_ratio
        from pipeline.fields.survey import survey_fields
        from pipeline.fields.survey_sheet import draw_survey

        for survey in survey_fields(job):
            path = folder / "mosaics" / "fields" / f"{file_name(survey.layer.name)}.png"
            write_bytes(path, encode_png(draw_survey(survey)))
            height, width, _ = survey.layer.shape
            field = survey.field
            size, stride = "{} x {}".format(*field.size), " x ".join(map(as_ratio, field.stride))
            effective = f"{survey.effective.height} x {survey.effective.width}" if survey.effective else "none"
            rows.append((survey.layer.name, size, stride, f"{height} x {width}", "yes" if field.is_global else "no", effective))
    _print_table(rows)
    print(f"pictures: {folder / 'mosaics' / 'fields'}")


def _check(options: argparse.Namespace) -> None:
    spec = read_spec(options)
    folder = place(options.out) / spec.name
    check_writable(folder)
    job = open_job(spec, folder, Reporter(spec.name), fetch=False)
    from pipeline.stages import STAGES

    height, width, _ = job.network.input_shape
    counts = [layer.channels if spec.activations.channels == "all" else len(spec.activations.channels) for layer in job.layers]
    _say(f"{spec.name}: {len(job.source):,} examples, {spec.data.resize} to {height} x {width}, batches of {spec.data.batch}")
    _say(f"network: {job.network.name}, {len(job.layers)} layers, {sum(counts):,} channels")
    for line in settings_of(job.network):
        _say(line)
    for layer, count in zip(job.layers, counts, strict=True):
        _say(f"  {layer.name}: {layer.kind}, map {layer.shape[0]} x {layer.shape[1]}, {count} channels")
    every = len(job.network.every_layer())
    others = every - len(job.network.layers())
    if others:
        print(f"  of the network's {every} layers, {others} cannot be looked at; convscope layers SPEC says why")
    if spec.model.labels is not None:
        names = job.class_names() or ()
        _say(f"classes: {len(names):,}, {names[0]} to {names[-1]}")
    print(f"stages: {', '.join(spec.stages)}")
    stages = [STAGES[name] for name in spec.stages]
    index = ["index"] if any(stage.index for stage in stages) else []
    folders = dict.fromkeys(index + [path.partition("/")[0] for stage in stages for path in stage.folders])
    patches = f" (up to {sum(counts) * spec.activations.top_k:,} patches)" if "crops" in folders else ""
    print(f"writes: {folder}/run.json, {', '.join(f'{name}/' for name in folders)}{patches}")


def _show(options: argparse.Namespace) -> None:
    for line in summary(place(options.folder)):
        _say(line)


def _report(options: argparse.Namespace) -> None:
    from pipeline.report.page import write_page
    from pipeline.stages import STAGES
    from pipeline.stages.stage import sections_of

    folder = place(options.folder)
    reporter = Reporter(read_receipt(folder, any_format=True).name)  # of whatever version: the page says what it lacks
    with hold(folder, reporter.say), reporter.step("report", "layers") as advance:
        counts = write_page(folder, sections_of(STAGES.values()), advance)
    print(f"open {folder / 'report' / 'index.html'} ({counts['files']:,} files, {counts['bytes'] / 1e6:.1f} MB)")


def _compare(options: argparse.Namespace) -> None:
    from pipeline.report.compare import write_comparison
    from pipeline.stages import STAGES
    from pipeline.stages.stage import sections_of

    first, second, out = place(options.first), place(options.second), place(options.out)
    for folder in (first, second):
        read_receipt(folder, any_format=True)  # where there is no job, nothing is made
    reporter = Reporter("compare")
    with hold(out, reporter.say), reporter.step("compare", "layers") as advance:
        sections = sections_of(STAGES.values())
        counts = write_comparison(first, second, out, sections, advance)
    print(f"{counts['channels']:,} channels of {counts['layers']} layers in both; open {out / 'index.html'}")


def _params(options: argparse.Namespace) -> None:
    from jobs.params import convert

    print(convert(Path(options.old)), end="")


def _train(options: argparse.Namespace) -> None:
    start_tensorflow()
    from jobs.training import train_cifar10

    result = train_cifar10(Path(options.out), options.data_dir, options.epochs, options.batch)
    print(f"{result['test_accuracy']:.2%} of {result['test_images']:,} test images right; {options.out}/cifar10.keras")


def settings_of(network: Network) -> list[str]:
    """What convscope chose for a network where the spec may leave it open, and why, a line each."""
    return [f"{key}: {setting}" for key, setting in network.settings.items()]


def summary(folder: Place) -> list[str]:
    """A summary of a job's folder, line by line. Raises: WrongSpec, for a folder without a job."""
    parts = _parts(folder)
    if parts and find_receipt(folder) is None:
        return [f"{folder.name}: shards, not merged yet", *parts]
    receipt = read_receipt(folder)
    lines = [f"{receipt.name}: {receipt.state}, {receipt.examples:,} examples, {len(receipt.layers)} layers"]
    for stage in receipt.spec["stages"]:
        record = receipt.stages.get(stage)
        if record is None:
            lines.append(f"  {stage}: not run yet")
            continue
        lines.append(f"  {stage}: {_about(record)}{record.seconds:g} s in all")
        if record.skipped:
            lines.append(f"    {record.skipped:,} images could not be read: index/skipped.parquet")
        for layer, count in record.nans.items():
            lines.append(f"    {layer}: {count:,} values were NaN and were ignored")
        if stage == "activations":
            lines += _about_channels(folder, (record.images or 0))
    lines += parts
    for part, what in (("mosaics", "pictures"), ("index", "tables"), ("crops", "patches")):
        files = sorted(path for path in (folder / part).rglob("*") if path.is_file() and not path.name.startswith("."))
        if files:
            lines.append(
                f"  {what}: {folder / part}: {len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB"
            )
    mosaics = folder / "mosaics"
    pictures = sorted([*mosaics.rglob("*-crop.png"), *mosaics.rglob("*-crop-001.*")]) or sorted(mosaics.rglob("*.png"))
    page = folder / "report" / "index.html"
    lines += [f"  look at: {path}" for path in ([page] if page.exists() else pictures[-1:])]
    return lines


def _about_channels(folder: Place, images: int) -> list[str]:
    """Of each layer the channels that never fire, and those whose last winner ties with images that are no winners."""
    from pipeline.report.job_reader import JobReader

    reader = JobReader(folder)
    channels = reader.table("channels").to_pydict()  # empty if somebody took it away: the receipt says what there was
    lines = [f"    {gap}" for gap in reader.gaps if "older version" not in gap]
    for layer in dict.fromkeys(channels["layer"]):
        rows = [row for row, of_layer in enumerate(channels["layer"]) if of_layer == layer]
        dead = [channels["channel"][row] for row in rows if channels["dead"][row]]
        if dead:
            names = ", ".join(map(str, dead[:10])) + (", …" if len(dead) > 10 else "")
            lines.append(f"    {layer}: {len(dead):,} of {len(rows):,} channels never fire in these {images:,} images: {names}")
        ties = [channels["ties"][row] for row in rows if channels["ties"][row]]
        if ties:
            lines.append(f"    {layer}: {len(ties):,} channels have last winners that tie with up to {max(ties):,} other images")
    return lines


def _parts(folder: Place) -> list[str]:
    """The progress of every scan that has a part in the folder."""
    if not any(True for _ in (folder / "parts").glob("*.part")):
        return []
    from pipeline.activations.part_file import saved_parts

    lines = []
    for saved in saved_parts(folder):
        first, last = saved.bounds
        owner = "the scan" if saved.shard.count == 1 else f"shard {saved.shard.index + 1} of {saved.shard.count}"
        lines.append(f"  {owner}: {saved.part.done:,} of {last - first:,} examples are saved")
    return lines


def _about(record: StageRecord) -> str:
    """The summary of a stage: its own sentence or, for the scan, its speed and where the time went."""
    spent = record.scan_seconds
    if not spent:
        return f"{record.told}, " if record.told else ""
    total = sum(spent.values())
    if not total:
        return f"{record.images or 0:,} images, scanned by earlier runs, "
    share = ", ".join(f"{part} {seconds / total:.0%}" for part, seconds in spent.items())
    reduced = "" if record.precision == "float32" else f" in {record.precision}"
    gpu = "" if record.gpu_busy is None else f", GPU busy {record.gpu_busy:.0%}"
    rest = f"receptive fields {record.fields_seconds:.1f} s, patches and index {record.writing_seconds:.1f} s"
    return f"{record.images or 0:,} images{reduced} at {record.images_per_second or 0:g}/s ({share}{gpu}), {rest}, "


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        _say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _say(line: str) -> None:
    """Print a line that may hold names from a stranger's file."""
    print(printable(line))


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "run": _run,
    "merge": _merge,
    "layers": _layers,
    "fields": _fields,
    "check": _check,
    "show": _show,
    "report": _report,
    "compare": _compare,
    "params": _params,
    "train": _train,
}
