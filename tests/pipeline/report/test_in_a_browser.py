"""The pages in a real browser, opened from disk: every view, by mouse and by keyboard, in light and dark, wide and narrow."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe
from example_job import (
    HOSTILE_KEY,
    HOSTILE_LABEL,
    HOSTILE_LAYER,
    K,
    add_checks,
    add_dreams,
    add_explanations,
    add_kernels,
    add_maps,
    add_neighbours,
    add_network,
    add_others,
    add_patterns,
)

from pipeline.report.compare import Compared, write_comparison
from pipeline.report.page import write_page
from pipeline.stages import STAGES
from pipeline.stages.stage import sections_of

MANY = 200  # channels of the larger layer

SECTIONS = sections_of(STAGES.values())


@pytest.fixture(scope="module")
def pages(make_job: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A job's folder and a comparison's, with layers, labels and keys that no page should trust."""
    layers = {"conv": MANY, HOSTILE_LAYER: 3}
    folder = make_job(layers, labels=(HOSTILE_LABEL, "dog", None), name="first")
    add_explanations(folder)
    add_kernels(folder, "conv")
    add_patterns(folder, "conv")
    add_others(folder, "conv")
    add_dreams(folder)
    add_maps(folder, HOSTILE_LAYER, "conv")
    add_neighbours(folder, "conv", HOSTILE_LAYER)
    add_network(folder, "conv", HOSTILE_LAYER)
    add_checks(folder)
    write_page(folder, SECTIONS)
    out = tmp_path_factory.mktemp("comparison")
    write_comparison(Compared(folder, make_job({"conv": 5}, name="second"), pairs={"conv": {0: (1, 0.75), 1: (0, 0.5)}}), out)
    return folder / "report" / "index.html", out / "index.html"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Where the pictures of the pages go: CONVSCOPE_PICTURES, or a folder that pytest keeps for a while."""
    folder = Path(os.environ.get("CONVSCOPE_PICTURES") or tmp_path_factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


HOSTILE = quote(HOSTILE_LAYER, safe="")
VIEWS = {
    "overview": "#/",
    "layer": "#/conv",
    "hostile-layer": f"#/{HOSTILE}",
    "channel": "#/conv/7",
    "hostile-channel": f"#/{HOSTILE}/1",
    "rich-channel": "#/conv/1",
    "image": "#/+image/4?by=conv/4",
    "labels": "#/+labels",
    "label": "#/+label/dog",
    "find": "#/+find?text=7",
    "plot": "#/conv?across=firing&up=strength&only=silent",
    "both": "#/conv?show=both&only=silent",
    "patterns": "#/+patterns",
    "kernels": "#/+kernels",
    "checks": "#/+checks",
    "fields": "#/+fields",
    "glossary": "#/+glossary/purity",
    "explanations": "#/+explanations",
    "maps": "#/+maps",
    "dreams": "#/+dreams",
    "nowhere": "#/conv/99999",
}


def settled(page: Any) -> Any:
    """Wait until the view that the address names is there."""
    page.wait_for_function("document.title.endsWith('convscope') && document.querySelector('section:not([hidden]) h1')")
    page.wait_for_load_state("networkidle")
    return page


def hindrances(page: Any, *rules: str) -> Any:
    """What axe finds that keeps people out, with the first element of each kind; by some of its rules, or by all."""
    options = {"preload": False} | ({"runOnly": list(rules)} if rules else {})  # style sheets on disk cannot be preloaded
    actual = Axe().run(page, options=options).response["violations"]
    return [(one["id"], one["nodes"][0]["html"]) for one in actual]


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_can_be_read_by_everyone_in_light_and_dark_on_a_phone_and_at_200_percent(
    pages: Any, visit: Any, pictures: Any, view: Any
) -> None:
    page = settled(visit(pages[0], VIEWS[view]))
    page.screenshot(path=str(pictures / f"{view}-light.png"))
    assert hindrances(page) == []
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=str(pictures / f"{view}-dark.png"))
    assert hindrances(page, "color-contrast") == []
    for name, width, height in (("phone", 360, 740), ("200", 650, 450)):  # a window of 1300 x 900 has 650 x 450 at 200%
        page.set_viewport_size({"width": width, "height": height})
        page.screenshot(path=str(pictures / f"{view}-{name}.png"))
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_names_are_shown_as_they_are_and_nothing_of_them_runs(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0]))
    page.locator("a.layer", has_text=HOSTILE_LAYER).click()
    page.wait_for_selector("#changing h1")
    assert page.locator("#changing h1").inner_text() == HOSTILE_LAYER
    page.get_by_role("link", name="channel 2", exact=True).click()
    page.wait_for_selector("#changing .winners")
    assert page.locator("#changing h1").inner_text() == f"{HOSTILE_LAYER}, channel 2"
    assert HOSTILE_LABEL in page.locator(".winners").inner_text()
    assert f"{HOSTILE_KEY} 2" in page.locator(".winners").inner_text()
    assert page.locator("#changing script, #changing b, img[src=x]").count() == 0
    assert f"layer = '{HOSTILE_LAYER.replace(chr(39), chr(39) * 2)}'" in page.locator("pre").inner_text()


def test_patches_show_their_own_pixels(pages: Any, visit: Any) -> None:
    """Channel 140 lies on the second page of its mosaic; its tiles are plain colours that tell which they are."""
    page = settled(visit(pages[0], "#/conv/140"))
    for rank in range(K):
        patch = page.locator(".winners .patch").nth(rank)
        shown = patch.screenshot()
        middle = middle_of(shown)
        assert [abs(int(a) - b) <= 2 for a, b in zip(middle, (140, 100 + rank, 200), strict=True)] == [True] * 3, (rank, middle)


def middle_of(png: Any) -> Any:
    from pipeline.drawing.pixels import decode_png

    pixels = decode_png(png)
    return pixels[pixels.shape[0] // 2, pixels.shape[1] // 2]


def test_the_box_lies_on_the_image_where_the_index_says(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0], "#/conv/40"))
    whole = page.locator(".winners .whole").first
    image, box = whole.bounding_box(), whole.locator(".box").bounding_box()
    expected = {"x": 8 / 64, "y": 4 / 48, "width": 16 / 64, "height": 16 / 48}  # of the source image, as made
    actual = {
        "x": (box["x"] - image["x"]) / image["width"],
        "y": (box["y"] - image["y"]) / image["height"],
        "width": box["width"] / image["width"],
        "height": box["height"] / image["height"],
    }
    assert actual == pytest.approx(expected, abs=0.02)


def test_the_map_lies_on_the_image_where_the_network_saw_it_and_darkens_it(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0], "#/conv/40"))
    whole = page.locator(".winners .whole").first
    image, light = whole.bounding_box(), whole.locator(".light").bounding_box()
    assert (light["x"] - image["x"]) / image["width"] == pytest.approx(8 / 64, abs=0.02)
    assert light["width"] / image["width"] == pytest.approx(48 / 64, abs=0.02)
    from pipeline.drawing.pixels import decode_png

    pixels = decode_png(whole.screenshot())
    dark = pixels[-8, pixels.shape[1] // 2, 0]  # where the map is zero; beside it, the network saw nothing
    assert pixels[-8, 4, 0] == pytest.approx(dark, abs=3) and pixels[..., 0].max() > dark / 0.6


def test_channels_are_walked_by_keyboard_alone(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0]))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.get_by_role("link", name="conv", exact=False).first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#changing .card")
    assert page.evaluate("document.activeElement.tagName") == "H1"
    page.get_by_role("link", name="channel 0", exact=True).press("Enter")
    page.wait_for_selector("text=conv, channel 0")
    page.keyboard.press("ArrowLeft")  # there is none before the first
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("h1:has-text('conv, channel 1')")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("h1:has-text('conv, channel 0')")
    page.keyboard.press("Escape")
    page.wait_for_selector("#changing .card")
    page.keyboard.press("Escape")
    page.wait_for_selector("#overview h1")
    assert page.evaluate("location.hash") == "#/"


def order(page: Any) -> Any:
    return [int(text.split()[1]) for text in page.locator(".card h2 a").all_inner_texts()]


def test_channels_are_sorted_filtered_and_turned_over_and_the_address_remembers_it(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0], "#/conv"))
    assert order(page) == list(range(96)) and page.get_by_text(f"{MANY} channels, page 1 of 3").is_visible()
    page.get_by_label("Sort by").select_option("strength")
    assert order(page) == list(range(MANY))[::-1][:96]
    page.get_by_role("link", name="next page").click()
    page.wait_for_selector("text=page 2 of 3")
    assert order(page)[0] == MANY - 97
    page.get_by_role("link", name="channel 80", exact=True).click()
    page.wait_for_selector("h1:has-text('conv, channel 80')")
    page.keyboard.press("ArrowRight")  # in the order of the list
    page.wait_for_selector("h1:has-text('conv, channel 79')")
    page.keyboard.press("Escape")
    page.wait_for_selector("text=page 2 of 3")
    assert order(page)[0] == MANY - 97 and page.get_by_label("Sort by").input_value() == "strength"
    page.get_by_label("Filter").fill(f"{HOSTILE_KEY} 12")
    assert order(page)[:3] == [162, 161, 160] and page.get_by_text(f"12 of {MANY} channels").is_visible()
    page.reload()
    assert order(settled(page))[:3] == [162, 161, 160]
    page.get_by_label("Filter").fill("no such thing")
    assert order(page) == []
    page.get_by_label("Filter").fill("")
    page.get_by_label("Label", exact=True).select_option("dog")
    assert page.get_by_text(f"{MANY} channels, page 1 of 3").is_visible()
    assert page.get_by_label("Label", exact=True).locator("option").count() == 3
    page.get_by_label("Only those that").select_option("silent")
    assert order(page) == [1]


def test_back_returns_to_where_one_was(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0], "#/conv?whole=1"))
    page.wait_for_selector(".card .whole")
    page.evaluate("scrollTo(0, 1500)")
    page.wait_for_function("location.hash.includes('y=1500')")
    page.get_by_role("link", name="channel 40", exact=True).click()
    page.wait_for_selector("h1:has-text('conv, channel 40')")
    assert page.evaluate("scrollY") == 0
    page.go_back()
    page.wait_for_function("document.querySelector('.card .whole') && scrollY === 1500")


def test_a_rectangle_in_the_plot_lists_the_channels_in_it(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0], "#/conv?across=mean&up=strength"))
    plot = page.locator(".scatter .plot").bounding_box()

    def at(x: float, y: float) -> tuple[float, float]:
        return plot["x"] + plot["width"] * x / 360, plot["y"] + plot["height"] * y / 190

    page.mouse.move(*at(30, 185))
    page.mouse.down()
    page.mouse.move(*at(44 + 306 * 9.5 / (MANY - 1), 14))
    page.mouse.up()
    page.get_by_text(f"10 of {MANY} channels").wait_for()
    assert order(page) == list(range(10))
    page.get_by_role("button", name="Clear").click()
    page.get_by_text(f"{MANY} channels, page 1").wait_for()


def test_everything_is_found_from_everywhere(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0], "#/+dreams"))
    page.keyboard.press("/")
    page.keyboard.type("conv/150")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="conv, channel 150").wait_for()
    assert page.locator("#changing .strips li > span > a").all_inner_texts() == ["conv, channel 150"]
    page.get_by_label("Find in all layers").fill("2")
    page.get_by_role("link", name=f"{HOSTILE_LAYER}, channel 2").wait_for()
    page.get_by_label("Find in all layers").fill("dog")
    page.get_by_role("link", name="dog", exact=True).click()
    page.wait_for_selector("#changing h1:has-text('dog')")
    assert "conv" in page.locator("#changing table").inner_text()


def test_only_what_comes_near_the_window_is_built(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0], "#/conv"))
    page.wait_for_selector(".card .patch")
    built = page.locator(".card:has(.patches)").count()
    assert 0 < built < 96
    page.locator(".card").last.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('.card:last-child .patch')")


def test_whole_images_take_the_place_of_crops_and_back(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0], "#/conv"))
    page.wait_for_selector(".card .patch")
    button = page.get_by_role("button", name="whole images")
    button.click()
    page.wait_for_selector(".card .whole")
    assert button.get_attribute("aria-pressed") == "true" and page.locator(".card .patch").count() == 0
    button.click()
    page.wait_for_selector(".card .patch")
    assert page.locator(".card .whole").count() == 0


def test_a_thumbnail_leads_to_its_image_and_all_channels_it_excites_and_escape_leads_back(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0], "#/conv/3"))
    page.locator(".winners a.cell").nth(3).press("Enter")  # the whole image of rank 1: example 4
    page.wait_for_selector(f"#changing h1:has-text('{HOSTILE_KEY} 4')")
    assert page.locator(".large .whole .box").count() == 1
    wins = page.locator("#changing section:has(h2:has-text('conv'))").first
    assert wins.locator("p a").all_inner_texts()[:6] == [f"channel {number}" for number in (4, 54, 104, 154, 3, 53)]
    page.get_by_role("button", name="rank 1 of channel 53").click()
    page.get_by_role("link", name="conv, channel 53").wait_for()
    assert "by=conv%2F53" in page.evaluate("location.hash")
    page.keyboard.press("Escape")
    page.wait_for_selector("#changing h1:has-text('conv, channel')")


def test_the_query_that_is_copied_gives_the_rows(pages: Any, visit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import duckdb

    page = settled(visit(pages[0], f"#/{HOSTILE}/1"))
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    monkeypatch.chdir(pages[0].parents[1])
    rows = duckdb.sql(page.locator("pre").inner_text().rstrip(";")).fetchall()
    assert len(rows) == K and {row[0] for row in rows} == {HOSTILE_LAYER} and [row[2] for row in rows] == list(range(K))


def test_a_missing_data_file_is_said_and_the_way_back_is_there(make_job: Any, browser: Any) -> None:
    folder = make_job({"conv": 2})
    write_page(folder, SECTIONS)
    (folder / "report" / "data" / "conv.js").unlink()
    page = browser.new_page()
    page.goto((folder / "report" / "index.html").as_uri() + "#/conv")
    page.wait_for_selector("text=data/conv.js is missing")
    page.get_by_role("link", name="Back to the overview").click()
    page.wait_for_selector("#overview h1")
    page.close()


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
    page.get_by_role("link", name="label 599").wait_for()


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
