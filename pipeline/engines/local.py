"""The local engine: one process, one shard."""

from __future__ import annotations

from pipeline.activations.part import Part
from pipeline.activations.part_file import PartSaver, Provenance
from pipeline.activations.plan import Progress, ScanPlan
from pipeline.activations.scan_state import begun
from pipeline.activations.scan_times import ScanTimes
from pipeline.errors import Interrupted, TryAgain
from pipeline.job import Job
from pipeline.sources.source import Shard


def scan_all(job: Job, plan: ScanPlan, provenance: Provenance, begin: int, progress: Progress) -> tuple[Part, ScanTimes]:
    """Scan the examples from `begin` on in this process. Raises: as `scan_shard`."""
    return scan_shard(job, plan, provenance, Shard(0, 1, plan.batch, begin), progress)


def scan_shard(job: Job, plan: ScanPlan, provenance: Provenance, shard: Shard, progress: Progress) -> tuple[Part, ScanTimes]:
    """Scan one shard, from where its part file stands, and leave the whole of it there.

    Returns: what the shard holds, and where this process' time went.
    Raises: Interrupted for a signal, with all that was found saved; whatever the scan raises.
    """
    from pipeline.activations.scan import scan

    found = begun(job, provenance, shard)
    first, last = shard.bounds(provenance.examples)
    if found is not None:
        job.reporter.say(f"going on from example {found.done:,} of {last - first:,}: so many were scanned before")
    progress(found.done if found else 0, last - first)
    saver = PartSaver(job.folder, provenance, shard, job.options.save_every)
    try:
        part, times = scan(job.network, job.source, plan, shard, progress, found, saver.keep)
        saver.keep(part)
        saver.save()
    except KeyboardInterrupt:
        saver.save()
        done = saver.done or (found.done if found else 0)
        raise Interrupted(f"{done:,} of {last - first:,} examples are scanned and saved. Run the same command again.") from None
    except TryAgain:
        saver.save()
        raise
    return part, times
