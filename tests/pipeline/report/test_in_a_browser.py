"""The pages in a real browser, opened from disk: every view, by mouse and by keyboard, in light and dark, wide and narrow."""

from __future__ import annotations

from typing import Any

import pytest
from example_job import (
    HOSTILE_KEY,
    HOSTILE_LABEL,
    HOSTILE_LAYER,
    K,
)
from pages_in_a_browser import HOSTILE, hindrances, middle_of, order, settled

from pipeline.report.page import write_page
from pipeline.stages import STAGES
from pipeline.stages.stage import sections_of

MANY = 200  # channels of the larger layer

SECTIONS = sections_of(STAGES.values())


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
