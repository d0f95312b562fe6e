"""Who scans what is still to be scanned: a table of engines, and what stands before and after each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.activations.part import Part, check_bad
from pipeline.activations.part_file import Provenance
from pipeline.activations.plan import Progress, ScanPlan
from pipeline.activations.scan_state import begun, scanned_before, settle, whole
from pipeline.activations.scan_times import ScanTimes
from pipeline.engines import local, ray
from pipeline.errors import UnknownName, WrongSpec
from pipeline.job import Job
from pipeline.options import RunOptions
from pipeline.sources.source import Shard


@dataclass(frozen=True)
class Engine:
    """Who runs the shards.

    scan_all: scans all examples from one on, leaves parts in the job's folder as it goes, and goes on from those it finds.
    require: raises WrongSpec, where something that the engine needs is not installed.
    """

    scan_all: Callable[[Job, ScanPlan, Provenance, int, Progress], tuple[Part, ScanTimes]]
    require: Callable[[], object] = lambda: None


ENGINES: dict[str, Engine] = {
    "local": Engine(local.scan_all),
    "ray": Engine(ray.scan_all, ray.require),
}


def check_engine(options: RunOptions) -> None:
    """Whether there is the engine that is asked for. Raises: UnknownName, WrongSpec."""
    if options.engine not in ENGINES:
        raise UnknownName.among(options.engine, ENGINES, where="an engine")
    if options.workers is not None and options.engine == "local":
        raise WrongSpec("the local engine has no workers. Leave out --workers, or choose --engine ray.")
    ENGINES[options.engine].require()


def check(job: Job) -> None:
    """Whether what an earlier run has left can be gone on from, before anything is changed. Raises: WrongSpec, Fault."""
    provenance = Provenance.of(job)
    base = scanned_before(job, provenance)
    if whole(job, provenance) is None:
        begun(job, provenance, Shard(0, 1, job.spec.data.batch, base.provenance.examples if base else 0))


def scan_job(job: Job, plan: ScanPlan, progress: Progress) -> tuple[Part, ScanTimes]:
    """What a scan of the whole source finds; only what no earlier run has scanned is scanned.

    Raises: TooManyBad, Interrupted with what was found saved, and whatever the engine raises.
    """
    provenance = Provenance.of(job)
    part, times = whole(job, provenance), ScanTimes()
    if part is None:
        base = scanned_before(job, provenance)
        begin = base.provenance.examples if base else 0
        if base is not None:
            job.reporter.say(f"the first {begin:,} of {provenance.examples:,} examples were scanned before; the rest is new")
        part, times = ENGINES[job.options.engine].scan_all(job, plan, provenance, begin, progress)
        part = base.part.merge(part) if base else part
    else:
        job.reporter.say(f"all {part.done:,} examples were scanned before")
    check_bad(part, plan, provenance.examples)
    return part, times


def scan_part(job: Job, plan: ScanPlan, index: int, count: int, progress: Progress) -> Part:
    """What a scan of the `index`-th of `count` parts, from 0, of what no earlier run has scanned finds.

    Raises: as `scan_job`.
    """
    provenance = Provenance.of(job)
    base = scanned_before(job, provenance)
    return local.scan_shard(
        job, plan, provenance, Shard(index, count, plan.batch, base.provenance.examples if base else 0), progress
    )[0]


def settle_job(job: Job, part: Part) -> None:
    """Keep what the whole scan found, once its results are in place. Raises: StoreFailed."""
    settle(job, Provenance.of(job), part)
