"""The view of an atlas in a real browser, opened from disk: a hundred thousand points that pan, zoom and show their labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from example_job import columns

from pipeline.atlas.results import write_points
from pipeline.report.page import write_page
from pipeline.stages import STAGES
from pipeline.stages.stage import sections_of
from pipeline.store.tables import write_index

COUNT = 100_000
PAINTED = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"
# Where the drawn points lie on their canvas: the mean column, the standard deviation of columns, and how many pixels there are.
DRAWN = """() => {
    const canvas = [...document.querySelectorAll("canvas")].at(-1);
    const { data, width } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const columns = [];
    for (let at = 3; at < data.length; at += 4) if (data[at]) columns.push(((at - 3) / 4) % width);
    const mean = columns.reduce((sum, column) => sum + column, 0) / columns.length;
    const spread = Math.sqrt(columns.reduce((sum, column) => sum + (column - mean) ** 2, 0) / columns.length);
    return { mean, spread, pixels: columns.length, side: width };
}"""


@pytest.fixture(scope="module")
def atlas(make_job: Any) -> Any:
    """The page of a job with an atlas of `conv`: of `left` points in one half and `right` ones in the other."""
    folder, random = make_job({"conv": 4}), np.random.default_rng(0)
    at = random.uniform(0.3, 0.7, (COUNT, 2)).astype(np.float32)
    labels = np.where(at[:, 0] < 0.5, "left", "right").tolist()
    numbers = np.arange(COUNT)
    table = {"example": numbers % 50, "key": labels, "label": labels, "row": numbers % 7, "col": numbers % 7}
    write_points(folder, "conv", table | {"x": at[:, 0], "y": at[:, 1]})
    cells = [
        {"layer": "conv", "grid": 2, "row": row, "col": col, "vectors": COUNT // 4, "label": label, "channel": 2 * row + col}
        for row in range(2)
        for col, label in enumerate(("left", "right"))
    ]
    write_index(folder, "atlas", columns("atlas", cells))
    write_page(folder, sections_of(STAGES.values()))
    return folder / "report" / "index.html"


def drawn(page: Any) -> Any:
    page.evaluate(PAINTED)
    return page.evaluate(DRAWN)


def test_a_hundred_thousand_points_pan_zoom_and_show_their_labels(atlas: Any, visit: Any) -> None:
    page = visit(atlas, "#/+atlas")
    page.wait_for_selector("canvas")
    canvas = page.locator("canvas").last
    assert "100,000 points" in canvas.get_attribute("aria-label")
    before = drawn(page)
    assert before["mean"] == pytest.approx(before["side"] / 2, abs=2) and before["pixels"] > COUNT / 2
    canvas.press("ArrowRight")
    panned = drawn(page)
    assert panned["mean"] == pytest.approx(before["mean"] - 40, abs=0.1) and panned["pixels"] == before["pixels"]
    canvas.press("ArrowLeft")
    canvas.press("+")
    assert drawn(page)["spread"] == pytest.approx(1.25 * before["spread"], rel=0.02)
    page.get_by_label("Label", exact=True).select_option("left")
    assert drawn(page)["mean"] == pytest.approx((0.5 - 1.25 * 0.1) * before["side"], rel=0.02)  # the middle of the left half
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.4 * box["height"])
    page.wait_for_selector("text=25,000 vectors, most often of right; channel 1 stands out")
    pixels = drawn(page)["pixels"]
    page.get_by_label("In the cells").select_option("labels")
    assert drawn(page)["pixels"] > pixels  # words stand beside the points
    assert Axe().run(page, options={"preload": False}).response["violations"] == []
