"""Objects: boxes around what is to be seen in an image, and how much of a map lies on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pipeline.attribution import heat
from pipeline.errors import MissingInput, UnusableData, WrongSpec, one_line, quoted
from pipeline.geometry import EDGES
from pipeline.sources.fit import Fit
from pipeline.sources.picking import Picked
from pipeline.spec.gradcam import BoxFormat
from pipeline.store.tables import read_table

# An image and the class that is explained, to where an object of it is in the network's input, bool (height, width); None where
# nothing is known of the image.
ObjectMask = Callable[[Picked, int], np.ndarray | None]


class ObjectBox(NamedTuple):
    """A box in pixels of the source image, half-open, and the label of what is in it, where that is known."""

    y1: float
    x1: float
    y2: float
    x2: float
    label: str | None = None


@contextmanager
def _table_at(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise UnusableData(f"gradcam.objects: {path!r} is no table ({one_line(error)}). Write .csv or .parquet.") from None


def read_boxes(path: str) -> dict[str, list[ObjectBox]]:
    """The boxes of a table, by image: .csv, or else Parquet, of the columns key, y1, x1, y2, x2, and label if there is one.

    Raises: UnusableData, WrongSpec.
    """
    names = ["key", *EDGES]
    with _table_at(path):
        table = pyarrow.csv.read_csv(path) if path.lower().endswith(".csv") else read_table(Path(path))
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise WrongSpec(
            f"gradcam.objects: {path!r} has no column {missing[0]!r}; it has {', '.join(table.column_names)[:200]}. Boxes need "
            "key, y1, x1, y2 and x2; masks need key and mask."
        )
    names += ["label"] if "label" in table.column_names else []
    boxes: dict[str, list[ObjectBox]] = {}
    for number, row in enumerate(table.select(names).to_pylist()):
        boxes.setdefault(str(row["key"]), []).append(_box(row, f"{path!r}, row {number + 1}"))
    return boxes


def _box(row: Mapping[str, Any], where: str) -> ObjectBox:
    try:
        y1, x1, y2, x2 = (float(row[edge]) for edge in EDGES)
    except (TypeError, ValueError):
        y1 = x1 = y2 = x2 = np.nan
    if not (y1 < y2 < np.inf and x1 < x2 < np.inf and min(y1, x1) > -np.inf):
        values = quoted(", ".join(str(row[edge]) for edge in EDGES))
        raise UnusableData(f"gradcam.objects: {where}: {values} is no box. Write numbers, y1 below y2 and x1 below x2.")
    return ObjectBox(y1, x1, y2, x2, None if row.get("label") is None else str(row["label"]))


class BoxColumn(NamedTuple):
    """A column of boxes: what their four numbers are, and whether in shares of the source image or in its pixels."""

    name: str
    format: BoxFormat
    in_shares: bool

    def boxes(self, values: np.ndarray, size: tuple[int, int], key: str) -> list[ObjectBox]:
        """The boxes of one image, of float64 (n, 4), or (4,) for one. Raises: UnusableData."""
        where = f"the column {self.name!r} of {key!r}"
        if values.size % 4 or (values.ndim > 1 and values.shape[-1] != 4 and values.size):
            raise UnusableData(f"gradcam.objects: {where} holds an array of {values.shape}. Boxes are four numbers each.")
        boxes = []
        for a, b, c, d in values.reshape(-1, 4).tolist():
            edges = {"yxyx": (a, b, c, d), "xyxy": (b, a, d, c), "xywh": (b, a, b + d, a + c)}
            edges["cxcywh"] = (b - d / 2, a - c / 2, b + d / 2, a + c / 2)
            scales = size * 2 if self.in_shares else (1,) * 4
            pixels = (edge * scale for edge, scale in zip(edges[self.format], scales, strict=True))
            boxes.append(_box(dict(zip(EDGES, pixels, strict=True)), where))
        return boxes


def within(boxes: Sequence[ObjectBox], picked: Picked, fit: Fit) -> np.ndarray:
    """The pixels of the network's input whose middles lie in a box, of those that show the image: bool (height, width)."""
    region = picked.image.region
    scales, offsets = fit.scale_and_offset(region.height, region.width)
    positions, seen = [], []
    for axis, (side, first, length) in enumerate(((fit.height, region.y1, region.height), (fit.width, region.x1, region.width))):
        position = offsets[axis] + scales[axis] * (np.arange(side) + 0.5)
        seen.append((position >= 0) & (position < length))
        positions.append(first + position)
    y, x = positions
    inside = np.zeros((fit.height, fit.width), bool)
    for box in boxes:
        inside |= np.outer((y >= box.y1) & (y < box.y2), (x >= box.x1) & (x < box.x2))
    return inside & np.outer(*seen)


def boxes_by_key(boxes: Mapping[str, Sequence[ObjectBox]], fit: Fit, number_of: Callable[[str], int | None] | None) -> ObjectMask:
    """Where the boxes of a table are; an image that is a file may be named by its file's name.

    Args:
        number_of: the class of a label, where boxes count for the class that is explained alone.

    Raises: WrongSpec, for a label that is no class.
    """
    labels = dict.fromkeys(box.label for boxes_of_image in boxes.values() for box in boxes_of_image if box.label is not None)
    unknown = [label for label in labels if number_of is not None and number_of(label) is None]
    if unknown:
        raise WrongSpec(
            f"gradcam.objects: the label {quoted(unknown[0])} is no class of the network. Name its classes in model.labels, or "
            "leave the column label out: then any object counts."
        )

    def mask(picked: Picked, number: int) -> np.ndarray | None:
        key = picked.source_key
        boxes_of_image = boxes.get(key) or (boxes.get(PurePosixPath(key).name) if picked.example is None else None) or ()
        if number_of is not None:
            boxes_of_image = [box for box in boxes_of_image if box.label is None or number_of(box.label) == number]
        return within(boxes_of_image, picked, fit) if boxes_of_image else None

    return mask


def boxes_by_example(read: Callable[[int], np.ndarray | None], column: BoxColumn, fit: Fit) -> ObjectMask:
    """Where the boxes of a column of the data set are; read: its values for an example. A file has no columns."""

    def mask(picked: Picked, number: int) -> np.ndarray | None:
        values = None if picked.example is None else read(picked.example)
        boxes = [] if values is None else column.boxes(values, picked.source_size, picked.image.key)
        return within(boxes, picked, fit) if boxes else None

    return mask


def find_objects(path: str) -> str:
    """Which kind of objects a path names: "masks" for a folder or a table with the column mask, else "boxes".

    Raises: MissingInput, UnusableData.
    """
    if Path(path).is_dir():
        return "masks"
    if not Path(path).is_file():
        raise MissingInput(f"gradcam.objects: {path!r} is missing. Name a table of boxes or masks, or a folder of masks.")
    if path.lower().endswith(".csv"):
        return "boxes"
    with _table_at(path):
        names = pa.parquet.read_schema(path).names
    return "masks" if "mask" in names else "boxes"


def on_object(values: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """What of a map's evidence for the target lies on an object, bool (height, width) of the network's input.

    pointing (Zhang et al., 2018): 1 where the strongest pixel does, else 0. energy_inside (Wang et al., 2020; also "relevance
    mass accuracy", Arras et al., 2022): the share of all that does. A map without evidence points nowhere.
    """
    evidence = np.maximum(heat.energy(values) if values.ndim == 3 else values, 0)
    large = heat.enlarge(evidence, *mask.shape).astype(np.float64)
    total = large.sum()
    if not total:
        return {"pointing": 0.0, "energy_inside": 0.0}
    return {"pointing": float(mask.ravel()[large.argmax()]), "energy_inside": float(large[mask].sum() / total)}
