"""The pictures that other stages made, as the page shows them: explanations, feature maps, patterns, dreams, kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.drawing.pixels import LOSSLESS, decode_png, encode_webp
from pipeline.geometry import Box
from pipeline.report.job_reader import Row, Shelf
from pipeline.store.files import file_name


def explanations(shelf: Shelf) -> list[Row]:
    """Every explained image with its classification and its maps, those of one class and layer together."""
    images: dict[tuple[Any, str], Row] = {}
    for row in shelf.table("classification").to_pylist():
        image = images.setdefault((row["example"], row["key"]), _image(row))
        image["top"].append({name: row[name] for name in ("rank", "class", "name", "probability")})
    rows = shelf.table("attributions").to_pylist()
    layers: dict[tuple[Any, ...], set[str]] = {}
    for row in rows:
        layers.setdefault(_about(row), set()).update({row["layer"]} - {None})
    for row in rows:
        image = images.setdefault((row["example"], row["key"]), _image(row))
        # Maps of pixels alone belong to every layer's.
        beside: list[str | None] = [*sorted(layers[_about(row)])] if row["layer"] is None else [row["layer"]]
        for layer in beside or [None]:
            _group(shelf, image["groups"], row, layer)["maps"].append(
                {"method": row["method"], "picture": row["picture"], "rule": row["rule"]}
            )
    return list(images.values())


def _about(row: Row) -> tuple[Any, ...]:
    return row["example"], row["key"], row["class"]


def _group(shelf: Shelf, groups: list[Row], row: Row, layer: str | None) -> Row:
    """The group of a class and a layer; made where it is not there, with the picture of all its maps side by side."""
    found = next((group for group in groups if (group["class"], group["layer"]) == (row["class"], layer)), None)
    if found is None:
        together = None
        if layer is not None and row["picture"]:
            together = f"{row['picture'].rpartition('/')[0]}/{row['class']}-{file_name(layer)}.png"
        known = together is not None and (shelf.folder / together).exists()
        found = {"class": row["class"], "name": row["name"], "layer": layer, "probability": row["probability"], "maps": []}
        groups.append(found | {"together": together if known else None})
        found = groups[-1]
    return found


def _image(row: Row) -> Row:
    return {"example": row["example"], "key": row["key"], "label": row["label"], "top": [], "groups": []}


def feature_maps(shelf: Shelf) -> list[Row]:
    """Every image whose maps were drawn, with its pictures: a layer each, with how many of its channels are silent."""
    images: dict[tuple[Any, str], Row] = {}
    for layer in shelf.layers:
        drawn: dict[tuple[Any, str], Row] = {}
        for row in shelf.rows("featuremaps", layer).to_pylist():
            if row["picture"]:
                about = row["example"], row["key"]
                told = drawn.setdefault(about, {"layer": layer, "picture": row["picture"], "channels": 0, "dead": 0})
                told["channels"] += 1
                told["dead"] += bool(row["dead"])
        for (example, key), told in drawn.items():
            images.setdefault((example, key), {"key": key, "layers": []})["layers"].append(told)
    return list(images.values())


def dreams(shelf: Shelf) -> list[Row]:
    """Every dream with its losses, a journey by its first frame alone; then the patterns of named objectives."""
    found = [
        {"title": row["key"], "picture": row["path"], **{name: row[name] for name in ("objective", "losses", "reached")}}
        for row in shelf.table("dreams").to_pylist()
        if row["path"] and not row["frame"]
    ]
    named = shelf.table("patterns").to_pylist()
    return found + [
        {"title": row["name"], "picture": None, **{name: row[name] for name in ("objective", "losses", "reached")}}
        for row in named
        if row["name"] is not None
    ]


def patterns(shelf: Shelf, layer: str) -> Iterator[tuple[int, str, int, bytes]]:
    """The patterns of one layer: channel, sign, variant, and the picture as WebP."""
    path = shelf.folder / "patterns" / f"{file_name(layer)}.parquet"
    try:
        with path.open("rb") as file:
            table = pq.read_table(file)
    except FileNotFoundError:
        return
    except (OSError, pa.ArrowInvalid) as error:
        shelf.gaps.append(f"patterns/{path.name} cannot be read ({str(error).splitlines()[0]}).")
        return
    for row in table.to_pylist():
        if row["channel"] is not None:
            yield row["channel"], row["sign"], row["variant"], encode_webp(decode_png(row["image"]["bytes"]))


def kernel(shelf: Shelf, picture: str, box: Box, opened: dict[str, np.ndarray]) -> bytes | None:
    """One kernel cut out of the picture of its layer's, as a lossless WebP; None where it cannot be."""
    if picture not in opened:
        try:
            opened[picture] = decode_png((shelf.folder / picture).read_bytes())
        except (OSError, ValueError):
            shelf.gaps.append(f"{picture} cannot be read.")
            opened[picture] = np.zeros((0, 0, 3), np.uint8)
    tile = box.cut(opened[picture])
    return encode_webp(tile, LOSSLESS) if tile.size else None
