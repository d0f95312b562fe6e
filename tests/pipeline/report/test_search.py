"""Search: channels by concept, label and file, the best reason first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from example_job import columns

from pipeline.errors import UnknownName
from pipeline.report.job_reader import JobReader
from pipeline.report.search import find_channels
from pipeline.store.tables import write_index


def claim(channel: int, concept: str, rank: int = 0, named: bool = False, chance: float = 0.2, **others: Any) -> dict[str, Any]:
    row = {"layer": "conv", "channel": channel, "concept": concept, "source": "labels", "measure": "auc", "value": 0.8}
    return row | {"rank": rank, "margin": 0.1, "chance": chance, "named": named} | others


@pytest.fixture(scope="module")
def job(make_job: Any) -> Path:
    """Ten channels: 2 is named green, 3 green grass more surely; 3 and 4 have green second, and 5 has it first without a name."""
    folder: Path = make_job({"conv": 10})
    rows = [
        claim(2, "green", named=True, chance=0.04),
        claim(2, "grass", source="masks", measure="iou", named=True, chance=0.04),
        claim(3, "Green grass", named=True, chance=0.0),
        claim(3, "green", rank=1),
        claim(4, "sky"),
        claim(4, "green", rank=1),
        claim(5, "green"),
    ]
    write_index(folder, "concepts", columns("concepts", rows))
    return folder


def channels_of(job: Path, words: str) -> list[tuple[int, str]]:
    return [(match.channel, match.reason) for match in find_channels(JobReader(job), words)]


def test_names_come_before_concepts_that_are_none_and_the_surest_first(job: Path) -> None:
    assert channels_of(job, "green") == [
        (3, "named Green grass, auc 0.8"),
        (2, "named green, auc 0.8"),
        (5, "no name, but best: green, auc 0.8"),
        (4, "not a name, concept 2: green, auc 0.8"),
    ]
    assert [channel for channel, _ in channels_of(job, "grass GREEN")] == [3]


def test_files_and_labels_of_winners_are_searched_too(job: Path) -> None:
    assert {reason for _, reason in channels_of(job, "dog")} == {"1 of 3 winners"}
    assert [channel for channel, _ in channels_of(job, "c.png 11")] == [9]


def test_words_that_nothing_has_are_answered_with_the_nearest(job: Path) -> None:
    with pytest.raises(UnknownName, match="nearest: green"):
        find_channels(JobReader(job), "greeen")


def test_a_job_without_concepts_and_labels_says_how_channels_get_names(make_job: Any) -> None:
    folder: Path = make_job({"conv": 2}, labels=(None,))
    with pytest.raises(UnknownName, match="'unicorn' is in no file's name .* no concepts and no labels.* stage concepts"):
        find_channels(JobReader(folder), "unicorn")


def test_of_several_names_a_channel_has_the_surest_and_among_equals_the_first(job: Path) -> None:
    names = JobReader(job).names("conv")
    assert {channel: row["concept"] for channel, row in names.items()} == {2: "green", 3: "Green grass"}


def test_a_name_stands_on_every_view_of_its_channel(job: Path, browser: Any) -> None:
    from pipeline.report.page import write_page
    from pipeline.stages import STAGES
    from pipeline.stages.stage import sections_of

    write_page(job, sections_of(STAGES.values()))
    page = browser.new_page()
    page.goto((job / "report" / "index.html").as_uri() + "#/conv")
    page.wait_for_selector("text=Green grass")
    assert page.locator(".card .name").all_inner_texts() == ["green", "Green grass"]
    page.get_by_label("Only those that").select_option("named")
    page.wait_for_selector("text=2 of 10 channels")
    page.get_by_role("link", name="channel 3", exact=True).click()
    page.wait_for_selector("h1:has-text('conv, channel 3: Green grass')")
    assert "auc, labels" in page.locator("#changing section:has(h2:text-is('Concepts'))").inner_text()
    page.goto(page.url.partition("#")[0] + "#/+find?text=grass")
    page.get_by_role("link", name="conv, channel 3").wait_for()
    assert page.locator("#changing .strips li > span > a").all_inner_texts() == ["conv, channel 3"]
    page.close()
