"""Objects: boxes of tables and columns on what the network is shown, and how much of a map lies on them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from explaining import explainer_of

from pipeline.attribution.explainer import ImageBatch
from pipeline.attribution.objects import BoxColumn, boxes_by_example, boxes_by_key, find_objects, on_object, read_boxes
from pipeline.attribution.sanity.metrics import MapMetrics
from pipeline.errors import MissingInput, UnusableData, WrongSpec
from pipeline.geometry import Box
from pipeline.sources.fit import Fit
from pipeline.sources.picking import Picked
from pipeline.sources.source import Image

HEADER = "key,y1,x1,y2,x2"


def picked(key: str = "a.png", size: tuple[int, int] = (8, 8), region: Box | None = None, example: int | None = 0) -> Picked:
    pixels = np.zeros((*size, 3), np.uint8)
    return Picked(example, Image(key, None, pixels, region or Box.whole(*size)), pixels)


def table(folder: Path, *rows: str, header: str = HEADER) -> str:
    path = folder / "boxes.csv"
    path.write_text("\n".join([header, *rows, ""]))
    return str(path)


def filled(mask: np.ndarray | None) -> tuple[int, int, int, int]:
    """The rectangle that a mask fills to the last pixel."""
    assert mask is not None
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = Box(int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1)
    assert box.cut(mask).all() and mask.sum() == box.height * box.width
    return box.edges


def test_all_evidence_on_the_object_is_all_its_energy_and_a_hand_counts_the_rest() -> None:
    mask = np.zeros((4, 4), bool)
    mask[1:3, 1:3] = True
    values = np.array([[0, 0, 0, 0], [0, 3, 1, 0], [0, 0, 0, -9], [4, 0, 0, 0]], np.float32)
    assert on_object(values, mask) == {"pointing": 0.0, "energy_inside": 0.5}  # 4 of 8; what speaks against is no evidence
    values[1, 1] = 5
    assert on_object(values, mask) == {"pointing": 1.0, "energy_inside": 0.6}
    assert on_object(np.stack([-values, values, 0 * values], axis=-1), mask)["energy_inside"] == pytest.approx(12 / 38)
    assert on_object(np.minimum(values, 0), mask) == {"pointing": 0.0, "energy_inside": 0.0}


def test_boxes_of_a_table_lie_where_the_fit_shows_them(tmp_path: Path) -> None:
    boxes = read_boxes(table(tmp_path, "a.png,2,4,6,8", "wide.png,0,4,8,12", "wide.png,0,0,1,1"))
    assert filled(boxes_by_key(boxes, Fit(8, 8), None)(picked(), 0)) == (2, 4, 6, 8)
    assert filled(boxes_by_key(boxes, Fit(4, 4), None)(picked(), 0)) == (1, 2, 3, 4)
    wide = boxes_by_key({"wide.png": boxes["wide.png"][:1]}, Fit(8, 8), None)(picked("wide.png", (8, 16)), 0)
    assert filled(wide) == (0, 0, 8, 8)  # the middle of the image is what the network is shown
    padded = boxes_by_key({"wide.png": boxes["wide.png"][:1]}, Fit(8, 8, "pad"), None)(picked("wide.png", (8, 16)), 0)
    assert filled(padded) == (2, 2, 6, 6)
    window = boxes_by_key(boxes, Fit(4, 4), None)(picked("a.png@0,4", (8, 8), Box(0, 4, 4, 8)), 0)
    assert filled(window) == (2, 0, 4, 4)
    mask = boxes_by_key(boxes, Fit(8, 8), None)
    assert mask(picked("other.png"), 0) is None and mask(picked("/far/a.png"), 0) is None
    assert mask(picked("/far/a.png", example=None), 0) is not None


def test_boxes_with_labels_count_for_their_class_alone(tmp_path: Path) -> None:
    boxes = read_boxes(table(tmp_path, "a.png,0,0,2,2,dog", "a.png,4,4,8,8,cat", header=f"{HEADER},label"))
    numbers = {"dog": 0, "cat": 1}
    mask = boxes_by_key(boxes, Fit(8, 8), numbers.get)
    assert filled(mask(picked(), 0)) == (0, 0, 2, 2) and filled(mask(picked(), 1)) == (4, 4, 8, 8)
    assert mask(picked(), 2) is None
    with pytest.raises(WrongSpec, match="the label 'cat' is no class of the network"):
        boxes_by_key(boxes, Fit(8, 8), {"dog": 0}.get)


@pytest.mark.parametrize(
    ("form", "values"),
    [("yxyx", [2, 4, 6, 7]), ("xyxy", [4, 2, 7, 6]), ("xywh", [4, 2, 3, 4]), ("cxcywh", [5.5, 4, 3, 4])],
)
def test_a_column_of_boxes_is_read_in_every_format(form: Any, values: list[float]) -> None:
    pixels = boxes_by_example(lambda example: np.array(values, float), BoxColumn("bbox", form, False), Fit(8, 8))
    shares = boxes_by_example(lambda example: np.array([values]) / 8, BoxColumn("bbox", form, True), Fit(8, 8))
    assert filled(pixels(picked(), 0)) == filled(shares(picked(), 0)) == (2, 4, 6, 7)
    assert pixels(picked(example=None), 0) is None


@pytest.mark.parametrize(
    ("header", "row", "error", "message"),
    [
        (HEADER, "a.png,2,4,x,8", UnusableData, r"row 1: '2, 4, x, 8' is no box"),
        (HEADER, "a.png,2,4,2,8", UnusableData, "y1 below y2"),
        (HEADER, "a.png,2,nan,6,8", UnusableData, "is no box"),
        ("key,y1,x1,y2", "a.png,1,2,3", WrongSpec, "has no column 'x2'; it has key, y1, x1, y2. Boxes need"),
        (HEADER, "a.png,1,2", UnusableData, "is no table"),
    ],
)
def test_a_table_that_holds_no_boxes_is_refused(tmp_path: Path, header: str, row: str, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        read_boxes(table(tmp_path, row, header=header))


def test_a_path_of_objects_holds_masks_or_boxes(tmp_path: Path) -> None:
    pd.DataFrame({"key": ["a"], "mask": [b""]}).to_parquet(tmp_path / "masks.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    assert find_objects(str(tmp_path)) == "masks" and find_objects(table(tmp_path, "a,0,0,1,1")) == "boxes"
    assert find_objects(str(tmp_path / "masks.parquet")) == "masks"
    with pytest.raises(MissingInput, match="is missing"):
        find_objects(str(tmp_path / "none.csv"))
    with pytest.raises(UnusableData, match="is no table"):
        find_objects(str(tmp_path / "broken.parquet"))
    with pytest.raises(UnusableData, match="Boxes are four numbers each"):
        BoxColumn("bbox", "yxyx", True).boxes(np.zeros((2, 3)), (8, 8), "a.png")


def test_metrics_of_maps_have_pointing_and_energy_where_an_object_is_known(rectified: Any, opened: Any, photos: Any) -> None:
    explainer = explainer_of(opened(rectified), [("input_x_gradient", None)], 2)
    images = photos(2, 16, 16)
    several: Any = [SimpleNamespace(example=number, image=SimpleNamespace(key=f"{number}.png")) for number in range(2)]
    mask = np.zeros((16, 16), bool)
    mask[:, :8] = True
    metrics = MapMetrics(explainer, lambda image, number: mask if image.example == 0 else np.zeros_like(mask))
    explained = explainer.explain(ImageBatch(several, images, [[1], [2]]))
    metrics.add(explained)
    values = {
        metric: value
        for key, metric, value in zip(*(metrics.columns[name] for name in ("key", "metric", "value")), strict=True)
        if key == "0.png"
    }
    evidence = np.maximum(explained.maps["input_x_gradient", None][0, 0], 0)
    assert values["energy_inside"] == pytest.approx(evidence[:, :8].sum() / evidence.sum(), rel=1e-5)
    assert values["pointing"] == float(evidence.argmax() % 16 < 8)
    assert list(metrics.without_object) == ["1.png"] and metrics.columns["metric"].count("pointing") == 1
