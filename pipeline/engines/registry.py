"""The table of engines, and the scan of a job with one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.activations.part import Part, check_bad
from pipeline.activations.plan import Progress, ScanPlan
from pipeline.activations.scan_state import ScanState
from pipeline.activations.scan_times import ScanTimes
from pipeline.engines import local, ray
from pipeline.errors import UnknownName, WrongSpec
from pipeline.options import RunOptions
from pipeline.sources.source import Shard


@dataclass(frozen=True)
class Engine:
    """A way to run the shards.

    scan_all: scans the examples from `state.begin` on and saves parts in the job's folder meanwhile; it continues each
    shard from the part that `state.take` returns.
    require: raises WrongSpec if a package that the engine needs is not installed.
    """

    scan_all: Callable[[ScanState, ScanPlan, Progress], tuple[Part, ScanTimes]]
    require: Callable[[], object] = lambda: None


ENGINES: dict[str, Engine] = {
    "local": Engine(local.scan_all),
    "ray": Engine(ray.scan_all, ray.require),
}


def check_engine(options: RunOptions) -> None:
    """Check that the engine exists and is installed. Raises: UnknownName, WrongSpec."""
    if options.engine not in ENGINES:
        raise UnknownName.among(options.engine, ENGINES, where="an engine")
    if options.workers is not None and options.engine == "local":
        raise WrongSpec("the local engine has no workers. Leave out --workers, or choose --engine ray.")
    ENGINES[options.engine].require()


def scan_job(state: ScanState, plan: ScanPlan, progress: Progress) -> tuple[Part, ScanTimes]:
    """Scan the examples of a job's source that the state lacks.

    Returns: the part of the whole source, and where this run's time went.
    Raises: TooManyBad; Interrupted, with everything scanned so far saved; the errors of the engine.
    """
    job, examples = state.job, state.provenance.examples
    part, times = state.whole(), ScanTimes()
    if part is not None:
        job.reporter.say(f"all {part.done:,} examples were scanned before")
    else:
        if state.base is not None:
            job.reporter.say(f"the first {state.begin:,} of {examples:,} examples were scanned before; the rest is new")
        part, times = ENGINES[job.options.engine].scan_all(state, plan, progress)
        part = state.base.part.merge(part) if state.base else part
    check_bad(part, plan, examples)
    return part, times


def scan_part(state: ScanState, plan: ScanPlan, index: int, count: int, progress: Progress) -> Part:
    """Scan the `index`-th of `count` shards, from 0, of the examples from `state.begin` on. Raises: as `scan_job`."""
    return local.scan_shard(state, plan, Shard(index, count, plan.batch, state.begin), progress)[0]
