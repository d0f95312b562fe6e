"""Winners written: the index, the crops and the mosaics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.geometry import EDGES, Box
from pipeline.patches.mosaics import tile_sizes, write_mosaics
from pipeline.patches.winner_pictures import WinnerPictures, open_images
from pipeline.patches.winners import Winners
from pipeline.sources.fit import Fit
from pipeline.sources.source import Source
from pipeline.store.files import file_name
from pipeline.store.places import Place
from pipeline.store.spool import Spool
from pipeline.store.tables import CROPS, INDEX, write_crops, write_images, write_index

TABLES = ("activations", "weakest", "by_label")  # of the index, in which winners are listed

_CHUNK = 256  # crops in memory at a time


def write_patches(
    winners: Sequence[Winners],
    source: Source,
    fit: Fit,
    folder: Place,
    whole: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[list[str | None]]]:
    """Crop every winner from its source image and write the index, the crops and the mosaics.

    Every image is decoded once. Crops have the source's own pixels, at its own resolution. They are cut at the boxes,
    or, in layers that find them, at the effective fields.

    Args:
        fit: how the source's images are resized to the network's input.
        folder: the job's folder.
        whole: crop the whole image that the network was shown instead of the field.
        progress: is called with the numbers of images done and of all images.

    Returns: {layer: for each channel, the labels of its winners, strongest first}.
    Raises: StoreFailed; UnusableData, for a winner that can no longer be read.
    """
    with Spool(folder / "parts") as spool:
        cropped = [layer for layer in winners if layer.table == "activations"]
        pictures = WinnerPictures(spool, {layer.layer: tile_sizes(layer, fit, whole) for layer in cropped})
        open_images(winners, source, fit, whole, pictures, progress)
        for table in TABLES:
            listed = [layer for layer in winners if layer.table == table]
            if listed or table == "activations":
                write_index(folder, table, _index_columns(listed, pictures))
            else:
                (folder / "index" / f"{table}.parquet").unlink(missing_ok=True)
        write_images(folder, _image_rows(pictures))
        for layer in cropped:
            write_crops(folder / "crops" / f"{file_name(layer.layer)}.parquet", _crop_rows(layer, pictures))
            write_mosaics(layer, fit, whole, pictures, folder / "mosaics" / "activations")
        _remove_others(folder, [file_name(layer.layer) for layer in cropped])
        return {
            layer.layer: [[pictures.of(layer, c, rank).label for rank in layer.ranks(c)] for c in range(len(layer.channels))]
            for layer in cropped
        }


def _remove_others(folder: Place, names: Sequence[str]) -> None:
    """Remove what an earlier run left of layers that this one does not have."""
    kept = {f"{name}.parquet" for name in names} | {f"{name}{suffix}.png" for name in names for suffix in ("", "-crop", "-full")}
    for path in [*(folder / "crops").glob("*.parquet"), *(folder / "mosaics" / "activations").glob("*.png")]:
        if path.name not in kept:
            path.unlink()


def _row(layer: Winners, c: int, rank: int, pictures: WinnerPictures) -> dict[str, Any]:
    """What the tables have of one winner, by column."""
    details = pictures.of(layer, c, rank)
    row = {
        "layer": layer.layer,
        "channel": int(layer.channels[c]),
        "rank": rank,
        "score": layer.scores[c, rank],
        "example": layer.examples[c, rank],
        "key": details.key,
        "label": details.label,
        "row": layer.rows[c, rank],
        "col": layer.cols[c, rank],
    }
    boxes = {
        "": Box.of(layer.boxes[c, rank]),
        "src_": details.source,
        "eff_": details.effective,
        "eff_src_": details.effective_source,
    }
    for prefix, box in boxes.items():
        row |= dict.fromkeys(f"{prefix}{edge}" for edge in EDGES) if box is None else box.columns(prefix)
    return row


def _index_columns(winners: Sequence[Winners], pictures: WinnerPictures) -> Mapping[str, Sequence[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in INDEX["activations"].names}
    for layer in winners:
        for c, rank in layer.places():
            row = _row(layer, c, rank, pictures)
            for name, column in columns.items():
                column.append(row[name])
    return columns


def _image_rows(pictures: WinnerPictures) -> Iterator[dict[str, list[Any]]]:
    """The rows of index/images.parquet by example, in chunks; one empty chunk where there are none."""
    examples = sorted(pictures.images)
    for start in range(0, max(len(examples), 1), _CHUNK):
        chunk = examples[start : start + _CHUNK]
        images = [pictures.images[example] for example in chunk]
        yield {
            "image": [{"bytes": pictures.spool.get(("image", example)), "path": f"{example}.webp"} for example in chunk],
            "example": chunk,
            **{name: [getattr(image, name) for image in images] for name in ("key", "label", "height", "width")},
        }


def _crop_rows(layer: Winners, pictures: WinnerPictures) -> Iterator[dict[str, list[Any]]]:
    """The rows of crops/LAYER.parquet, in chunks; one empty chunk where there are none."""
    places = [(int(c), rank) for c in np.argsort(layer.channels) for rank in layer.ranks(int(c))]
    for start in range(0, max(len(places), 1), _CHUNK):
        rows = []
        for c, rank in places[start : start + _CHUNK]:
            data, path = pictures.picture("crop", layer, c, rank), f"{layer.channels[c]}-{rank}.png"
            rows.append({"image": {"bytes": data, "path": path}, **_row(layer, c, rank, pictures)})
        yield {name: [row[name] for row in rows] for name in CROPS.names}
