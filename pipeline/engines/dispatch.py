"""Who scans what is still to be scanned: a table of engines, and what stands before and after each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.activations.resuming import begun, scanned_before, settle, whole
from pipeline.activations.saved import Origin
from pipeline.engines import local, ray
from pipeline.job import Job
from pipeline.sources.source import Shard

if TYPE_CHECKING:
    from pipeline.activations.part import Part
    from pipeline.activations.scan import Meter, Plan, Progress

# Each scans all examples from one on, leaves parts in the job's folder as it goes, and goes on from those it finds.
ENGINES: dict[str, Callable[[Job, Plan, Origin, int, Progress], tuple[Part, Meter]]] = {
    "local": local.scan_all,
    "ray": ray.scan_all,
}


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
    from pipeline.activations.scan import Meter, judge_bad

    origin = Origin.of(job)
    part, meter = whole(job, origin), Meter()
    if part is None:
        base = scanned_before(job, origin)
        begin = base.origin.examples if base else 0
        if base is not None:
            job.reporter.say(f"the first {begin:,} of {origin.examples:,} examples were scanned before; the rest is new")
        part, meter = ENGINES[job.dispatch.engine](job, plan, origin, begin, progress)
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
