"""The local engine: one process, one shard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.activations.part_file import Keeper, Origin
from pipeline.activations.scan_state import begun
from pipeline.errors import Interrupted, TryAgain
from pipeline.job import Job
from pipeline.sources.source import Shard

if TYPE_CHECKING:
    from pipeline.activations.meter import Meter
    from pipeline.activations.part import Part
    from pipeline.activations.scan import Plan, Progress


def scan_all(job: Job, plan: Plan, origin: Origin, begin: int, progress: Progress) -> tuple[Part, Meter]:
    """Scan the examples from `begin` on in this process. Raises: as `scan_shard`."""
    return scan_shard(job, plan, origin, Shard(0, 1, plan.batch, begin), progress)


def scan_shard(job: Job, plan: Plan, origin: Origin, shard: Shard, progress: Progress) -> tuple[Part, Meter]:
    """Scan one shard, from where its part file stands, and leave the whole of it there.

    Returns: what the shard holds, and where this process' time went.
    Raises: Interrupted for a signal, with all that was found saved; whatever the scan raises.
    """
    from pipeline.activations.scan import scan

    found = begun(job, origin, shard)
    first, last = shard.bounds(origin.examples)
    if found is not None:
        job.reporter.say(f"going on from example {found.done:,} of {last - first:,}: so many were scanned before")
    progress(found.done if found else 0, last - first)
    keeper = Keeper(job.folder, origin, shard, job.options.save_every)
    try:
        part, meter = scan(job.network, job.source, plan, shard, progress, found, keeper.keep)
        keeper.keep(part)
        keeper.save()
    except KeyboardInterrupt:
        keeper.save()
        done = keeper.done or (found.done if found else 0)
        raise Interrupted(f"{done:,} of {last - first:,} examples are scanned and saved. Run the same command again.") from None
    except TryAgain:
        keeper.save()
        raise
    return part, meter
