"""`convscope fields`: the table, and a picture of every layer in which the boxes and the heat lie where they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.fields import survey
from pipeline.fields.survey import survey_fields
from pipeline.fields.survey_sheet import draw_survey
from pipeline.load import load_spec
from pipeline.run import open_job

WHITE, CYAN = (245, 245, 245), (0, 225, 255)
PANEL, MARGIN = 400, 20  # pixels


@pytest.fixture(scope="module")
def surveyed(write_spec: Any, quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("fields")
    job = open_job(load_spec(write_spec(folder / "tiny.toml")), folder, quiet)
    return {actual.layer.name: actual for actual in survey_fields(job)}


def test_the_table_tells_every_layer_and_each_gets_a_picture(command: Any, write_spec: Any, tmp_path: Path) -> None:
    status, output, _ = command("fields", write_spec(tmp_path / "tiny.toml"), "--out", tmp_path / "out")
    assert status == 0
    head, *rows = (line.split("  ") for line in output.splitlines()[:-1])
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert [cell.strip() for cell in head if cell.strip()] == ["layer", "field", "stride", "map", "global", "effective"]
    assert [row[:5] for row in cells] == [
        ["edges", "3 x 3", "1 x 1", "14 x 14", "no"],
        ["shapes", "5 x 5", "2 x 2", "6 x 6", "no"],
        ["classes", "15 x 15", "16 x 16", "1 x 1", "no"],
    ]
    files = sorted((tmp_path / "out/tiny/mosaics/fields").iterdir())
    assert [file.name for file in files] == ["classes.png", "edges.png", "shapes.png"]
    assert all(cv2.imread(str(file)).shape[1] > 400 for file in files)
    assert sorted(path.name for path in (tmp_path / "out/tiny").iterdir() if not path.name.startswith(".")) == ["mosaics"]


def test_the_energy_lies_inside_the_central_units_box_and_sums_to_one(surveyed: Any) -> None:
    for actual in surveyed.values():
        y1, x1, y2, x2 = actual.field.boxes[actual.unit]
        assert actual.energy.sum() == pytest.approx(1)
        assert actual.energy[y1:y2, x1:x2].sum() == pytest.approx(1)
        inner = actual.effective.cut(actual.energy)
        assert inner.sum() >= 0.95 and 0 < actual.gradients[0] <= actual.gradients[1]
    assert surveyed["edges"].gradients[1] == survey._IMAGES * 4


def test_the_boxes_are_drawn_where_they_lie(surveyed: Any) -> None:
    for name, unit_box, corner_box in (("edges", (7, 7, 10, 10), (0, 0, 3, 3)), ("shapes", (6, 6, 11, 11), (0, 0, 5, 5))):
        picture = draw_survey(surveyed[name])
        panel = picture[92 : 92 + PANEL, MARGIN : MARGIN + PANEL]
        for box, colour in ((unit_box, WHITE), (corner_box, CYAN)):
            rows, cols = np.nonzero((panel == colour).all(axis=2))
            drawn = np.array([rows.min(), cols.min(), rows.max() + 1, cols.max() + 1])
            np.testing.assert_allclose(drawn, 25 * np.array(box), atol=2)


def test_the_brightest_spot_is_where_most_energy_lies(surveyed: Any) -> None:
    actual = surveyed["shapes"]
    picture = draw_survey(actual)
    panel = picture[92 : 92 + PANEL, MARGIN : MARGIN + PANEL].astype(int).sum(axis=2)
    middles = panel[12::25, 12::25]
    assert np.unravel_index(middles.argmax(), middles.shape) == np.unravel_index(actual.energy.argmax(), actual.energy.shape)


def test_no_text_runs_out_of_the_picture(surveyed: Any) -> None:
    for actual in surveyed.values():
        picture = draw_survey(actual)
        edge = picture[:, -MARGIN // 2 :]
        assert (edge == edge[0, 0]).all()
