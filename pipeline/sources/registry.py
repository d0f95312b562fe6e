"""The kinds of source, and how a `[data]` table becomes one."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.errors import UnknownName
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

# What stands before the colon -> who opens what stands behind it; the last argument: whether it may be fetched first.
KINDS: dict[str, Callable[[str, DataSpec, bool], Records]] = {
    "tfds": open_tfds,
    "folder": open_folder,
    "parquet": open_parquet,
    "tar": open_tar,
    "list": open_list,
    "sample": open_sample,
}


def open_source(spec: DataSpec, fit: Fit, fetch: bool = True) -> Source:
    """The images that a `[data]` table names, fitted to a network's input; `limit` counts windows where there are any.

    Args:
        fetch: whether a data set that is not there yet may be downloaded and prepared.

    Raises: UnknownName, MissingInput, UnusableData.
    """
    kind, colon, rest = spec.source.partition(":")
    if not colon or kind not in KINDS:
        raise UnknownName.among(f"{kind}:", [f"{known}:" for known in KINDS], where=f"a kind of data.source ({spec.source!r})")
    records = KINDS[kind](rest, spec, fetch)
    if spec.window is None:
        return Images(records, fit, spec.limit)
    return Windows(records, fit, spec.window.size, spec.window.stride, spec.limit, spec.window.align == "middle")
