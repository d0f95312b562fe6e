"""The kinds of source, and how a `[data]` table becomes one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.errors import UnusableData, foreign_errors
from pipeline.sources.decode import Decoder
from pipeline.sources.fit import Fit
from pipeline.sources.folder import open_folder
from pipeline.sources.images import Images
from pipeline.sources.lists import open_list
from pipeline.sources.parquet import open_parquet
from pipeline.sources.records import Records
from pipeline.sources.sample import open_sample
from pipeline.sources.source import Source
from pipeline.sources.tar import open_tar
from pipeline.sources.tfds import open_tfds
from pipeline.sources.windows import Windows
from pipeline.spec.data import DataSpec
from pipeline.spec.kinds import Kind, split_source


@dataclass(frozen=True)
class SourceKind(Kind):
    """A kind of source.

    open: is given what stands behind the colon of `data.source`, the table, and whether the data may be fetched first.
    """

    open: Callable[[str, DataSpec, bool], Records] = open_folder


# By what stands before the colon.
KINDS: dict[str, SourceKind] = {
    "tfds": SourceKind(open=open_tfds, keys=("data_dir",)),
    "folder": SourceKind(open=open_folder, path=True),
    "parquet": SourceKind(open=open_parquet, path=True, keys=("image", "label", "labels")),
    "tar": SourceKind(open=open_tar, path=True, keys=("image", "label", "labels")),
    "list": SourceKind(open=open_list, path=True, keys=("labels",)),
    "sample": SourceKind(open=open_sample),
}


def open_source(spec: DataSpec, fit: Fit, fetch: bool = True) -> Source:
    """The images that a `[data]` table names, fitted to a network's input; `limit` counts windows where there are any.

    Args:
        fetch: whether a data set that is not there yet may be downloaded and prepared.

    Raises: UnknownName, WrongSpec, MissingInput, UnusableData.
    """
    kind, rest = split_source(spec, "data", KINDS)
    decoder = Decoder(spec.max_pixels, spec.bands)
    with foreign_errors(UnusableData, spec.source, "Look at the files, or fetch them again."):
        records = KINDS[kind].open(rest, spec, fetch)
        if spec.window is None:
            return Images(records, fit, spec.limit, decoder)
        return Windows(records, fit, spec.window, spec.limit, decoder)
