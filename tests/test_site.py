"""The documentation site: it builds without a warning, and is read without going to any other server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import convscope

ROOT = Path(__file__).resolve().parents[1]
FETCHED = {"audio", "embed", "iframe", "img", "script", "source", "video"}


class Resources(HTMLParser):
    """Collects what a browser fetches by itself to show a page, and the anchors of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in FETCHED:
            self.addresses.append(values.get("src", ""))
        elif tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(values.get("href", ""))
        self.anchors.add(values.get("id", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder


def test_a_page_fetches_nothing_from_another_server(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        resources = Resources()
        resources.feed(page.read_text(encoding="utf-8"))
        assert resources.addresses
        assert [address for address in resources.addresses if re.match(r"(\w+:)?//", address)] == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_the_reference_has_every_public_name(site: Path) -> None:
    resources = Resources()
    resources.feed((site / "api" / "convscope" / "index.html").read_text(encoding="utf-8"))
    for name in set(convscope.__all__) - {"__version__"}:
        assert {f"convscope.{name}", f"pipeline.errors.{name}"} & resources.anchors, name
