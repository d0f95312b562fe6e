"""`tar:GLOB`: WebDataset archives: an image and what is said of it are neighbours with the same name."""

from __future__ import annotations

import gzip
import json
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

import numpy as np

from pipeline.errors import ConvscopeError, UnusableData, one_line
from pipeline.sources.file_patterns import StoredFile, matching, numbered, of_each, read_names
from pipeline.sources.files import as_text
from pipeline.sources.folder import EXTENSIONS
from pipeline.sources.record_batches import stream_batches
from pipeline.sources.records import Record, chunk_for, digest_of, size_or_zero
from pipeline.spec.data import DataSpec
from pipeline.store import remote

if TYPE_CHECKING:
    import tensorflow as tf

LABELS = ("cls", "json", "txt")  # the extensions of files with a label, in order of preference
_JSON_KEYS = ("label", "cls")
_RANGE_BYTES = 2**22  # of an archive, read in one request
_AHEAD = 4  # requests to a remote address at a time


class Sample(NamedTuple):
    """An image in the `file`-th archive: `length` bytes from `offset` on; offsets count in the unpacked archive."""

    file: int
    key: str
    label: str
    offset: int
    length: int


class TarMember(NamedTuple):
    """A file in an archive; `text` is kept of files that may hold labels."""

    offset: int
    length: int
    text: bytes | None


@dataclass(frozen=True)
class Archives:
    """The samples of tar files, archive by archive, in the order in which their names first appear.

    names: the names of the classes by `data.labels`; None where the archives' labels are used as they are.
    """

    name: str
    labels: list[str] | None
    files: tuple[StoredFile, ...]
    samples: tuple[Sample, ...]
    names: list[str] | None = None

    @property
    def chunk(self) -> int:
        some = self.samples[:: max(1, len(self) // 100)]
        return chunk_for(float(np.mean([sample.length for sample in some])))

    def __len__(self) -> int:
        return len(self.samples)

    def digest(self, count: int) -> str:
        samples = self.samples[:count]
        files = [self.files[number] for number in sorted({sample.file for sample in samples})]
        identity = [(sample.key, sample.label) for sample in samples]
        return digest_of([(file.name, file.length) for file in files], identity, self.names)

    def read(self, first: int, last: int) -> tf.data.Dataset:
        return stream_batches(lambda: self._records(self._ranges(range(first, last))))

    def pick(self, examples: Sequence[int]) -> Iterator[Record]:
        for run in self._records(self._ranges(examples)):
            yield from run

    def find(self, key: str) -> int | None:
        names = (f"{self.files[sample.file].name}/{sample.key}" for sample in self.samples)
        return next((example for example, name in enumerate(names) if name == key), None)

    def sizes(self, first: int, last: int) -> np.ndarray:
        batches = self._records(self._ranges(range(first, last)))
        return np.array([size_or_zero(record.data) for batch in batches for record in batch], np.int64).reshape(-1, 2)

    def _ranges(self, examples: Sequence[int]) -> Iterator[list[int]]:
        """Examples that lie near each other, in order, so that one request reads them all."""
        range_: list[int] = []
        for example in examples:
            sample = self.samples[example]
            if range_:
                start, before = self.samples[range_[0]], self.samples[range_[-1]]
                near = sample.offset + sample.length - start.offset <= _RANGE_BYTES
                if sample.file != start.file or sample.offset < before.offset or not near:
                    yield range_
                    range_ = []
            range_.append(example)
        if range_:
            yield range_

    def _records(self, ranges: Iterator[list[int]]) -> Iterator[list[Record]]:
        """The records of each range; ranges of remote archives are requested ahead."""
        with ThreadPoolExecutor(_AHEAD) as pool:
            waiting: list[Future[list[Record]]] = []
            # A packed archive can only be unpacked from its beginning: one reader goes through it once.
            unpacked = _Unpacked()
            try:
                for range_ in ranges:
                    file = self.files[self.samples[range_[0]].file]
                    if _is_packed(file.path):
                        yield from (done.result() for done in waiting)
                        waiting.clear()
                        yield self._cut(range_, partial(unpacked.read, file.path))
                    elif not remote.is_remote(file.path):
                        yield self._cut(range_, partial(remote.read, file.path))
                    else:
                        waiting.append(pool.submit(self._cut, range_, partial(remote.read, file.path)))
                        if len(waiting) == _AHEAD:
                            yield waiting.pop(0).result()
                yield from (done.result() for done in waiting)
            finally:
                unpacked.close()
                for future in waiting:
                    future.cancel()

    def _cut(self, range_: list[int], read: partial[bytes]) -> list[Record]:
        samples = [self.samples[example] for example in range_]
        start, file = samples[0].offset, self.files[samples[0].file]
        last = samples[-1].offset + samples[-1].length
        try:
            data = read(start, last)
        except (OSError, EOFError, zlib.error) as error:
            raise UnusableData(f"{file.path} cannot be read: {error}. Fetch it again.") from None
        if len(data) != last - start:
            raise UnusableData(f"{file.path} is shorter than it was when the job began. Start the job again with --anew.")
        return [
            Record(
                example,
                f"{file.name}/{sample.key}",
                sample.label,
                data[sample.offset - start : sample.offset - start + sample.length],
                "",
            )
            for example, sample in zip(range_, samples, strict=True)
        ]


def open_tar(pattern: str, spec: DataSpec, fetch: bool) -> Archives:
    """The samples of all archives that a pattern matches, byte-wise by path; .tar, or packed as .tar.gz and .tgz.

    A sample is what shares its path up to the first dot of the file's name. Its image is the member `data.image`
    (an extension), or the only one with an image's extension; its label the text of the member `data.label` (an
    extension, or a key of the .json), or of .cls, .json (`label` or `cls`) or .txt. One pass over the headers indexes
    all samples.

    Raises: MissingInput, UnusableData.
    """
    files = matching("tar", pattern)
    names = None if spec.labels is None else read_names(spec.labels)
    indexes = of_each(files, partial(_samples, spec=spec))
    samples = [sample._replace(file=number) for number, index in enumerate(indexes) for sample in index]
    if not samples:
        raise UnusableData(f"tar:{pattern} holds no images ({', '.join(EXTENSIONS)}). Name other files, or set data.image.")
    if names is not None:
        path = str(spec.labels)
        samples = [
            sample._replace(label=numbered(names, path, sample.label, f"{files[sample.file].name}/{sample.key}"))
            for sample in samples
        ]
    texts = {sample.label for sample in samples if sample.label}
    # Numbers are labels, but not names of classes.
    labels = names or (None if all(text.lstrip("-").isdigit() for text in texts) else sorted(texts))
    return Archives(f"tar:{pattern}", labels, tuple(files), tuple(samples), names)


def _samples(file: StoredFile, spec: DataSpec) -> list[Sample]:
    """The index of one archive, as if it were the first."""
    with_labels = {*LABELS, *([] if spec.label is None else [spec.label.lower()])}
    try:
        groups = remote.patiently(lambda: _groups(file, with_labels), file.path)
    except ConvscopeError:
        raise
    except Exception as error:  # tarfile raises many kinds for what strangers write
        reason = one_line(error)
        raise UnusableData(f"{file.path} is cut short, or no tar archive: {reason}. Fetch it or write it again.") from None
    samples = []
    for key, members in groups.items():
        image = _image_of(members, spec.image, f"{file.path}: sample {key!r}")
        if image is not None:
            label = _label_of(members, spec.label)
            samples.append(Sample(0, as_text(key), label, image.offset, image.length))
    return samples


def _groups(file: StoredFile, with_labels: set[str]) -> dict[str, dict[str, TarMember]]:
    """{key: {extension: member}} of an archive, in the order of first appearance."""
    groups: dict[str, dict[str, TarMember]] = {}
    with closing(_open(file.path)) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in archive:
            folder, base = os.path.split(member.name)
            stem, _, extension = base.partition(".")
            if not member.isreg() or not stem:  # macOS writes ._x beside x
                continue
            if member.size < 0 or (not _is_packed(file.path) and member.offset_data + member.size > file.length):
                raise EOFError(f"{member.name[:100]!r} is longer than the archive")
            extension = extension.lower()
            held = archive.extractfile(member) if extension in with_labels else None
            text = None if held is None else held.read(2**16)
            groups.setdefault(os.path.join(folder, stem).removeprefix("./"), {})[extension] = TarMember(
                member.offset_data, member.size, text
            )
            archive.members.clear()  # type: ignore[attr-defined,unused-ignore]  # it would keep every header
        # tarfile ends silently at anything that is not a header; only a block of zeros is the end.
        stream.seek(archive.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise EOFError("its end is missing")
    return groups


def _image_of(members: dict[str, TarMember], named: str | None, where: str) -> TarMember | None:
    if named is not None:
        return members.get(named.lower().lstrip("."))
    images = [extension for extension in members if f".{extension}" in EXTENSIONS]
    images = images or [extension for extension in members if f".{extension}".endswith(EXTENSIONS)]
    if len(images) > 1:
        raise UnusableData(
            f"{where} has several images: {', '.join(images)}. Set data.image to one of these extensions; "
            "a sample's name ends at the first dot."
        )
    return members[images[0]] if images else None


def _label_of(members: dict[str, TarMember], named: str | None) -> str:
    keys = _JSON_KEYS if named is None else (named,)
    for extension in LABELS if named is None else (named.lower(), "json"):
        member = members.get(extension)
        if member is None or member.text is None:
            continue
        text = member.text.decode("utf-8", "backslashreplace").strip()
        if extension != "json":
            return text
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError):
            continue
        for key in keys:
            if isinstance(tree, dict) and isinstance(tree.get(key), (str, int)):
                return str(tree[key])
    return ""


def _is_packed(path: str) -> bool:
    return path.lower().endswith((".gz", ".tgz"))


def _open(path: str) -> BinaryIO:
    stream = remote.open_binary(path)
    return cast(BinaryIO, _Gunzipped(stream)) if _is_packed(path) else stream


class _Gunzipped(gzip.GzipFile):
    """Unpacks a stream, and closes it when it is closed itself."""

    def __init__(self, packed: BinaryIO) -> None:
        super().__init__(fileobj=packed, mode="rb")
        self._packed = packed

    def close(self) -> None:
        super().close()
        self._packed.close()


class _Unpacked:
    """A packed archive that is read from its beginning towards its end."""

    def __init__(self) -> None:
        self._path = ""
        self._stream: BinaryIO | None = None

    def read(self, path: str, first: int, last: int) -> bytes:
        def attempt() -> bytes:
            try:
                if self._stream is None or path != self._path:
                    self.close()
                    self._path, self._stream = path, _open(path)
                self._stream.seek(first)
                return self._stream.read(last - first)
            except BaseException:
                self.close()
                raise

        return remote.patiently(attempt, path)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None
