"""Part files: what a scan of one shard has collected so far, on disk or at an address, and what it was scanned from.

A part file is a NumPy archive without pickles: arrays, and a header in JSON.
"""

from __future__ import annotations

import io
import json
import re
import time
import zipfile
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pipeline.activations.heap import UNFILLED
from pipeline.activations.part import Part, Skipped, member_kinds
from pipeline.activations.plan import ScanPlan
from pipeline.errors import Fault, WrongSpec, one_line
from pipeline.job import Job
from pipeline.options import MOST_SHARDS
from pipeline.sources.source import Shard
from pipeline.store.files import write_bytes
from pipeline.store.places import Place

FORMAT = 4  # of part files; raised when a reader of the older one would go wrong
WHOLE = "scan.part"  # in the job's folder: what the whole scan has collected, from which an update continues
_SAVING_SHARE = 50  # at most one part in so many of a scan's time goes into saving

# Keys of the spec that say where things are, or what is made of the responses, but do not change them.
_IRRELEVANT = {
    "model": {"source", "weights", "layers", "labels", "logits", "head", "trusted"},
    "data": {"source", "data_dir", "label", "labels", "limit", "on_bad", "max_bad"},
    "activations": {"crop"},
}


@dataclass(frozen=True)
class Provenance:
    """What a part was scanned from. Parts can be merged, and a scan continues, only where all but `spec` is the same.

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
    def of(cls, job: Job) -> Provenance:
        """The provenance of what a job scans."""
        spec = job.spec.model_dump(mode="json")
        settings = {
            f"{table}.{key}": spec[table][key] for table in _IRRELEVANT for key in spec[table] if key not in _IRRELEVANT[table]
        }
        settings["model.layers"] = [[layer.name, *layer.shape] for layer in job.layers]
        if job.spec.activations.label_k:
            settings["data.labels"] = job.source.labels  # the heaps of labels are in their order
        settings = json.loads(json.dumps(settings))  # tuples become lists, as they will when it is read back
        return cls(job.digests["model"], job.digests["data"], len(job.source), settings, spec)

    def difference(self, other: Provenance) -> str | None:
        """The difference between this provenance and another, in words; None where there is none."""
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
class SavedPart:
    """A part as a file holds it: with what it was scanned from, and its shard."""

    provenance: Provenance
    shard: Shard
    part: Part

    @property
    def bounds(self) -> tuple[int, int]:
        """The shard's examples, half-open."""
        return self.shard.bounds(self.provenance.examples)

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


def write_part(path: Place, saved: SavedPart) -> None:
    """Write a part file, aside and renamed. Raises: StoreFailed."""
    write_bytes(path, _encode(saved))


def read_part(path: Place) -> SavedPart:
    """Read a part file. Raises: FileNotFoundError; WrongSpec for one of another format; Fault for one that is damaged."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Fault(f"{path} cannot be read ({one_line(error)}). Make it readable.") from None
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            # Format 1 called the header by another name.
            stored = bytes(archive["header" if "header" in archive else "told"])
            header = json.loads(stored)
            if header["format"] != FORMAT:
                raise WrongSpec(
                    f"{path} is of format {header['format']}, this version reads {FORMAT}. "
                    "Finish the job with the version that started it, or start over with --anew."
                )
            if header["members"] != [*member_kinds()]:
                raise WrongSpec(
                    f"{path} holds {', '.join(header['members'])} of each layer, this version keeps {', '.join(member_kinds())}. "
                    "Finish the job with the version that started it, or start over with --anew."
                )
            return _decode(_Header.model_validate_json(stored), archive)
    except WrongSpec:
        raise
    except Exception as error:  # of whatever kind damage makes zipfile, zlib, NumPy or json raise
        raise Fault(f"{path} is damaged ({one_line(error)}). Remove it; its examples will be scanned again.") from None


def saved_parts(folder: Place) -> list[SavedPart]:
    """All parts of shards in a job's folder, complete or not, in the order of their numbers. Raises: WrongSpec, Fault."""
    paths = [path for path in (folder / "parts").glob("*.part") if re.fullmatch(r"\d+-of-\d+\.part", path.name)]
    parts = [read_part(path) for path in paths]
    return sorted(parts, key=lambda saved: (saved.shard.count, saved.shard.index))


class PartSaver:
    """Saves a shard's part every so often and at the end of its scan; `keep` is what the scan calls after each batch."""

    def __init__(self, folder: Place, provenance: Provenance, shard: Shard, every: float) -> None:
        """every: seconds between two saves; longer where saving is slow. 0 saves after every batch."""
        self._path = shard_path(folder, shard)
        self._provenance, self._shard = provenance, shard
        self._every = every
        self._latest: Part | None = None
        self._due = time.monotonic() + every

    @property
    def done(self) -> int:
        """Examples of the shard that the latest part covers; 0 before the first."""
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
        write_part(self._path, SavedPart(self._provenance, self._shard, self._latest))
        ended = time.monotonic()
        self._due = ended + (max(self._every, _SAVING_SHARE * (ended - started)) if self._every else 0)


def _encode(saved: SavedPart) -> bytes:
    part = saved.part
    arrays: dict[str, Any] = {
        f"{number}.{member.NAME}.{name}": array
        for number, members in enumerate(part.members.values())  # layers by number: their names may hold anything
        for member in members.values()
        for name, array in member.arrays().items()
    }
    header = {
        "format": FORMAT,
        "members": [*member_kinds()],
        "provenance": asdict(saved.provenance),
        "shard": asdict(saved.shard),
        "channels": part.channels,
        "seen": part.seen,
        "skipped": [[skipped.example, skipped.key, skipped.reason] for skipped in part.skipped],
    }
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    buffer = io.BytesIO()
    # Most pieces of the exact sums and most buckets of the histograms are zero, which the fastest level finds as well as
    # NumPy's own: it takes a third of the time, for files a fifteenth larger.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
    return buffer.getvalue()


Count = Annotated[int, Field(ge=0, le=2**53)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Provenance(_Strict):
    model: str
    data: str
    examples: Count
    settings: dict[str, Any]
    spec: dict[str, Any]


class _Shard(_Strict):
    index: Count
    count: Annotated[int, Field(ge=1, le=MOST_SHARDS)]
    unit: Annotated[int, Field(ge=1, le=2**20)]
    begin: Count


class _Header(_Strict):
    """The header of a part file: it may have been written by anyone."""

    format: int
    members: list[str]
    provenance: _Provenance
    shard: _Shard
    channels: dict[str, Annotated[int, Field(ge=1, le=2**31)]]
    seen: Count
    skipped: list[tuple[Count, str, str]]


def _decode(header: _Header, archive: Any) -> SavedPart:
    layers, kinds = list(header.channels), member_kinds()
    arrays: dict[str, dict[str, dict[str, np.ndarray]]] = {layer: {} for layer in layers}
    for name in archive.files:
        if name != "header":
            number, member, array = name.split(".")
            arrays[layers[int(number)]].setdefault(member, {})[array] = archive[name]
    members = {layer: {name: kinds[name].from_arrays(of) for name, of in by_name.items()} for layer, by_name in arrays.items()}
    part = Part(header.channels, members, header.seen, tuple(Skipped(*fields) for fields in header.skipped))
    shard = Shard(**header.shard.model_dump())
    if shard.index >= shard.count:
        raise ValueError("its shard is not one of them")
    return SavedPart(Provenance(**header.provenance.model_dump()), shard, part)


def check_part(saved: SavedPart, plan: ScanPlan, path: Place) -> None:
    """Whether the arrays of a part are those of a plan: layers, members, shapes, kinds of numbers, examples and positions.

    A part of the same provenance has them, unless somebody has changed the file. Raises: Fault.
    """
    try:
        empty = Part.empty(plan)
        _compare(saved.part, empty)
        saved.part.merge(empty)  # fails where the arrays of a member contradict each other
        first, last = saved.bounds
        if saved.part.done > last - first:
            raise ValueError("it has seen more than its shard holds")
        maps = {layer.name: layer.shape for layer in plan.layers}
        for layer, members in saved.part.members.items():
            for member in members.values():
                member.columns(np.arange(saved.part.channels[layer]))
                arrays, (height, width, _) = member.arrays(), maps[layer]
                for name, end in (("examples", saved.provenance.examples), ("rows", height), ("cols", width)):
                    if name in arrays and not np.all((arrays[name] >= UNFILLED) & (arrays[name] < end)):
                        raise ValueError(f"{layer!r} has {name} that are not there")
    except Exception as error:  # of whatever kind members raise over arrays that contradict each other
        raise Fault(f"{path} is damaged ({one_line(error)}). Remove it; its examples will be scanned again.") from None


def _compare(part: Part, empty: Part) -> None:
    """Raises: ValueError, where a part is none of the empty part's plan."""
    if part.channels != empty.channels:
        raise ValueError("it holds other layers")
    for layer, members in empty.members.items():
        if part.members[layer].keys() != members.keys():
            raise ValueError(f"{layer!r} has other members")
        for name, member in members.items():
            stored, fresh = part.members[layer][name].arrays(), member.arrays()
            alike = stored.keys() == fresh.keys() and all(_alike(stored[array], fresh[array]) for array in fresh)
            if not alike:
                raise ValueError(f"the {name} of {layer!r} are other arrays")


def _alike(stored: np.ndarray, fresh: np.ndarray) -> bool:
    """Whether an array has the type and the shape of a fresh one; axes that are empty there grow."""
    kind = stored.dtype.kind == "U" if fresh.dtype.kind == "U" else stored.dtype == fresh.dtype
    axes = zip(stored.shape, fresh.shape, strict=False)
    return kind and stored.ndim == fresh.ndim and all(length == side or length == 0 for side, length in axes)
