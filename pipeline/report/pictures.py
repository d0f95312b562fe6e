"""The pictures that other stages made, as the page shows them: explanations, feature maps, patterns, dreams, kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.drawing.pixels import LOSSLESS, decode_png, encode_webp
from pipeline.geometry import Box
from pipeline.models.head import describe
from pipeline.report.job_reader import JobReader, Row
from pipeline.store.files import file_name, named_file


def explanations(reader: JobReader) -> list[Row]:
    """Every explained image that was drawn: its classification and its maps, those of one class and layer together."""
    images: dict[tuple[Any, str], Row] = {}
    for row in reader.table("classification").to_pylist():
        image = images.setdefault((row["example"], row["key"]), _image(row))
        name = f"{row['logits']}: {row['name']}" if row["logits"] else row["name"]  # of several outputs
        about = {"rank": row["rank"], "class": row["class"], "name": name, "probability": row["probability"]}
        image["top"].append(about | {"says": _says(row)})
    rows = reader.table("attributions").to_pylist()
    gradcam = reader.receipt.stages.get("gradcam")
    titles: dict[str, str] = (gradcam.model_extra or {}).get("methods", {}) if gradcam else {}
    layers: dict[tuple[Any, ...], set[str]] = {}
    for row in rows:
        layers.setdefault(_explained(row), set()).update({row["layer"]} - {None})
    for row in rows:
        image = images.setdefault((row["example"], row["key"]), _image(row))
        # Maps of pixels alone belong to every layer's.
        beside: list[str | None] = [*sorted(layers[_explained(row)])] if row["layer"] is None else [row["layer"]]
        for layer in beside or [None]:
            _group(reader, image["groups"], row, layer)["maps"].append(
                {"method": titles.get(row["method"], row["method"]), "picture": row["picture"], "rule": row["rule"]}
            )
    undrawn = {(row["example"], row["key"]) for row in rows if row["picture"] is None}
    return [image for name, image in images.items() if name not in undrawn]


def _explained(row: Row) -> tuple[Any, ...]:
    return row["example"], row["key"], row["class"], row.get("target")


def _says(row: Row) -> str:
    """What the network says of a class or an output; jobs of before there were heads have softmax alone."""
    return describe(row.get("head") or "softmax", row["probability"], row.get("output"))


def _group(reader: JobReader, groups: list[Row], row: Row, layer: str | None) -> Row:
    """The group of a class and a layer; made where it is not there, with the picture of all its maps side by side."""
    for group in groups:
        if (group["class"], group["target"], group["layer"]) == (row["class"], row.get("target"), layer):
            return group
    together = None
    if layer is not None and row["picture"]:
        together = f"{row['picture'].partition(_method_in(row))[0]}-{file_name(layer)}{row['picture'][-4:]}"
        together = together if (reader.folder / together).exists() else None
    groups.append(
        {
            "class": row["class"],
            "name": row["name"],
            "target": row.get("target"),
            "says": _says(row),
            "layer": layer,
            "maps": [],
            "together": together,
        }
    )
    return groups[-1]


def _method_in(row: Row) -> str:
    """The part of a map's file name after the target."""
    return f"-{row['method'].replace('+', 'p')}"


def _image(row: Row) -> Row:
    return {"example": row["example"], "key": row["key"], "label": row["label"], "top": [], "groups": []}


def feature_maps(reader: JobReader) -> list[Row]:
    """Every image whose maps were drawn, with its pictures: a layer each, with how many of its channels are dead."""
    images: dict[tuple[Any, str], Row] = {}
    for layer in reader.layers:
        drawn: dict[tuple[Any, str], Row] = {}
        for row in reader.rows("featuremaps", layer).to_pylist():
            if row["picture"]:
                entry = {"layer": layer, "picture": row["picture"], "channels": 0, "dead": 0}
                entry = drawn.setdefault((row["example"], row["key"]), entry)
                entry["channels"] += 1
                entry["dead"] += bool(row["dead"])
        for (example, key), entry in drawn.items():
            images.setdefault((example, key), {"key": key, "layers": []})["layers"].append(entry)
    return list(images.values())


def checks(reader: JobReader) -> list[Row]:
    """The checks of explanations, a curve for each method: the mean over its maps. One row, or none."""
    randomisation = _mean_curves(reader.table("randomisation"), ("method",), "step", "rank_correlation")
    curves = _mean_curves(reader.table("curves"), ("method", "kind"), "share", "value")
    return [{"randomisation": randomisation, "curves": curves}] if randomisation or curves else []


def _mean_curves(table: pa.Table, keys: tuple[str, ...], x: str, y: str) -> list[Row]:
    """[{"name", the other keys, "x", "y"}], the mean of y by x for each combination of keys."""
    means = table.group_by([*keys, x]).aggregate([(y, "mean")]).to_pylist()
    curves: dict[tuple[Any, ...], Row] = {}
    for row in sorted(means, key=lambda row: row[x]):
        curve = curves.setdefault(tuple(row[key] for key in keys), {"name": row["method"], "x": [], "y": []})
        curve |= {key: row[key] for key in keys}
        curve["x"].append(row[x])
        curve["y"].append(row[f"{y}_mean"])
    return list(curves.values())


def kernels(reader: JobReader) -> list[Row]:
    """Every picture of kernels, in the order of the index, with what its kernel is."""
    pictures: dict[str, Row] = {}
    for row in reader.table("filters").to_pylist():
        names = ("layer", "part", "height", "width", "inputs", "picture")
        entry = pictures.setdefault(row["picture"], {name: row[name] for name in names} | {"filters": 0})
        entry |= {"filters": entry["filters"] + 1, "gives": row["gives"] or []}
    return list(pictures.values())


def pattern_layers(reader: JobReader) -> list[Row]:
    """The layers that have patterns."""
    names = pc.unique(reader.table("patterns")["layer"]).to_pylist()
    return [{"layer": name} for name in names if name is not None]


def labels_of(reader: JobReader) -> list[Row]:
    """The labels of winners."""
    names = pc.unique(reader.table("activations")["label"]).to_pylist()
    return [{"label": name} for name in names if name is not None]


def fields_of(reader: JobReader) -> list[Row]:
    """The receptive field of every layer, with its picture and the median of its effective fields where there are any."""
    rows = []
    for row in reader.table("fields").to_pylist():
        picture = f"mosaics/fields/{file_name(row['layer'])}.png"
        winners = reader.rows("activations", row["layer"])
        sides = [_sides(winners, *edges) for edges in (("y1", "y2"), ("x1", "x2"))]
        more = {
            "picture": picture if (reader.folder / picture).exists() else None,
            "effective": sides if None not in sides else None,
        }
        rows.append(row | more)
    return rows


def _sides(winners: pa.Table, first: str, last: str) -> float | None:
    lengths = pc.drop_null(pc.subtract(winners[f"eff_{last}"], winners[f"eff_{first}"])).to_numpy()
    return float(np.median(lengths)) if len(lengths) else None


def dreams(reader: JobReader) -> list[Row]:
    """Every dream with its losses, a zoom by its first frame alone; then the patterns of named objectives."""
    measured = ("objective", "losses", "reached")
    pictures = [
        {"title": row["key"], "picture": row["path"], **{name: row[name] for name in measured}}
        for row in reader.table("dreams").to_pylist()
        if row["path"] and not row["frame"]
    ]
    return pictures + [
        {"title": row["name"], "picture": None, **{name: row[name] for name in measured}}
        for row in reader.table("patterns").to_pylist()
        if row["name"] is not None
    ]


def patterns(reader: JobReader, layer: str) -> Iterator[tuple[int, str, int, bytes]]:
    """The patterns of one layer: channel, sign, variant, and the picture as WebP."""
    table = reader.patterns(layer)
    for row in [] if table is None else table.to_pylist():
        if row["channel"] is not None:
            yield row["channel"], row["sign"], row["variant"], encode_webp(decode_png(row["image"]["bytes"]))


def kernel(reader: JobReader, picture: str, box: Box, pictures: dict[str, np.ndarray]) -> bytes | None:
    """One kernel, cut out of the picture of its layer's kernels, as a lossless WebP; None where that cannot be read.

    Args:
        pictures: those that are decoded already, by path; grows.
    """
    if picture not in pictures:
        try:
            pictures[picture] = decode_png(named_file(reader.folder, picture).read_bytes())
        except (OSError, ValueError):
            reader.gaps.append(f"{picture} cannot be read.")
            pictures[picture] = np.zeros((0, 0, 3), np.uint8)
    tile = box.cut(pictures[picture])
    return encode_webp(tile, LOSSLESS) if tile.size else None


def direction_sets(reader: JobReader) -> list[Row]:
    """Every set of directions, with its directions in order; of a concept, with its vector and its tests."""
    sets: dict[str, Row] = {}
    for row in reader.table("directions").to_pylist():
        about = ("layer", "base", "method", "explained", "vectors", "path")
        entry = sets.setdefault(row["layer"], {**{name: row[name] for name in about}, "directions": []})
        columns = ("channel", "name", "share_active", "dead", "strength", "strongest_channels", "channel_weights")
        split = ("split_channel", "split_ranks", "separation")
        entry["directions"].append({name: row[name] for name in (*columns, *split)})
    for row in reader.table("concept_vectors").to_pylist():
        # The page names no folder of the disk that it was made on.
        names = {key: row[key].replace("\\", "/").rstrip("/").rpartition("/")[2] for key in ("source", "against")}
        sets[row["layer"]] |= {"vector": {**row, **names}, "tests": []}
    for row in reader.table("tcav").to_pylist():
        sets[row["layer"]]["tests"].append(row)
    return list(sets.values())
