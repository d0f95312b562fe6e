"""Part files: what a scan of one shard has found so far, on disk or at an address, and what it belongs to.

A part file is a NumPy archive without pickles: arrays, and one text in JSON.
"""

from __future__ import annotations

import io
import json
import re
import time
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from pipeline.activations.channel_statistics import Statistics
from pipeline.activations.heap import Activations
from pipeline.activations.part import Part, Skipped
from pipeline.activations.tally import Tally
from pipeline.errors import Fault, WrongSpec, one_line
from pipeline.job import Job
from pipeline.sources.source import Shard
from pipeline.store.files import write_bytes
from pipeline.store.places import Place

FORMAT = 1  # of part files; raised when a reader of the older one would go wrong
WHOLE = "scan.part"  # in the job's folder: what the whole scan found, from which an update goes on
_WORTH = 50  # of the time between two saves, one part in so many may go into saving

# Keys of the spec that say where things are, or what is made of the responses, but change none of them.
_ELSEWHERE = {
    "model": {"source", "weights", "layers", "labels", "logits", "trusted"},
    "data": {"source", "data_dir", "label", "labels", "limit", "on_bad", "max_bad"},
    "activations": {"crop"},
}


@dataclass(frozen=True)
class Origin:
    """What a part was found in; parts can be joined, and a scan goes on, only where all but `spec` is the same.

    model, data: digests of the network and of the examples. examples: how many there are.
    settings: what else of the spec the responses depend on.
    spec: the whole spec, for the run that finishes the job.
    """

    model: str
    data: str
    examples: int
    settings: dict[str, Any]
    spec: dict[str, Any]

    @classmethod
    def of(cls, job: Job) -> Origin:
        """The origin of what a job finds."""
        spec = job.spec.model_dump(mode="json")
        settings = {f"{table}.{key}": spec[table][key] for table in _ELSEWHERE for key in spec[table].keys() - _ELSEWHERE[table]}
        settings["model.layers"] = [[layer.name, *layer.shape] for layer in job.layers]
        if job.spec.activations.label_k:
            settings["data.labels"] = job.source.labels  # the heaps of labels are in their order
        settings = json.loads(json.dumps(settings))  # as it will be read again
        return cls(job.digests["model"], job.digests["data"], len(job.source), settings, spec)

    def difference(self, other: Origin) -> str | None:
        """What of another origin is not as in this one, in words; None where nothing is."""
        if self.model != other.model:
            return f"the network has changed: its digest is {other.model}, and was {self.model}"
        if self.settings != other.settings:
            keys = sorted(self.settings.keys() | other.settings.keys())
            changed = [key for key in keys if self.settings.get(key) != other.settings.get(key)]
            return f"the spec has changed: {', '.join(changed)}"
        if self.examples != other.examples:
            return f"the data set has changed: it has {other.examples:,} examples, and had {self.examples:,}"
        if self.data != other.data:
            return f"the data set has changed: its digest is {other.data}, and was {self.data}"
        return None


@dataclass(frozen=True)
class Saved:
    """A part with what it belongs to: of which shard it is, and of what."""

    origin: Origin
    shard: Shard
    part: Part

    @property
    def bounds(self) -> tuple[int, int]:
        """The shard's examples, half-open."""
        return self.shard.bounds(self.origin.examples)

    @property
    def complete(self) -> bool:
        """Whether the shard was scanned to its end."""
        first, last = self.bounds
        return self.part.done == last - first


def shard_name(shard: Shard) -> str:
    """A shard as people count it, from 1."""
    return f"{shard.index + 1}-of-{shard.count}"


def shard_path(folder: Place, shard: Shard) -> Place:
    """The part file of a shard in a job's folder."""
    return folder / "parts" / f"{shard_name(shard)}.part"


def write_part(path: Place, saved: Saved) -> None:
    """Write a part file, aside and renamed. Raises: StoreFailed."""
    write_bytes(path, _packed(saved))


def read_part(path: Place) -> Saved:
    """Read a part file. Raises: FileNotFoundError; WrongSpec for one of another format; Fault for one that is damaged."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Fault(f"{path} cannot be read ({one_line(error)}). Make it readable.") from None
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            told = json.loads(bytes(archive["told"]))
            if told["format"] != FORMAT:
                raise WrongSpec(
                    f"{path} is of format {told['format']}, this version reads {FORMAT}. "
                    "Finish the job with the version that began it, or start it over with --anew."
                )
            return _unpacked(told, archive)
    except WrongSpec:
        raise
    except Exception as error:  # of whatever kind damage makes zipfile, zlib, NumPy or json raise
        raise Fault(f"{path} is damaged ({one_line(error)}). Remove it; what it held will be scanned again.") from None


def saved_parts(folder: Place) -> list[Saved]:
    """All that shards have left in a job's folder, complete or not, in the order of their numbers.

    Raises: WrongSpec, Fault.
    """
    found = [path for path in (folder / "parts").glob("*.part") if re.fullmatch(r"\d+-of-\d+\.part", path.name)]
    parts = [read_part(path) for path in found]
    return sorted(parts, key=lambda saved: (saved.shard.count, saved.shard.index))


class Keeper:
    """Saves what a scan has found, every so often and at its end; its `keep` is the scan's."""

    def __init__(self, folder: Place, origin: Origin, shard: Shard, every: float) -> None:
        """every: seconds between two saves; more where saving is slow. 0 saves after every batch."""
        self._path = shard_path(folder, shard)
        self._origin, self._shard = origin, shard
        self._every = every
        self._latest: Part | None = None
        self._due = time.monotonic() + every  # a clock that nobody sets

    @property
    def done(self) -> int:
        """Examples of the shard that the latest part deals with; 0 before the first."""
        return self._latest.done if self._latest else 0

    def keep(self, part: Part) -> None:
        """Remember a part, and save it if it is time to. Raises: StoreFailed."""
        self._latest = part
        if time.monotonic() >= self._due:
            self.save()

    def save(self) -> None:
        """Save the latest part now, if there is any. Raises: StoreFailed."""
        if self._latest is None:
            return
        started = time.monotonic()
        write_part(self._path, Saved(self._origin, self._shard, self._latest))
        ended = time.monotonic()
        self._due = ended + (max(self._every, _WORTH * (ended - started)) if self._every else 0)


# What a part holds by layer, each of it a table of arrays.
_TABLES = {"heaps": Activations, "statistics": Statistics, "tallies": Tally, "weakest": Activations, "by_label": Activations}


def _packed(saved: Saved) -> bytes:
    part = saved.part
    arrays: dict[str, Any] = {}
    for kind in _TABLES:
        for number, name in enumerate(part.heaps):
            table = getattr(part, kind).get(name)
            if table is not None:
                table = table.settled() if isinstance(table, Tally) else table
                arrays |= {f"{number}.{kind}.{name}": getattr(table, name) for name in _arrays(type(table))}
    told = {
        "format": FORMAT,
        "origin": asdict(saved.origin),
        "shard": asdict(saved.shard),
        "layers": list(part.heaps),
        "seen": part.seen,
        "skipped": [[one.example, one.key, one.reason] for one in part.skipped],
    }
    buffer = io.BytesIO()
    # Most of the pieces of the sums are zero, and most of the buckets.
    np.savez_compressed(buffer, told=np.frombuffer(json.dumps(told).encode(), np.uint8), **arrays)
    return buffer.getvalue()


def _unpacked(told: dict[str, Any], archive: Any) -> Saved:
    found: dict[str, dict[str, Any]] = {kind: {} for kind in _TABLES}
    for kind, table in _TABLES.items():
        for number, layer in enumerate(told["layers"]):
            names = _arrays(table)
            if f"{number}.{kind}.{names[0]}" in archive:
                found[kind][layer] = table(**{name: archive[f"{number}.{kind}.{name}"] for name in names})
    skipped = tuple(Skipped(*one) for one in told["skipped"])
    return Saved(Origin(**told["origin"]), Shard(**told["shard"]), Part(**found, seen=told["seen"], skipped=skipped))


def _arrays(table: type) -> list[str]:
    """The names of a table's arrays; what is still to be settled is not among them."""
    return [one.name for one in fields(table) if one.name != "pending"]
