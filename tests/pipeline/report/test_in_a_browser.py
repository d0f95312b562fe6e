"""The pages in a real browser, opened from disk: every view, by mouse and by keyboard, in light and dark, wide and narrow."""

from __future__ import annotations

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
    add_dreams,
    add_explanations,
    add_kernels,
    add_maps,
    add_others,
    add_patterns,
)

from pipeline.report.compare import write_comparison
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
    write_page(folder, SECTIONS)
    out = tmp_path_factory.mktemp("comparison")
    write_comparison(folder, make_job({"conv": 5}, name="second"), out, SECTIONS)
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


def hindrances(page: Any) -> Any:
    """What axe finds that keeps people out, with the first element of each kind."""
    found = Axe().run(page, options={"preload": False}).response["violations"]  # style sheets on disk cannot be preloaded
    return [(one["id"], one["nodes"][0]["html"]) for one in found]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_opens_and_can_be_read_by_everyone(pages: Any, visit: Any, pictures: Any, view: Any, dark: Any) -> None:
    page = settled(visit(pages[0], VIEWS[view], dark=dark))
    page.screenshot(path=str(pictures / f"{view}-{'dark' if dark else 'light'}.png"))
    assert hindrances(page) == []


@pytest.mark.parametrize("view", ["overview", "layer", "channel"])
def test_on_a_phone_nothing_is_wider_than_the_window(pages: Any, visit: Any, pictures: Any, view: Any) -> None:
    page = settled(visit(pages[0], VIEWS[view], width=360, height=740))
    page.screenshot(path=str(pictures / f"{view}-phone.png"))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_names_are_shown_as_they_are_and_nothing_of_them_runs(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0]))
    page.get_by_role("link", name=HOSTILE_LAYER).click()
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
    found = {
        "x": (box["x"] - image["x"]) / image["width"],
        "y": (box["y"] - image["y"]) / image["height"],
        "width": box["width"] / image["width"],
        "height": box["height"] / image["height"],
    }
    assert found == pytest.approx(expected, abs=0.02)


def test_the_map_lies_on_the_image_where_the_network_saw_it_and_darkens_it(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0], "#/conv/40"))
    whole = page.locator(".winners .whole").first
    image, light = whole.bounding_box(), whole.locator(".light").bounding_box()
    assert (light["x"] - image["x"]) / image["width"] == pytest.approx(8 / 64, abs=0.02)
    assert light["width"] / image["width"] == pytest.approx(48 / 64, abs=0.02)
    from pipeline.drawing.pixels import decode_png

    pixels = decode_png(whole.screenshot())
    assert pixels[-8, pixels.shape[1] // 2, 0] < 0.6 * pixels[-8, 4, 0]


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


def test_channels_are_sorted_filtered_and_found(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0], "#/conv"))
    assert order(page) == list(range(MANY))
    page.get_by_label("Sort by").select_option("strength")
    assert order(page) == list(range(MANY))[::-1]
    page.get_by_label("Sort by").select_option("firing")
    assert order(page) == list(range(MANY))
    page.get_by_label("Find").fill(f"{HOSTILE_KEY} 12")
    assert order(page)[:3] == [10, 11, 12] and page.get_by_text(f"of {MANY} channels").is_visible()
    page.get_by_label("Find").fill("no such thing")
    assert order(page) == []
    page.get_by_label("Find").fill("")
    page.get_by_label("Label", exact=True).select_option("dog")
    assert len(order(page)) == MANY
    assert page.get_by_label("Label", exact=True).locator("option").count() == 3


def test_only_what_comes_near_the_window_is_built(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0], "#/conv"))
    page.wait_for_selector(".card .patch")
    built = page.locator(".card:has(.patches)").count()
    assert 0 < built < MANY / 2
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


def test_a_whole_image_is_enlarged_and_closed_by_keyboard(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0], "#/conv/3"))
    page.get_by_role("button", name="Enlarge the whole image of rank 1").press("Enter")
    dialog = page.get_by_role("dialog")
    assert "rank 1" in dialog.inner_text()
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    assert page.evaluate("location.hash") == "#/conv/3"


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
        "[...document.querySelectorAll('.explained img')].every((image) => image.complete && image.naturalWidth === 60)"
    )
    assert page.locator(".explained figcaption").all_inner_texts() == ["gradcam", "guided_backprop"]


def test_a_channel_shows_its_kernel_its_pattern_and_its_twin(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0], "#/conv/1"))
    page.wait_for_function(
        "[...document.querySelectorAll('.pictures img')].every((image) => image.complete && image.naturalWidth)"
    )
    assert tuple(middle_of(page.locator("img.kernel").screenshot())) == (0, 0, 250)
    assert all(
        abs(int(a) - b) < 12
        for a, b in zip(middle_of(page.locator(".pictures img").nth(1).screenshot()), (9, 120, 33), strict=True)
    )
    assert "reaches 4.5; the strongest patch has 3" in page.locator(".pictures").nth(1).inner_text()
    assert page.get_by_role("img", name="Objective by step: from 0 to 4").is_visible()
    page.get_by_role("link", name="channel 0 (cosine 0.5)").click()
    page.wait_for_selector("h1:has-text('conv, channel 0')")


def test_a_channel_lists_its_weakest_and_its_winners_for_each_label(pages: Any, visit: Any) -> None:
    page = settled(visit(pages[0], "#/conv/0"))
    assert page.get_by_role("heading", name="Weakest").is_visible()
    lists = page.locator(".listed").all_inner_texts()
    assert "-3.25 ant" in lists[1] and "cat" in lists[0] and "dog" in lists[0]
    settled(visit(pages[0], "#/conv/2"))
    assert page.locator("img.kernel").count() == 1


def test_more_labels_than_anyone_would_scroll_through_can_still_be_found(make_job: Any, visit: Any) -> None:
    folder = make_job({"conv": 400}, labels=lambda channel, rank: f"label {channel}-{rank}")
    write_page(folder, SECTIONS)
    page = settled(visit(folder / "report" / "index.html", "#/conv"))
    assert page.get_by_label("Label", exact=True).locator("option").count() == 501
    page.get_by_label("Find").fill("label 399-2")
    assert order(page) == [399]


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
