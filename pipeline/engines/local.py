"""The local engine: one process, one shard."""

from __future__ import annotations

from pipeline.activations.part import Part
from pipeline.activations.part_file import PartSaver
from pipeline.activations.plan import Progress, ScanPlan
from pipeline.activations.scan_state import ScanState
from pipeline.activations.scan_times import ScanTimes
from pipeline.errors import Interrupted, TryAgain
from pipeline.sources.source import Shard


def scan_all(state: ScanState, plan: ScanPlan, progress: Progress) -> tuple[Part, ScanTimes]:
    """Scan the examples that the state lacks in this process. Raises: as `scan_shard`."""
    return scan_shard(state, plan, Shard(0, 1, plan.batch, state.begin), progress)


def scan_shard(state: ScanState, plan: ScanPlan, shard: Shard, progress: Progress) -> tuple[Part, ScanTimes]:
    """Scan one shard, continuing from its part file, and write the complete part there.

    Returns: the shard's part, and where this process' time went.
    Raises: Interrupted for a signal, with everything scanned so far saved; the errors of the scan.
    """
    from pipeline.activations.scan import ScanSession, scan

    job, begun = state.job, state.take(shard)
    done = begun.done if begun else 0
    first, last = shard.bounds(state.provenance.examples)
    if begun is not None:
        job.reporter.say(f"continuing after {done:,} of {last - first:,} examples, which an earlier run has scanned")
    progress(done, last - first)
    saver = PartSaver(job.folder, state.provenance, shard, job.options.save_every)
    try:
        part, times = scan(job.network, job.source, plan, shard, ScanSession(begun, saver.keep, progress))
        saver.keep(part)
        saver.save()
    except KeyboardInterrupt:
        saver.save()
        done = saver.done or done
        raise Interrupted(f"{done:,} of {last - first:,} examples are scanned and saved. Run the same command again.") from None
    except TryAgain:
        saver.save()
        raise
    return part, times
