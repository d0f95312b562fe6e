"""What of a scan is there already: whole, in the parts of shards, before the data grew, or begun; and what may be used."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.activations.part import Part, merge
from pipeline.activations.part_file import WHOLE, Provenance, SavedPart, read_part, saved_parts, shard_path, write_part
from pipeline.errors import PartsMissing, WrongSpec
from pipeline.job import Job
from pipeline.sources.source import Shard
from pipeline.store.files import store_failed
from pipeline.store.places import Place


def whole(job: Job, provenance: Provenance) -> Part | None:
    """What a scan that came to its end has found, or the parts of all shards together; None where some is to be scanned.

    Raises: Fault, WrongSpec.
    """
    base = scanned_before(job, provenance)
    if base is not None and base.provenance.examples == provenance.examples:
        return base.part
    found = saved_parts(job.folder)
    for count in {saved.shard.count for saved in found}:
        shards = [saved for saved in found if saved.shard.count == count and _fits(saved, provenance, base)]
        if len(shards) == count and all(saved.complete for saved in shards):
            return merge([saved.part for saved in (*shards, *([base] if base else []))])
    return None


def scanned_before(job: Job, provenance: Provenance) -> SavedPart | None:
    """What is known of the data's beginning: all of them, or, for an update, what they were before they grew.

    Raises: WrongSpec, where an update was asked for and the data did not only grow; Fault.
    """
    try:
        saved = read_part(job.folder / WHOLE)
    except FileNotFoundError:
        return None
    if saved.provenance.difference(provenance) is None:
        return saved
    if not job.options.update or saved.provenance.model != provenance.model or saved.provenance.settings != provenance.settings:
        return None
    if not _only_grew(saved.provenance, provenance, job):
        raise WrongSpec(
            f"{job.folder} cannot be updated: the first {saved.provenance.examples:,} examples are not those that were scanned. "
            "New ones must come after all old ones, in the order of their names. Run without --update to scan all of them."
        )
    return saved


def begun(job: Job, provenance: Provenance, shard: Shard) -> Part | None:
    """What an interrupted scan of a shard has saved of it.

    Raises: WrongSpec, where the network or the data are no longer what they were; Fault.
    """
    try:
        saved = read_part(shard_path(job.folder, shard))
    except FileNotFoundError:
        return None
    change = saved.provenance.difference(provenance)
    if change is None:
        return saved.part if saved.shard == shard else None
    if saved.provenance.settings != provenance.settings:  # by someone who wanted other results
        return None
    if job.options.update and saved.provenance.model == provenance.model and _only_grew(saved.provenance, provenance, job):
        # The last shard is longer now; where there are others, each is of other examples.
        return saved.part if saved.shard == shard == Shard(0, 1, shard.unit, shard.begin) else None
    raise WrongSpec(
        f"{job.folder} holds a scan that stopped after {saved.part.done:,} examples, and {change}. "
        "Put back what was there to go on, or start over with --anew."
    )


def found_parts(folder: Place) -> list[SavedPart]:
    """The parts that shards have left in a folder: of every shard, complete, of one network and one data set; or none.

    Parts that are there still though a merge has joined them, since it was stopped when it cleared them away, are none.

    Raises: WrongSpec, for parts that do not belong together; PartsMissing; Fault.
    """
    found = saved_parts(folder)
    if not found:
        return []
    sets = [[saved for saved in found if saved.shard.count == count] for count in {saved.shard.count for saved in found}]
    parts = max(sets, key=lambda parts: (not _missing(parts), len(parts)))
    first, *others = parts
    for other in others:
        change = first.provenance.difference(other.provenance)
        if change is None and other.shard.begin != first.shard.begin:
            change = f"it begins at another example: {other.shard.begin:,}, not {first.shard.begin:,}"
        if change is not None:
            here, there = (str(shard_path(folder, saved.shard)) for saved in (first, other))
            raise WrongSpec(f"{there} does not belong to {here}: {change}. Run its shard again with --anew.")
    missing = _missing(parts)
    if not missing:
        return parts
    if _joined(folder, first):
        return []
    raise PartsMissing(f"{folder} lacks {'; '.join(missing)}. Run what is missing with --shard I/N, then merge again.")


def require_whole(job: Job, part: SavedPart) -> None:
    """Whether a job's parts are all that there is to scan. Raises: WrongSpec, Fault."""
    provenance = Provenance.of(job)
    change = part.provenance.difference(provenance)
    if change is None and whole(job, provenance) is None:
        change = f"they begin at example {part.shard.begin:,}, and what was scanned before it is not in {WHOLE}"
    if change is not None:
        raise WrongSpec(
            f"the parts in {job.folder} cannot be merged: {change}. Put back what was there, or scan the shards with --anew."
        )


def settle(job: Job, provenance: Provenance, part: Part) -> None:
    """Put what the whole scan found in the place of the shards' parts. Raises: StoreFailed."""
    write_part(job.folder / WHOLE, SavedPart(provenance, Shard(), part))
    _clear_parts(job.folder)


def clear(folder: Place) -> None:
    """Forget all that was scanned. Raises: StoreFailed."""
    _clear_parts(folder)
    _remove(folder / WHOLE)


def forget(folder: Place, index: int, count: int, added: bool) -> None:
    """Forget what was scanned of one shard.

    Args:
        added: whether the shards are of what was added to an earlier scan, which then stays; else it goes too.

    Raises: StoreFailed.
    """
    _remove(shard_path(folder, Shard(index, count)))
    if not added:
        _remove(folder / WHOLE)


def _clear_parts(folder: Place) -> None:
    found: list[Place] = list((folder / "parts").glob("*.part"))
    for path in found:
        _remove(path)


def _remove(path: Place) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise store_failed(path, error) from error


def _only_grew(old: Provenance, new: Provenance, job: Job) -> bool:
    """Whether the examples are the old ones, and others after them."""
    return old.examples <= new.examples and job.data_begin_with(old.examples, old.data)


def _fits(saved: SavedPart, provenance: Provenance, base: SavedPart | None) -> bool:
    return saved.provenance.difference(provenance) is None and saved.shard.begin == (base.provenance.examples if base else 0)


def _joined(folder: Place, part: SavedPart) -> bool:
    """Whether the whole scan that a folder holds is of all that a part is of."""
    try:
        return read_part(folder / WHOLE).provenance.difference(part.provenance) is None
    except FileNotFoundError:
        return False


def _missing(parts: Sequence[SavedPart]) -> list[str]:
    """What a set of parts lacks, in words."""
    count = parts[0].shard.count
    absent = sorted(set(range(count)) - {saved.shard.index for saved in parts})
    words = [f"parts {', '.join(str(index + 1) for index in absent)} of {count}"] if absent else []
    for saved in parts:
        if not saved.complete:
            first, last = saved.bounds
            stands = f"{saved.part.done:,} of {last - first:,}"
            words.append(f"the rest of part {saved.shard.index + 1} of {count}, which stands at {stands}")
    return words
