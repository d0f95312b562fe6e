"""ScanState: what earlier runs have left of a job's scan, read once, and what of it this run may use."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.activations.part import Part, merge
from pipeline.activations.part_file import (
    WHOLE,
    Provenance,
    SavedPart,
    check_part,
    read_part,
    saved_parts,
    shard_path,
    write_part,
)
from pipeline.activations.plan import ScanPlan
from pipeline.errors import PartsMissing, WrongSpec
from pipeline.job import Job
from pipeline.sources.source import Shard
from pipeline.store.files import store_failed
from pipeline.store.places import Place


class ScanState:
    """What is there of a scan: all of it, what was there before the data grew, parts of shards, or nothing.

    Engines ask it where to start (`begin`), which shards an earlier run had (`shard_count`), and what it has of each
    (`take`).

    provenance: what the parts of this run are scanned from.
    base: the scan of the first examples, which this run continues; None where there is none.
    """

    def __init__(self, job: Job, base: SavedPart | None, parts: Sequence[SavedPart]) -> None:
        self.job, self.provenance, self.base = job, Provenance.of(job), base
        plan = ScanPlan.of(job)
        for saved in [base, *parts] if base else parts:  # those of other settings are not used
            if saved.provenance.settings == self.provenance.settings:
                check_part(saved, plan, job.folder / WHOLE if saved is base else shard_path(job.folder, saved.shard))
        self._parts = {(saved.shard.index, saved.shard.count): saved for saved in parts}

    @classmethod
    def read(cls, job: Job) -> ScanState:
        """Read all that is there. Raises: WrongSpec, where an update was asked for and the data did not only grow; Fault."""
        base = _base(job)
        is_whole = base is not None and base.provenance.examples == len(job.source)
        return cls(job, base, [] if is_whole else saved_parts(job.folder))

    @classmethod
    def read_shard(cls, job: Job, index: int, count: int) -> ScanState:
        """Read what one shard needs; the others may belong to runs that are at work. Raises: as `read`."""
        base = _base(job)
        try:
            return cls(job, base, [read_part(shard_path(job.folder, Shard(index, count)))])
        except FileNotFoundError:
            return cls(job, base, [])

    @property
    def begin(self) -> int:
        """The first example that the base does not cover."""
        return self.base.provenance.examples if self.base else 0

    def whole(self) -> Part | None:
        """The whole scan, from the base or from the parts of all shards; None where some is left to scan."""
        if self.base is not None and self.begin == self.provenance.examples:
            return self.base.part
        parts = self._complete_shards()
        return merge([saved.part for saved in (*parts, *([self.base] if self.base else []))]) if parts else None

    def check(self) -> None:
        """Whether an interrupted scan can be continued, before anything is changed. Raises: WrongSpec."""
        is_whole = self.base is not None and self.begin == self.provenance.examples
        if not is_whole and not self._complete_shards():
            self._usable(Shard(0, 1, self.job.spec.data.batch, self.begin))

    def take(self, shard: Shard) -> Part | None:
        """Hand over what an interrupted scan has saved of a shard; the state no longer holds it.

        Raises: WrongSpec, where the network or the data are no longer what they were.
        """
        part = self._usable(shard)
        self._parts.pop((shard.index, shard.count), None)
        return part

    def shard_count(self) -> int | None:
        """Into how many shards an earlier run cut the examples from `begin` on; of several runs, the one that came furthest."""
        several = [saved for saved in self._parts.values() if saved.shard.count > 1 and saved.shard.begin == self.begin]
        return max(several, key=lambda saved: saved.part.done).shard.count if several else None

    def require_whole(self, parts: SavedPart) -> None:
        """Whether the parts in the folder, of which one is given, are all that there is to scan. Raises: WrongSpec."""
        change = parts.provenance.difference(self.provenance)
        if change is None and self.whole() is None:
            change = f"they begin at example {parts.shard.begin:,}, and {WHOLE} does not hold the scan of those before it"
        if change is not None:
            raise WrongSpec(
                f"the parts in {self.job.folder} cannot be merged: {change}. "
                "Put back what was there, or scan the shards again with --anew."
            )

    def _complete_shards(self) -> list[SavedPart]:
        """A complete set of shards that were scanned from what this run scans, after the base; empty where there is none."""
        for count in {count for _, count in self._parts}:
            shards = [
                saved
                for saved in self._parts.values()
                if saved.shard.count == count
                and saved.shard.begin == self.begin
                and saved.provenance.difference(self.provenance) is None
            ]
            if len(shards) == count and all(saved.complete for saved in shards):
                return shards
        return []

    def _usable(self, shard: Shard) -> Part | None:
        saved = self._parts.get((shard.index, shard.count))
        if saved is None:
            return None
        change = saved.provenance.difference(self.provenance)
        if change is None:
            return saved.part if saved.shard == shard else None
        if saved.provenance.settings != self.provenance.settings:  # the user wants other results now
            return None
        if _may_have_grown(self.job, saved.provenance, self.provenance) and _only_grew(self.job, saved.provenance):
            # A single shard is longer now; several now hold other examples each.
            return saved.part if saved.shard == shard == Shard(0, 1, shard.unit, shard.begin) else None
        raise WrongSpec(
            f"{self.job.folder} holds a scan that stopped after {saved.part.done:,} examples, and {change}. "
            "Put back what was there to continue, or start over with --anew."
        )


def found_parts(folder: Place) -> list[SavedPart]:
    """The parts in a job's folder: of every shard, complete, of one network and one data set; or none.

    Parts that a merge has already put into the whole scan, but was stopped before it removed them, do not count.

    Raises: WrongSpec, for parts that do not belong together; PartsMissing; Fault.
    """
    saved = saved_parts(folder)
    if not saved:
        return []
    sets = [[part for part in saved if part.shard.count == count] for count in {part.shard.count for part in saved}]
    parts = max(sets, key=lambda parts: (not _missing(parts), len(parts)))
    first, *others = parts
    for other in others:
        change = first.provenance.difference(other.provenance)
        if change is None and other.shard.begin != first.shard.begin:
            change = f"it begins at another example: {other.shard.begin:,}, not {first.shard.begin:,}"
        if change is not None:
            first_path, other_path = (str(shard_path(folder, part.shard)) for part in (first, other))
            raise WrongSpec(f"{other_path} does not belong to {first_path}: {change}. Run its shard again with --anew.")
    missing = _missing(parts)
    if not missing:
        return parts
    whole = _read_whole(folder)
    if whole is not None and whole.provenance.difference(first.provenance) is None:
        return []
    raise PartsMissing(f"{folder} lacks {'; '.join(missing)}. Run what is missing with --shard I/N, then merge again.")


def settle(job: Job, part: Part) -> None:
    """Save the whole scan and remove the parts of its shards, once the results are in place. Raises: StoreFailed."""
    write_part(job.folder / WHOLE, SavedPart(Provenance.of(job), Shard(), part))
    _clear_parts(job.folder)


def clear(folder: Place) -> None:
    """Remove all that was scanned. Raises: StoreFailed."""
    _clear_parts(folder)
    _remove(folder / WHOLE)


def clear_shard(folder: Place, index: int, count: int, added: bool) -> None:
    """Remove what was scanned of one shard.

    Args:
        added: whether the shards are of examples added to an earlier scan, which then stays; else it is removed too.

    Raises: StoreFailed.
    """
    _remove(shard_path(folder, Shard(index, count)))
    if not added:
        _remove(folder / WHOLE)


def _clear_parts(folder: Place) -> None:
    paths: list[Place] = list((folder / "parts").glob("*.part"))
    for path in paths:
        _remove(path)


def _remove(path: Place) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise store_failed(path, error) from error


def _read_whole(folder: Place) -> SavedPart | None:
    try:
        return read_part(folder / WHOLE)
    except FileNotFoundError:
        return None


def _base(job: Job) -> SavedPart | None:
    """The scan of all examples or, for an update, of those before the data grew. Raises: as `ScanState.read`."""
    saved, provenance = _read_whole(job.folder), Provenance.of(job)
    if saved is None or saved.provenance.difference(provenance) is None:
        return saved
    if not _may_have_grown(job, saved.provenance, provenance):
        return None
    if not _only_grew(job, saved.provenance):
        raise WrongSpec(
            f"{job.folder} cannot be updated: the first {saved.provenance.examples:,} examples are not those that were scanned. "
            "New ones must come after all old ones, in the order of their names. Run without --update to scan all of them."
        )
    return saved


def _may_have_grown(job: Job, old: Provenance, new: Provenance) -> bool:
    """Whether an update was asked for, and nothing but the data has changed."""
    return job.options.update and old.model == new.model and old.settings == new.settings


def _only_grew(job: Job, old: Provenance) -> bool:
    """Whether the examples are the old ones, and others after them."""
    return old.examples <= len(job.source) and job.data_begin_with(old.examples, old.data)


def _missing(parts: Sequence[SavedPart]) -> list[str]:
    """The shards missing from a set of parts, in words."""
    count = parts[0].shard.count
    absent = sorted(set(range(count)) - {saved.shard.index for saved in parts})
    named = ", ".join(str(index + 1) for index in absent[:40]) + (f" and {len(absent) - 40:,} more" if len(absent) > 40 else "")
    words = [f"parts {named} of {count}"] if absent else []
    for saved in parts:
        if not saved.complete:
            first, last = saved.bounds
            stands = f"{saved.part.done:,} of {last - first:,}"
            words.append(f"the rest of part {saved.shard.index + 1} of {count}, which stands at {stands}")
    return words
