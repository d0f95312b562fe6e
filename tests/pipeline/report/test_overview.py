"""What the overview says: the network as a graph, its striking channels, and nothing of the disk that it was made on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.report.compare import Compared, write_comparison
from pipeline.report.graph import draw_graph
from pipeline.report.overview import originals, shareable, striking
from pipeline.report.page import write_page
from pipeline.store.files import write_json


def network(**feeds: Any) -> Any:
    return draw_graph([{"layer": name, "kind": "Conv2D", "chosen": name == "a", "feeds": of} for name, of in feeds.items()])


def test_a_layer_stands_behind_all_that_it_is_made_from_and_branches_beside_each_other() -> None:
    graph = network(image=[], a=[], b=["a"], c=["a"], d=["b", "c"], e=["d", "a"])
    at = {node["name"]: (node["x"], node["y"]) for node in graph["nodes"]}
    assert "image" not in at  # nothing says what it feeds
    assert at["a"][0] < at["b"][0] == at["c"][0] < at["d"][0] < at["e"][0] and at["b"][1] != at["c"][1]
    assert len(graph["edges"]) == 6 and sum("Q" in edge for edge in graph["edges"]) == 1 and graph["shown"] == 1
    assert all(0 <= x <= graph["width"] and 0 <= y <= graph["height"] for x, y in at.values())


def test_a_table_from_before_there_were_ways_has_no_graph() -> None:
    assert network(a=None, b=None) is None


def test_striking_channels_are_selective_for_different_labels_or_stand_out_and_differ_in_their_strongest_image() -> None:
    winners = pa.table({"channel": [0, 1, 2, 3], "rank": [0] * 4, "example": [5, 6, 6, 7]})
    numbers = {"channel": [0, 1, 2, 3], "mean": [0.0] * 4, "std": [1.0] * 4, "max": [1.0, 9.0, 8.0, 2.0]}
    plain = pa.table(numbers | {"selectivity": [None] * 4, "selective_label": [None] * 4})
    assert [row["number"] for row in striking(plain, winners)] == [1, 3, 0]  # 2 shows the image of 1
    labelled = pa.table(numbers | {"selectivity": [0.1, 0.2, 0.9, 0.8], "selective_label": ["cat", "dog", "cat", "cat"]})
    assert [(row["number"], row["says"]) for row in striking(labelled, winners)][:2] == [(2, "cat"), (1, "dog")]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("folder:/home/me/photos", "folder:photos"),
        ("keras:VGG16", "keras:VGG16"),
        ("/w/net.h5", "net.h5"),
        ("imagenet", "imagenet"),
    ],
)
def test_sources_are_named_without_the_folders_above_them(source: str, expected: str) -> None:
    assert shareable(source) == expected


def test_originals_are_linked_only_where_the_way_holds_on_another_disk(tmp_path: Path) -> None:
    assert originals(tmp_path / "out/job", f"folder:{tmp_path}/my photos") == "../../../my%20photos"
    assert originals(tmp_path, "folder:/nothing/in/common") is None and originals(tmp_path, "sample:photos") is None


def test_a_page_lists_no_layer_that_no_stage_has_looked_at(make_job: Any) -> None:
    several, none = make_job({"conv": 2}, name="several"), make_job({}, name="none")
    for job in (several, none):
        receipt = json.loads((job / "run.json").read_text())
        write_json(job / "run.json", receipt | {"layers": ["conv", "deep"]})
        write_page(job, {})
    listed, empty = ((job / "report" / "index.html").read_text() for job in (several, none))
    assert "2 channels in 1 layer" in listed and "deep" not in listed
    assert "channels" not in empty.split("<main")[-1].split("<h2")[0] and "No layer has been looked at yet" in empty


def test_no_page_names_a_folder_of_the_disk_it_was_made_on(make_job: Any, tmp_path: Path) -> None:
    jobs = [make_job({"conv": 2}, name=name) for name in ("first", "second")]
    for job, data in zip(jobs, ("a/photos", "b/photos"), strict=True):
        receipt = json.loads((job / "run.json").read_text())
        receipt["spec"]["data"]["source"] = f"folder:/secret/{data}"
        receipt["spec"]["model"]["source"] = "file:/secret/net.keras"
        write_json(job / "run.json", receipt)
        write_page(job, {})
    write_comparison(Compared(*jobs), tmp_path / "out")
    written = [path for folder in (*(job / "report" for job in jobs), tmp_path / "out") for path in folder.rglob("*")]
    texts = [path.read_text() for path in written if path.suffix in (".js", ".html", ".json")]
    assert not any("/secret" in text for text in texts) and any("net.keras" in text for text in texts)
    page = (tmp_path / "out/index.html").read_text()
    assert "…/a/photos" in page and "…/b/photos" in page
