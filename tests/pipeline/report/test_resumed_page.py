"""A page that was interrupted goes on where it was, and ends with the same bytes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.page import write_page
from pipeline.stages import STAGES
from pipeline.stages.stage import sections_of

SECTIONS = sections_of(STAGES.values())
LAYERS = {"first": 3, "second": 2, "third": 2}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("CONVSCOPE_CACHE", str(tmp_path))
    return tmp_path / "pages"


@pytest.fixture
def job(make_job: Any) -> Path:
    """A job whose page was interrupted after two of three layers."""
    folder: Path = make_job(LAYERS)
    assert written(folder, stop=2) == [1, 2]
    return folder


def written(folder: Path, stop: int | None = None) -> list[int]:
    """Write the page, and stop after so many layers. Returns: how many were done, each time that one was written."""
    seen: list[int] = []

    def progress(done: int, total: int) -> None:
        seen.append(done)
        if done == stop:
            raise KeyboardInterrupt

    try:
        write_page(folder, SECTIONS, progress)
    except KeyboardInterrupt:
        assert stop is not None
    return seen


def page(folder: Path) -> dict[str, bytes]:
    """The files of the page; the number by which browsers tell it from the last one is another each time."""
    paths = (path for path in (folder / "report").rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): re.sub(rb"(?<=\?)[0-9a-f]{8}|(?<=version=\")[0-9a-f]{8}", b"", path.read_bytes())
        for path in paths
    }


def test_a_page_that_was_interrupted_goes_on_after_the_layers_it_has_and_ends_with_the_same_bytes(job: Path, cache: Path) -> None:
    assert written(job) == [3]
    resumed = page(job)
    assert not list(cache.iterdir())
    assert written(job) == [1, 2, 3] and page(job) == resumed


def test_a_layer_whose_files_are_not_as_they_were_written_is_written_again(job: Path) -> None:
    (job / "report" / "data" / "second.js").write_text("alert()")
    assert written(job) == [2, 3]
    assert b"alert" not in page(job)["report/data/second.js"]


def test_what_was_written_of_another_state_of_the_job_is_not_used(job: Path) -> None:
    os.utime(job / "index" / "channels.parquet", ns=(0, 0))
    assert written(job) == [1, 2, 3]


def test_a_line_that_was_cut_short_loses_its_layer_alone(job: Path, cache: Path) -> None:
    journal = next(cache.iterdir())
    journal.write_bytes(journal.read_bytes()[:-9])
    assert written(job, stop=2) == [2]
    assert written(job) == [3]
