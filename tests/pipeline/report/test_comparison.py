"""Two jobs held against each other: overlap, shift, and what differs in their specs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from example_job import K, columns

from pipeline.errors import WrongSpec
from pipeline.report.compare import COMPARISON, Compared, compare, write_comparison
from pipeline.report.job_reader import JobReader
from pipeline.store.files import write_json
from pipeline.store.tables import write_index


def changed(folder: Any, table: Any, change: Any) -> None:
    rows = [change(dict(row)) for row in JobReader(folder).table(table).to_pylist()]
    write_index(folder, table, columns(table, rows))


def test_a_job_and_itself_overlap_wholly_and_nothing_moved(make_job: Any) -> None:
    folder = make_job({"conv": 4})
    rows = compare(JobReader(folder), JobReader(folder)).to_pylist()
    assert [row["channel"] for row in rows] == [0, 1, 2, 3]
    assert {(row["overlap"], row["shift"]) for row in rows} == {(1.0, 0.0)}


def test_overlap_counts_images_and_shift_is_in_standard_deviations(make_job: Any) -> None:
    first, second = make_job({"conv": 2}), make_job({"conv": 2})
    changed(second, "activations", lambda row: row | {"key": "another"} if row["rank"] == 0 else row)
    changed(first, "channels", lambda row: row | {"mean": 1.0, "std": 2.0})
    changed(second, "channels", lambda row: row | {"mean": 4.0, "top_label": "ant"})
    for row in compare(JobReader(first), JobReader(second)).to_pylist():
        assert row["overlap"] == pytest.approx((K - 1) / (K + 1))
        assert row["shift"] == 1.5
        assert (row["top_label_a"], row["top_label_b"]) == (("cat", "dog")[row["channel"]], "ant")


def test_a_channel_that_never_varied_has_no_shift(make_job: Any) -> None:
    first, second = make_job({"conv": 1}), make_job({"conv": 1})
    changed(first, "channels", lambda row: row | {"std": 0.0})
    assert compare(JobReader(first), JobReader(second))["shift"].to_pylist() == [None]


def test_layers_and_channels_of_one_job_alone_are_left_out(make_job: Any, tmp_path: Path) -> None:
    first, second = make_job({"a": 2, "b": 3}), make_job({"b": 2, "c": 1})
    counts = write_comparison(Compared(first, second), tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "comparison.parquet")
    assert table.schema.equals(COMPARISON)
    assert list(zip(table["layer"].to_pylist(), table["channel"].to_pylist(), strict=True)) == [("b", 0), ("b", 1)]
    assert counts["layers"] == 1 and counts["channels"] == 2


def test_jobs_with_nothing_in_common_are_refused_and_nothing_is_made(make_job: Any, tmp_path: Path) -> None:
    with pytest.raises(WrongSpec, match="no channel of a layer in common"):
        write_comparison(Compared(make_job({"a": 2}), make_job({"b": 2})), tmp_path / "out")
    assert not (tmp_path / "out" / "index.html").exists()


def test_the_page_says_what_differs_in_the_specs(make_job: Any, tmp_path: Path) -> None:
    first, second = make_job({"conv": 1}), make_job({"conv": 1})
    receipt = json.loads((second / "run.json").read_text())
    receipt["spec"]["model"]["source"] = "keras:Other"
    receipt["digests"]["model"] = "another"
    write_json(second / "run.json", receipt)
    write_comparison(Compared(first, second), tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    assert "model.source" in page and "keras:Other" in page and "digest of the model" in page and "data.source" not in page


def test_settings_of_a_stage_that_one_of_both_has_not_run_are_left_out(make_job: Any, tmp_path: Path) -> None:
    folders = make_job({"conv": 1}), make_job({"conv": 1})
    ran = [("gradcam", "patterns"), ("gradcam",)]
    for number, (folder, stages) in enumerate(zip(folders, ran, strict=True)):
        receipt = json.loads((folder / "run.json").read_text())
        for table in ("gradcam", "patterns", "atlas"):
            receipt["spec"][table] = {"batch": number}
        receipt["stages"] |= {stage: {} for stage in stages}
        write_json(folder / "run.json", receipt)
    write_comparison(Compared(*folders), tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    assert "gradcam.batch" in page and "patterns.batch" not in page and "atlas.batch" not in page


def test_settings_are_written_as_a_spec_has_them(make_job: Any, tmp_path: Path) -> None:
    first, second = make_job({"conv": 1}), make_job({"conv": 1})
    receipt = json.loads((second / "run.json").read_text())
    receipt["spec"]["model"] |= {"top": True, "size": [96, 64], "weights": None}
    write_json(second / "run.json", receipt)
    receipt["spec"]["model"] |= {"top": False, "size": None, "weights": "none"}
    write_json(first / "run.json", receipt)
    write_comparison(Compared(first, second), tmp_path / "out")
    page = re.sub(r"<[^>]+>", "|", (tmp_path / "out" / "index.html").read_text())
    assert "model.top||false||true" in page and "model.size||not set||[96, 64]" in page and "model.weights||none||not set" in page
    assert "None" not in page and "True" not in page


def test_progress_counts_the_layers_of_both_jobs_once(make_job: Any, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    first, second = make_job({"a": 1, "b": 1}), make_job({"b": 1})
    write_comparison(Compared(first, second), tmp_path / "out", lambda done, total: steps.append((done, total)))
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_channels_matched_over_all_layers_name_both_layers(make_job: Any, tmp_path: Path) -> None:
    first, second = make_job({"a": 2}), make_job({"b": 2, "c": 3})
    across = [("a", 0, "c", 2, 0.5), ("a", 1, "b", 0, 0.9)]
    write_comparison(Compared(first, second, across=across), tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "comparison.parquet").to_pylist()
    ends = [(row["layer"], row["channel"], row["other_layer"], row["other"], row["correlation"]) for row in table]
    assert ends == [("a", 1, "b", 0, 0.9), ("a", 0, "c", 2, 0.5)]
    assert {row["shift"] for row in table} == {None}  # two networks have no scale in common
    page = (tmp_path / "out" / "index.html").read_text()
    cells = [text for text in re.split(r"\s*<[^>]*>\s*", page[page.index("<tbody>") : page.index("</tbody>")]) if text]
    assert cells[:3] == ["a", "2", "0.70"] and cells[4] in ("b (1)", "c (1)")
    with pytest.raises(WrongSpec, match="no channel of"):
        write_comparison(Compared(first, second, across=[]), tmp_path / "none")
