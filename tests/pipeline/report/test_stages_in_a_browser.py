"""What stages add to the pages, in a real browser: explanations, kernels, maps, dreams, comparisons, and rows to save."""

from __future__ import annotations

import csv
from typing import Any

import pytest
from example_job import HOSTILE_KEY, HOSTILE_LABEL, HOSTILE_LAYER, K
from pages_in_a_browser import HOSTILE, hindrances, middle_of, order, settled

from pipeline.report.page import write_page
from pipeline.stages import STAGES
from pipeline.stages.stage import sections_of

SECTIONS = sections_of(STAGES.values())


@pytest.mark.parametrize("view", ["#/", "#/conv", "#/conv/2"])
def test_every_view_of_a_comparison_can_be_read_by_everyone(pages: Any, visit: Any, pictures: Any, view: Any) -> None:
    page = settled(visit(pages[1], view))
    page.screenshot(path=str(pictures / f"comparison{view.replace('#', '').replace('/', '-')}.png"))
    assert hindrances(page) == []


def test_a_comparison_has_both_sides_of_a_channel(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[1]))
    page.get_by_role("link", name="conv").click()
    page.wait_for_selector(".sides .patch")
    assert len(order(page)) == 5
    page.get_by_role("link", name="channel 4").click()
    page.wait_for_selector("h1:has-text('conv, channel 4')")
    assert page.locator("#changing .patch").count() == 2 * K
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#changing h1:has-text('channel')")


def test_explanations_show_what_the_network_says_and_every_map(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0]))
    page.get_by_role("link", name="explanations").click()
    page.wait_for_selector(".explained figure")
    said = page.locator(".explained").inner_text()
    assert HOSTILE_KEY in said and f"labelled {HOSTILE_LABEL}" in said and "ant" in said and "70.0%" in said and "class 6" in said
    page.wait_for_function(
        "[...document.querySelectorAll('.explained a > img')].every((image) => image.complete && image.naturalWidth === 60)"
    )
    assert page.locator(".explained figcaption").all_inner_texts() == ["the image", "gradcam", "guided_backprop"]


def test_a_channel_shows_its_kernel_its_pattern_and_its_twin(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0], "#/conv/1"))
    page.wait_for_function(
        "[...document.querySelectorAll('.pictures img')].every((image) => image.complete && image.naturalWidth)"
    )
    assert tuple(middle_of(page.locator("img.kernel").screenshot())) == (0, 0, 250)
    assert all(
        abs(int(a) - b) < 12
        for a, b in zip(middle_of(page.locator(".pictures img").first.screenshot()), (9, 120, 33), strict=True)
    )
    assert "reaches 4.5; the strongest patch has 3" in page.locator(".pictures").first.inner_text()
    assert page.get_by_role("img", name="Objective by step: from 0 to 4").is_visible()
    page.get_by_role("link", name="channel 0 (cosine 0.5)").click()
    page.wait_for_selector("h1:has-text('conv, channel 0')")


def test_a_channel_lists_its_weakest_and_its_winners_for_each_label(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0], "#/conv/0"))
    assert page.get_by_role("heading", name="Weakest").is_visible()
    lists = page.locator(".listed").all_inner_texts()
    assert "−3.25 dog" in lists[1] and HOSTILE_LABEL in lists[0] and "dog" in lists[0]
    settled(visit(pages[0], "#/conv/2"))
    assert page.locator("img.kernel").count() == 1


def test_more_labels_than_anyone_would_scroll_through_can_still_be_found(make_job: Any, visit: Any) -> None:
    folder = make_job({"conv": 600}, labels=lambda example: f"label {example}", examples=10_000)
    write_page(folder, SECTIONS)
    page = settled(visit(folder / "report" / "index.html", "#/conv"))
    assert page.get_by_label("Label", exact=True).locator("option").count() == 501
    page.get_by_label("Filter").fill("label 599")
    assert order(page) == [597, 598, 599]
    page.get_by_label("Find in all layers").fill("label 599")
    page.get_by_label("Find in all layers").press("Enter")
    page.get_by_role("link", name="label 599", exact=True).wait_for()  # the cells of the page before have longer names


def test_feature_maps_are_shown_by_image_and_layer_in_the_networks_order(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0]))
    page.get_by_role("link", name="maps").click()
    page.wait_for_function(
        "[...document.querySelectorAll('.maps img')].every((image) => image.complete && image.naturalWidth === 80)"
    )
    assert page.locator("#changing h2").all_inner_texts() == [HOSTILE_KEY]
    assert page.locator(".maps figcaption").all_inner_texts() == [
        f"{HOSTILE_KEY} at {layer}: 3 channels, 1 of them the same everywhere" for layer in ("conv", HOSTILE_LAYER)
    ]
    page.locator(".maps a").first.click()
    page.wait_for_selector("#changing h1:has-text('conv')")


def test_dreams_are_shown_once_each_with_how_their_losses_went(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0]))
    page.get_by_role("link", name="dreams").click()
    page.wait_for_function(
        "[...document.querySelectorAll('.large img')].some((image) => image.complete && image.naturalWidth === 50)"
    )
    assert page.locator(".large figure").count() == 1
    assert page.locator(".large figcaption").inner_text() == 'a b.jpg: layer("conv"); reaches 8.5'
    assert page.get_by_role("img", name="Loss by step: from 1 to 8").is_visible()


def test_a_channel_links_to_its_nearest_channels_and_its_kernels_strongest_inputs(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0], "#/conv/1"))
    near = page.locator("section:has(> h2:text-is('Nearest channels')) li > span").all_inner_texts()
    assert near == ["channel 5 0.9", "channel 9 0.8", f"{HOSTILE_LAYER}, channel 2 0.7"]
    inputs = page.locator("section:has(> h2:text-is('Kernel')) li > span")
    assert inputs.all_inner_texts() == [f"{HOSTILE_LAYER}, channel 2 0.5", f"{HOSTILE_LAYER}, channel 7 −0.25"]
    inputs.get_by_role("link").click()  # the job has no channel 7 of it
    page.wait_for_selector(f"#changing h1:has-text('{HOSTILE_LAYER.split(chr(39))[0]}')")


def test_the_rows_of_a_channel_are_saved_as_csv(pages: Any, visit: Any) -> None:
    import pandas as pd

    page = settled(visit(pages[0], f"#/{HOSTILE}/2"))
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save as CSV").click()
    rows = pd.read_csv(saving.value.path())
    assert rows.layer.tolist() == [HOSTILE_LAYER] * K and rows["rank"].tolist() == list(range(K))
    assert rows.key.tolist() == [f"{HOSTILE_KEY} {number}" for number in (2, 3, 4)] and rows.src_y1.tolist() == [4] * K


def test_the_rows_of_a_channel_are_saved_as_parquet_with_types_and_nulls(pages: Any, visit: Any) -> None:
    import pandas as pd
    import pyarrow.parquet as pq

    page = settled(visit(pages[0], f"#/{HOSTILE}/2"))
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save as Parquet").click()
    rows = pd.read_parquet(saving.value.path())
    assert rows.layer.tolist() == [HOSTILE_LAYER] * K and rows["rank"].tolist() == list(range(K))
    assert rows.key.tolist() == [f"{HOSTILE_KEY} {number}" for number in (2, 3, 4)] and rows.unclipped.isna().all()
    made = [{"text": "ä", "whole": 2**40, "part": 0.5, "yes": number == 3, "gap": None if number else -1} for number in range(9)]
    with page.expect_download() as saving:
        page.evaluate("made => convscope.saveParquet(made, 'x.parquet')", made)
    assert pq.read_table(saving.value.path()).to_pylist() == made


def test_no_text_is_a_formula_in_the_csv_that_is_saved(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0]))
    texts = ["=HYPERLINK('http://x')", "+1", "-1+cmd|'/c calc'!A0", "@SUM(1)", "\t=1", " =1", "\r=1", "a=1", 'say "x"', "a\rb"]
    with page.expect_download() as saving:
        page.evaluate("texts => convscope.saveCsv(texts.map(text => ({ text, number: -1.5 })), 'x.csv')", texts)
    with open(saving.value.path(), encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert [row[0] for row in rows] == [f"'{text}" for text in texts[:7]] + texts[7:]
    assert {row[1] for row in rows} == {"-1.5"}


def test_a_comparison_holds_a_channel_against_the_one_that_answers_to_it(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[1], "#/conv"))
    page.get_by_role("link", name="channel 0 and 1").click()
    page.wait_for_selector("#changing h1:has-text('channel 0 and 1')")
    assert "correlate by 0.75" in page.locator("#changing").inner_text()
    assert page.locator("#changing h2").all_inner_texts() == ["A: first, channel 0", "B: second, channel 1"]


def test_checks_and_words_are_explained(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0], "#/+checks"))
    curve = page.get_by_role("img", name="Rank correlation with the original map")
    assert curve.locator("polyline").count() == 2 and page.locator(".legend").first.inner_text() == "gradcam"
    page.get_by_role("link", name="Deletion").click()
    page.wait_for_selector(".wanted:has-text('pixels are removed')")
