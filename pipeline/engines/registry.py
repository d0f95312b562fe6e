"""Who scans what is still to be scanned: a table of engines, and what stands before and after each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.activations.part_file import Origin
from pipeline.activations.scan_state import begun, scanned_before, settle, whole
from pipeline.engines import local, ray
from pipeline.errors import UnknownName, WrongSpec
from pipeline.job import Job
from pipeline.options import RunOptions
from pipeline.sources.source import Shard

if TYPE_CHECKING:
    from pipeline.activations.meter import Meter
    from pipeline.activations.part import Part
    from pipeline.activations.scan import Plan, Progress


@dataclass(frozen=True)
class Engine:
    """Who runs the shards.

    scan_all: scans all examples from one on, leaves parts in the job's folder as it goes, and goes on from those it finds.
    require: raises WrongSpec, where something that the engine needs is not installed.
    """

    scan_all: Callable[[Job, Plan, Origin, int, Progress], tuple[Part, Meter]]
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
    origin = Origin.of(job)
    base = scanned_before(job, origin)
    if whole(job, origin) is None:
        begun(job, origin, Shard(0, 1, job.spec.data.batch, base.origin.examples if base else 0))


def scan_job(job: Job, plan: Plan, progress: Progress) -> tuple[Part, Meter]:
    """What a scan of the whole source finds; only what no earlier run has scanned is scanned.

    Raises: TooManyBad, Interrupted with what was found saved, and whatever the engine raises.
    """
    from pipeline.activations.meter import Meter
    from pipeline.activations.scan import judge_bad

    origin = Origin.of(job)
    part, meter = whole(job, origin), Meter()
    if part is None:
        base = scanned_before(job, origin)
        begin = base.origin.examples if base else 0
        if base is not None:
            job.reporter.say(f"the first {begin:,} of {origin.examples:,} examples were scanned before; the rest is new")
        part, meter = ENGINES[job.options.engine].scan_all(job, plan, origin, begin, progress)
        part = base.part.merge(part) if base else part
    else:
        job.reporter.say(f"all {part.done:,} examples were scanned before")
    judge_bad(part, plan, origin.examples)
    return part, meter


def scan_part(job: Job, plan: Plan, index: int, count: int, progress: Progress) -> Part:
    """What a scan of the `index`-th of `count` parts, from 0, of what no earlier run has scanned finds.

    Raises: as `scan_job`.
    """
    origin = Origin.of(job)
    base = scanned_before(job, origin)
    return local.scan_shard(job, plan, origin, Shard(index, count, plan.batch, base.origin.examples if base else 0), progress)[0]


def settle_job(job: Job, part: Part) -> None:
    """Keep what the whole scan found, once its results are in place. Raises: StoreFailed."""
    settle(job, Origin.of(job), part)
