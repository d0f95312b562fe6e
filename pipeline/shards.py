"""One job in several runs: each scans a shard and writes its part; `merge` joins the parts and finishes the job."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from pipeline.errors import WrongSpec
from pipeline.load import parse_spec
from pipeline.options import RunOptions
from pipeline.progress import Reporter, counted
from pipeline.receipt import find_receipt, write_receipt
from pipeline.run import finish, new_receipt, nothing_to_do, open_job
from pipeline.spec import JobSpec
from pipeline.store.files import sweep
from pipeline.store.locks import hold
from pipeline.store.places import Place, place


def run_shard(
    spec: JobSpec,
    shard: tuple[int, int],
    out: str | os.PathLike[str] = "out",
    reporter: Reporter | None = None,
    options: RunOptions = RunOptions(),
) -> Place:
    """Scan one shard of a job's data and write its part to OUT/name/parts for `merge`.

    Shards may be scanned at the same time, on any machines that share OUT.

    Args:
        shard: its index, from 0, and the number of shards.
        options: as for `run`; `anew` discards the saved state of this shard alone.

    Returns: the job's folder.
    Raises: any ConvscopeError.
    """
    folder, (index, count) = place(out) / spec.name, shard
    reporter = reporter or Reporter(spec.name)
    with hold(folder, reporter.say, part=shard):
        job = open_job(spec, folder, reporter, options=options)
        from pipeline.activations.plan import ScanPlan
        from pipeline.activations.scan_state import ScanState, clear_shard
        from pipeline.engines.registry import scan_part

        sweep(folder / "parts", f"{index + 1}-of-{count}.part")
        if options.anew:
            clear_shard(folder, index, count, added=options.update)
        elif "activations" in new_receipt(job, find_receipt(folder)).stages:
            reporter.say(nothing_to_do(folder))
            return folder
        job.say_settings()
        with reporter.step(f"scan of shard {index + 1} of {count}", "images") as advance:
            part = scan_part(ScanState.read_shard(job, index, count), ScanPlan.of(job), index, count, advance)
        reporter.say(
            f"shard {index + 1} of {count} is done, {counted(part.done, 'example')}. Once all are done: convscope merge {folder}"
        )
    return folder


def merge(folder: Place, reporter: Reporter | None = None, options: RunOptions = RunOptions()) -> Place:
    """Merge the parts that the shards of a job wrote, and run the job's remaining stages.

    Returns: the job's folder.
    Raises: PartsMissing; WrongSpec, for parts that do not belong together, or that belong to another network or other
    data than the spec names now; any other ConvscopeError.
    """
    from pipeline.activations.scan_state import ScanState, found_parts

    receipt, parts = find_receipt(folder), found_parts(folder)
    if not parts and receipt is None:
        raise WrongSpec(f"{folder} has no parts to merge. Make them with convscope run SPEC --shard I/N, or name another folder.")
    spec = _as_written(parts[0].provenance.spec if parts else receipt.spec if receipt else {}, str(folder))
    reporter = reporter or Reporter(spec.name)
    if parts and parts[0].shard.begin:
        options = replace(options, update=True)
    with hold(folder, reporter.say):
        sweep(folder)
        job = open_job(spec, folder, reporter, options=options)
        if parts:
            job.prepared[ScanState] = state = ScanState.read(job)
            state.require_whole(parts[0])
            if receipt is not None and "activations" in receipt.stages:
                # The shards were scanned again, to replace the existing results.
                write_receipt(folder, receipt.begin(["activations"]))
        finish(job)
    return folder


def _as_written(tree: dict[str, Any], where: str) -> JobSpec:
    """The spec of a tree that has every key, without the defaults: one of them may be a key that this kind of network refuses."""
    return parse_spec(parse_spec(tree, where).model_dump(mode="json", exclude_defaults=True), where)
