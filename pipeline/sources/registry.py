"""The kinds of source, and how a `[data]` table becomes one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.errors import UnusableData, WrongSpec, foreign_errors
from pipeline.sources.bands import SampleForm
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
    "folder": SourceKind(open=open_folder, path=True, endings=("/",)),
    "parquet": SourceKind(open=open_parquet, path=True, keys=("image", "label", "labels"), endings=(".parquet",)),
    "tar": SourceKind(open=open_tar, path=True, keys=("image", "label", "labels"), endings=(".tar", ".tar.gz", ".tgz")),
    "list": SourceKind(open=open_list, path=True, keys=("labels",), endings=(".txt", ".csv", ".tsv")),
    "sample": SourceKind(open=open_sample),
}


def open_source(spec: DataSpec, fit: Fit, fetch: bool = True, channels: int = 3) -> Source:
    """The images that a `[data]` table names, fitted to a network's input; `limit` counts windows where there are any.

    Args:
        fetch: whether a data set that is not there yet may be downloaded and prepared.
        channels: of the network's input.

    Raises: UnknownName, WrongSpec, MissingInput, UnusableData.
    """
    kind, rest = split_source(spec, "data", KINDS)
    with foreign_errors(UnusableData, spec.source, "Look at the files, or fetch them again."):
        return source_of(KINDS[kind].open(rest, spec, fetch), spec, fit, channels)


def source_of(records: Records, spec: DataSpec, fit: Fit, channels: int) -> Source:
    """Open records as the source that a `[data]` table describes; the rest as `open_source`."""
    decoder = Decoder(spec.max_pixels, spec.bands, sample_form(spec, channels))
    if spec.window is None:
        return Images(records, fit, spec.limit, decoder)
    return Windows(records, fit, spec.window, spec.limit, decoder)


def sample_form(spec: DataSpec, channels: int) -> SampleForm | None:
    """How samples become what a network of so many channels is given; None where it is given 8-bit RGB, as it is shown.

    Raises: WrongSpec, for bands and ranges of another number, and for a network of other than grey or RGB pixels without
        `data.rgb`.
    """
    bands = spec.bands
    takes = f"the network takes {channels} band{'' if channels == 1 else 's'}"
    if channels in (1, 3) and spec.range is None and spec.rgb is None:
        if bands is not None and len(bands) not in (channels, 3):
            raise WrongSpec(f"data.bands = {list(bands)} names {len(bands)} bands, but {takes}. Name {channels}.")
        return None
    if bands is not None and len(bands) != channels:
        raise WrongSpec(f"data.bands = {list(bands)} names {len(bands)} bands, but {takes}. Name {channels}.")
    if spec.range is not None and len(spec.range) not in (1, channels):
        raise WrongSpec(f"data.range has {len(spec.range)} ranges, but {takes}. Write one range, or one for each band.")
    selected = tuple(range(channels)) if bands is None else bands
    if spec.rgb is None and channels not in (1, 3):
        raise WrongSpec(
            f"{takes}, and which of them pictures show as red, green and blue is not said. "
            f"Name three of {', '.join(map(str, selected))}, which may be the same: data.rgb = {[selected[0]] * 3}."
        )
    as_rgb = spec.rgb or (selected if channels == 3 else selected * 3)
    others = [band for band in as_rgb if band not in selected]
    if others:
        raise WrongSpec(f"data.rgb names band {others[0]}, which the network is not given: {', '.join(map(str, selected))}.")
    red, green, blue = (selected.index(band) for band in as_rgb)
    return SampleForm(channels, bands, (red, green, blue), None if spec.range is None else tuple(spec.range))
