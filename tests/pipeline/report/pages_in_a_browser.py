"""What the tests of pages in a browser share: a page that has settled, what axe finds, and what it shows."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from axe_playwright_python.sync_playwright import Axe
from example_job import HOSTILE_LAYER

HOSTILE = quote(HOSTILE_LAYER, safe="")


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


def order(page: Any) -> Any:
    return [int(text.split()[1]) for text in page.locator(".card h2 a").all_inner_texts()]


def middle_of(png: Any) -> Any:
    from pipeline.drawing.pixels import decode_png

    pixels = decode_png(png)
    return pixels[pixels.shape[0] // 2, pixels.shape[1] // 2]
