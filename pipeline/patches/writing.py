"""Winners written: the index, the crops and the mosaics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.drawing.pixels import encode_grey_png
from pipeline.geometry import EDGES
from pipeline.hardware import release_memory
from pipeline.patches.cut_state import CutState
from pipeline.patches.cutting import cut_winners
from pipeline.patches.mosaics import write_mosaics
from pipeline.patches.pictures import LayerPictures, PatchOptions, WinnerPictures
from pipeline.patches.winners import Winners
from pipeline.sources.source import Source
from pipeline.store.columns import columns_of
from pipeline.store.files import file_name
from pipeline.store.places import Place
from pipeline.store.tables import INDEX, write_crops, write_images, write_index

TABLES = ("activations", "weakest", "by_label")  # of the index, in which winners are listed

_CHUNK = 256  # thumbnails in memory at a time
_CHUNK_BYTES = 16_000_000  # of distinct crops in memory at a time

Labels = dict[str, list[list[str | None]]]


def write_patches(winners: Sequence[Winners], source: Source, folder: Place, options: PatchOptions) -> Labels:
    """Crop every winner from its source image and write the index, the crops and the mosaics.

    Every image is decoded once, and every picture is made then. Crops have the source's own pixels. They are cut at the
    boxes or, in layers that find them, at the effective fields or at the regions of the channels' maps. A run that was
    stopped goes on with the images and pages that it had not done.

    Args:
        folder: the job's folder.

    Returns: {layer: for each channel, the labels of its winners, strongest first}.
    Raises: StoreFailed; UnusableData, for a winner that can no longer be read.
    """
    with CutState(winners, folder, options) as state:
        pictures = cut_winners(winners, source, state, options)
        state.save_before_pages()
        release_memory()
        images = _Images(pictures)
        together = list(zip(winners, pictures.layers, strict=True))
        for table in TABLES:
            listed = [(layer, layer_pictures) for layer, layer_pictures in together if layer.table == table]
            if listed or table == "activations":
                write_index(folder, table, _index_columns(listed, images))
            else:
                (folder / "index" / f"{table}.parquet").unlink(missing_ok=True)
        write_images(folder, images.rows())
        cropped = [(layer, layer_pictures) for layer, layer_pictures in together if layer.table == "activations"]
        for layer, layer_pictures in cropped:
            write_crops(folder / "crops" / f"{file_name(layer.layer)}.parquet", _crop_rows(layer, layer_pictures, images))
        kept = {f"{file_name(layer.layer)}.parquet" for layer, _ in cropped}
        for path in (folder / "crops").glob("*.parquet"):
            if path.name not in kept:  # of an earlier run
                path.unlink()
        places = write_mosaics(cropped, state, folder, options)
        write_index(folder, "mosaics", columns_of(INDEX["mosaics"], places))
        state.complete()
        return {layer.layer: [images.labels_of(of_channel) for of_channel in layer.examples] for layer, _ in cropped}


class _Images:
    """The columns of the index that come from the winners' images, looked up for many winners at once."""

    def __init__(self, pictures: WinnerPictures) -> None:
        self._spool, self._images = pictures.spool, pictures.images
        self.pictures = pictures
        self._examples = np.array(sorted(pictures.images), np.int64)
        images = [pictures.images[int(example)] for example in self._examples]
        self._keys = pa.array([image.key for image in images], pa.string())
        self._labels = pa.array([image.label for image in images], pa.string())

    def keys_and_labels(self, examples: np.ndarray) -> tuple[pa.Array, pa.Array]:
        """For int (n,) examples."""
        rows = pa.array(np.searchsorted(self._examples, examples))
        return self._keys.take(rows), self._labels.take(rows)

    def labels_of(self, examples: np.ndarray) -> list[str | None]:
        """The labels of a channel's winners, strongest first."""
        return [self._images[int(example)].label for example in examples if example >= 0]

    def rows(self) -> Iterator[dict[str, Sequence[Any]]]:
        """The rows of index/images.parquet by example, in chunks; one empty chunk where there are none."""
        for start in range(0, max(len(self._examples), 1), _CHUNK):
            chunk = [int(example) for example in self._examples[start : start + _CHUNK]]
            images = [self._images[example] for example in chunk]
            yield {
                "image": [
                    {"bytes": self._spool.get(*image.thumbnail), "path": f"{example}.jpg"}
                    for example, image in zip(chunk, images, strict=True)
                ],
                "example": chunk,
                **{name: [getattr(image, name) for image in images] for name in ("key", "label", "height", "width")},
                **{f"input_{edge}": [image.seen[at] for image in images] for at, edge in enumerate(EDGES)},
            }


def _winner_columns(layer: Winners, images: _Images, c: np.ndarray, rank: np.ndarray) -> dict[str, Any]:
    """The columns that the index and the crops have in common, for winners at int (n,) positions of channels and ranks."""
    examples = layer.examples[c, rank]
    keys, labels = images.keys_and_labels(examples)
    return {
        "layer": pa.array([layer.layer] * len(c), pa.string()),
        "channel": layer.channels[c],
        "rank": rank,
        "score": layer.scores[c, rank],
        "example": examples,
        "key": keys,
        "label": labels,
    }


def _index_columns(winners: Sequence[tuple[Winners, LayerPictures]], images: _Images) -> Mapping[str, Sequence[Any]]:
    schema = INDEX["activations"]
    parts: dict[str, list[pa.Array]] = {name: [] for name in schema.names}
    for layer, pictures in winners:
        c, rank = np.nonzero(layer.filled)
        columns = _winner_columns(layer, images, c, rank) | {"row": layer.rows[c, rank], "col": layer.cols[c, rank]}
        unclipped = np.full(len(c), np.nan) if layer.unclipped is None else layer.unclipped[c, rank]
        columns["unclipped"] = pa.array(unclipped, pa.float32(), mask=np.isnan(unclipped))
        for prefix, boxes, needed in (
            ("", layer.boxes, True),
            ("src_", pictures.source, True),
            ("eff_", pictures.effective, False),
            ("eff_src_", pictures.effective_source, False),
            ("map_", pictures.region, False),
            ("map_src_", pictures.region_source, False),
        ):
            of_winners = boxes[c, rank]
            absent = None if needed else ~of_winners.any(axis=1)
            for at, edge in enumerate(EDGES):
                columns[f"{prefix}{edge}"] = pa.array(of_winners[:, at], pa.int32(), mask=absent)
        for name, column in parts.items():
            values = columns[name]
            column.append(values if isinstance(values, pa.Array) else pa.array(values).cast(schema.field(name).type))
    return {name: pa.chunked_array(column, schema.field(name).type) for name, column in parts.items()}


def _crop_rows(layer: Winners, pictures: LayerPictures, images: _Images) -> Iterator[dict[str, Any]]:
    """The rows of crops/LAYER.parquet by channel and rank, in chunks; one empty chunk where there are none.

    Rows with the same picture share its bytes, in memory and, as Parquet's dictionaries, in the file. What counts is what
    the pictures hold, not where they are in the spool, so that the file's bytes follow from its rows.
    """
    places = [(int(c), rank) for c in np.argsort(layer.channels, kind="stable") for rank in layer.ranks(int(c))]
    spool = images.pictures.spool
    begin = 0
    while begin < len(places) or begin == 0:
        numbers: dict[int, int] = {}  # of a chunk's distinct crops, by where they begin in the spool
        distinct: dict[bytes, int] = {}  # the same numbers, by content
        size, end = 0, begin
        while end < len(places) and size < _CHUNK_BYTES:
            start, length = (int(value) for value in pictures.crops[places[end]])
            if start not in numbers:
                crop = spool.get(start, length)
                size += 0 if crop in distinct else length
                numbers[start] = distinct.setdefault(crop, len(distinct))
            end += 1
        chunk = places[begin:end]
        c, rank = np.array(chunk, np.int64).reshape(-1, 2).T
        picture_numbers = pa.array([numbers[int(start)] for start in pictures.crops[c, rank, 0]], pa.int32())
        suffixes = [".png" if crop.startswith(b"\x89PNG") else ".jpg" for crop in distinct]
        names = [
            f"{channel}-{of_channel}{suffixes[number]}"
            for channel, of_channel, number in zip(layer.channels[c], rank, picture_numbers.to_pylist(), strict=True)
        ]
        yield {
            "image": pa.StructArray.from_arrays(
                [
                    pa.DictionaryArray.from_arrays(picture_numbers, pa.array(list(distinct), pa.binary())),
                    pa.array(names, pa.string()),
                ],
                names=["bytes", "path"],
            ),
            **_winner_columns(layer, images, c, rank),
            "map": _map_pictures(pictures, images, c, rank),
        }
        begin = max(end, 1)


def _map_pictures(pictures: LayerPictures, images: _Images, c: np.ndarray, rank: np.ndarray) -> list[bytes | None]:
    """The channels' maps of some winners as grey PNG files; None where a layer is not cropped to them."""
    if not pictures.map_size:
        return [None] * len(c)
    height, width = pictures.map_size
    maps = (images.pictures.spool.get(int(start), height * width) for start in pictures.maps[c, rank])
    return [encode_grey_png(np.frombuffer(data, np.uint8).reshape(height, width)) for data in maps]
