"""The commands: one function each. `jobs.cli` declares their options."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.specs import read_spec, tree_of
from jobs.summary import as_table, summary
from jobs.terminal import painted
from pipeline.errors import Fault, StoreFailed, WrongSpec, foreign_errors, printable
from pipeline.options import RunOptions
from pipeline.progress import Reporter, counted
from pipeline.receipt import read_receipt
from pipeline.run import open_job, run, start_tensorflow
from pipeline.shards import merge, run_shard
from pipeline.store.files import check_writable, file_name, sweep, write_bytes
from pipeline.store.locks import hold
from pipeline.store.places import Place, place

if TYPE_CHECKING:
    import numpy as np

    from pipeline.job import Job
    from pipeline.models.network import LayerInfo, Network, UnreadableLayer
    from recfield import ReceptiveField


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
    _print_summary(folder)


def _merge(options: argparse.Namespace) -> None:
    folder = place(options.folder)
    reporter = Reporter(folder.name, as_json=options.log_json)
    _print_summary(merge(folder, reporter, RunOptions(save_every=options.save_every, cache=not options.no_cache)))


def _layers(options: argparse.Namespace) -> None:
    spec = read_spec(options, needs_images=False)
    start_tensorflow()
    from pipeline.fields import FieldCache, solve_in_groups
    from pipeline.models.registry import open_network

    network = open_network(spec.model)
    fields: dict[str, ReceptiveField] = {}
    unsolved: dict[str, str] = {}
    cache = None if options.fast or options.no_cache else FieldCache.of(network, network.digest())
    for group in () if options.fast else solve_in_groups(network, network.layers(), cache, unsolved):
        fields |= group
    for line in settings_of(network):
        _say(line)
    columns = ("layer", "kind", "map", "channels", *(() if options.fast else ("field", "stride")))
    every = [_layer_row(layer, fields, len(columns)) for layer in network.every_layer()]
    _print_table([(*columns, "cannot be looked at" if any(row[-1] for row in every) else ""), *every])
    for layer, reason in unsolved.items():
        _say(f"the field of {layer} could not be solved: {reason}")
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
    elif columns > len(facts):
        facts += ["unsolved", ""]
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
        for line in job.passed_over.sentences():
            reporter.say(line)
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
    _say(
        f"{spec.name}: {counted(len(job.source), 'example')}, {spec.data.resize} to {height} x {width}, "
        f"batches of {spec.data.batch}"
    )
    _say(f"network: {job.network.name}, {counted(len(job.layers), 'layer')}, {counted(sum(counts), 'channel')}")
    for line in settings_of(job):
        _say(line)
    for layer, count in zip(job.layers, counts, strict=True):
        _say(f"  {layer.name}: {layer.kind}, map {layer.shape[0]} x {layer.shape[1]}, {counted(count, 'channel')}")
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
    _print_summary(place(options.folder))


def _picture(options: argparse.Namespace) -> None:
    from pipeline.pictures_on_demand import AskedPicture, draw_picture

    folder = place(options.folder)
    reporter = Reporter(read_receipt(folder).name)
    asked = AskedPicture(options.image, options.method, options.layer, options.target)
    with hold(folder, reporter.say):
        print(draw_picture(folder, asked, reporter))


def _search(options: argparse.Namespace) -> None:
    from pipeline.report.job_reader import DAMAGED, JobReader
    from pipeline.report.search import find_channels, nearest_channels

    folder = place(options.folder)
    read_receipt(folder, any_format=True)
    reader = JobReader(folder)
    with foreign_errors(Fault, f"the index of {folder}", DAMAGED):
        matches = (
            nearest_channels(reader, lambda encoder: _embedded(encoder, options.words))
            if options.text
            else find_channels(reader, options.words)
        )
    listed = matches[: options.most]
    _print_table([("layer", "channel", "why"), *((match.layer, str(match.channel), match.reason) for match in listed)])
    if len(matches) > len(listed):
        print(f"and {len(matches) - len(listed):,} more: --most {len(matches)} lists all")


def _embedded(encoder: str, text: str) -> np.ndarray:
    from pipeline.models.keras.hub_encoder import TextImageEncoder

    vector: np.ndarray = TextImageEncoder.open(encoder).texts([text])[0]
    return vector


def _report(options: argparse.Namespace) -> None:
    from pipeline.report.page import write_page
    from pipeline.stages import STAGES
    from pipeline.stages.stage import sections_of

    folder = place(options.folder)
    reporter = Reporter(read_receipt(folder, any_format=True).name)  # of whatever version: the page says what it lacks
    with hold(folder, reporter.say), reporter.step("report", "layers") as advance:
        counts = write_page(folder, sections_of(STAGES.values()), advance)
    print(f"open {folder / 'report' / 'index.html'} ({counted(counts['files'], 'file')}, {counts['bytes'] / 1e6:.1f} MB)")


def _compare(options: argparse.Namespace) -> None:
    from pipeline.activations.matching import match_across, match_channels
    from pipeline.report.compare import Compared, write_comparison

    first, second, out = place(options.first), place(options.second), place(options.out)
    for folder in (first, second):
        read_receipt(folder, any_format=True)  # where there is no job, nothing is made
    reporter = Reporter("compare")
    with hold(out, reporter.say), reporter.step("compare", "layers") as advance:
        matching = match_across(first, second) if options.match else match_channels(first, second)
        counts = write_comparison(Compared(first, second, matching.how, matching.pairs, matching.across), out, advance)
    print(f"{counted(counts['channels'], 'channel')} of {counted(counts['layers'], 'layer')} in both, matched {matching.how}")
    print(f"open {out / 'index.html'}")


def _init(options: argparse.Namespace) -> None:
    from jobs.starting import commented_spec

    path = Path(options.file) if options.file else None
    if options.network is None:
        tree = tree_of("keras:MobileNetV2", "folder:photos", options.layers)
    else:
        tree = tree_of(options.network, options.images or "folder:photos", options.layers)
    path = path or Path(f"{tree['name']}.toml")
    if path.exists():
        raise WrongSpec(f"{path} is there already. Name another with --file, or remove it.")
    try:
        path.write_text(commented_spec(tree), encoding="utf-8")
    except OSError as error:
        raise StoreFailed(f"{path} could not be written ({error.strerror}). Name another with --file.") from None
    _say(f"wrote {path}. Next: convscope check {path}")


def _open(options: argparse.Namespace) -> None:
    from jobs.viewing import open_page

    open_page(place(options.folder), options.serve)


def _schema(options: argparse.Namespace) -> None:
    from jobs.reference import schema

    print(json.dumps(schema(), indent=2, ensure_ascii=False))


def _help(options: argparse.Namespace) -> None:
    from jobs.reference import entry

    if options.key in COMMANDS or options.key is None:
        options.parser.parse_args([*([options.key] if options.key else []), "--help"])
    print(entry(options.key))


def _completion(options: argparse.Namespace) -> None:
    import shtab

    print(shtab.complete(options.parser, options.shell))


def _params(options: argparse.Namespace) -> None:
    from jobs.params import convert

    print(convert(Path(options.old)), end="")


def _train(options: argparse.Namespace) -> None:
    start_tensorflow()
    from jobs.training import train_cifar10

    result = train_cifar10(Path(options.out), options.data_dir, options.epochs, options.batch)
    print(f"{result['test_accuracy']:.2%} of {result['test_images']:,} test images right; {options.out}/cifar10.keras")


def settings_of(opened: Network | Job) -> list[str]:
    """What convscope chose for a network or a job where the spec may leave it open, and why, a line each."""
    return [f"{key}: {setting}" for key, setting in opened.settings.items()]


def _print_table(rows: list[tuple[str, ...]]) -> None:
    for number, line in enumerate(as_table(rows)):
        _say(line, *["bold"] * (number == 0))


def _say(line: str, *styles: str) -> None:
    """Print a line that may hold names from a stranger's file."""
    print(painted(printable(line), *styles))


def _print_summary(folder: Place) -> None:
    """The state of a job in bold, the heads of its table dim, and where to look in colour."""
    for number, line in enumerate(summary(folder)):
        _say(
            line, *["bold"] * (number == 0), *["dim"] * line.startswith("    layer "), *["cyan"] * line.startswith("  look at: ")
        )


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "run": _run,
    "merge": _merge,
    "layers": _layers,
    "fields": _fields,
    "check": _check,
    "show": _show,
    "picture": _picture,
    "search": _search,
    "report": _report,
    "compare": _compare,
    "init": _init,
    "open": _open,
    "schema": _schema,
    "help": _help,
    "completion": _completion,
    "params": _params,
    "train": _train,
}
