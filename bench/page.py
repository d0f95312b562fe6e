"""How soon the page of a job shows its views, and the memory that they take in the browser.

    python -m bench.page FOLDER [FOLDER ...] [--rounds N]

Each FOLDER is that of a job with a page. A new Chromium opens each page from disk and goes from view to view, as a person
would. Seconds count from asking for a view until it is painted, at the median over the rounds. Memory is that of the
browser's process for the page after the view: resident, and without what it shares with the browser's other processes
(proportional); the first line of a page is the same browser with nothing open. Of a page with an atlas, also how long a frame
takes while the atlas is panned, at its coarsest and six steps of the wheel nearer. Needs Chromium (Debian's package chromium)
and Linux.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

_PAINTED = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"
_THERE = """(view) => {
    const title = view.split("/").slice(1).reverse().filter(Boolean).join(" · ");
    return decodeURIComponent(location.hash) === view && document.title.startsWith(title);
}"""
_IMAGE = """() => decodeURIComponent(document.querySelector('a.cell[href*="%2Bimage"]')?.hash.split("?")[0] ?? "")"""
_FIRST = "() => { const job = document.querySelector('.striking'); return job && decodeURIComponent(job.hash); }"
_PAN = """async () => {
    const canvas = [...document.querySelectorAll("canvas")].at(-1), frames = [];
    for (let at = 0; at < 60; at++) {
        canvas.dispatchEvent(new KeyboardEvent("keydown", { key: at % 2 ? "ArrowLeft" : "ArrowRight", bubbles: true }));
        const started = performance.now();
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
        frames.push(performance.now() - started);
    }
    return frames;
}"""
_SETTLED = 1.5  # seconds in which pictures are decoded and the browser's own work ends


def memory_of(browser: Any) -> tuple[int, int]:
    """Resident and proportional megabytes of the largest process that shows a page."""
    session = browser.new_browser_cdp_session()
    numbers = [row["id"] for row in session.send("SystemInfo.getProcessInfo")["processInfo"] if row["type"] == "renderer"]
    session.detach()
    rolled = [Path(f"/proc/{number}/smaps_rollup").read_text() for number in numbers]
    return max((_megabytes(text, "Rss"), _megabytes(text, "Pss")) for text in rolled)


def _megabytes(rolled: str, name: str) -> int:
    kilobytes = re.search(rf"^{name}:\s+(\d+)", rolled, re.MULTILINE)
    assert kilobytes, rolled
    return int(kilobytes[1]) // 1024


def walk(browser: Any, index: Path) -> list[tuple[str, float, tuple[int, int]]]:
    """The views of a page, the seconds until each is painted, and the memory after it."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto("about:blank")
    rows = [("(nothing)", 0.0, memory_of(browser))]
    started = time.perf_counter()
    page.goto(index.as_uri())
    page.evaluate(_PAINTED)
    rows.append(("overview", time.perf_counter() - started, _after(browser)))
    page.wait_for_function(_FIRST)
    channel = page.evaluate(_FIRST)
    layers = page.eval_on_selector_all("#layers option", "(options) => options.map(({ value }) => value)")
    views = [*(f"#/{name}" for name in layers if name.strip("+")), channel]
    for view in views:
        rows.append((view[2:], *_visit(browser, page, view)))
    if actual := page.evaluate(_IMAGE):
        rows.append(("an image", *_visit(browser, page, actual)))
    rows.append(("a search", *_visit(browser, page, "#/+find")))
    page.close()
    return rows


def pan(browser: Any, index: Path) -> list[list[float]]:
    """Milliseconds of each frame while the first atlas of a page is panned: at its coarsest, and zoomed in."""
    page = browser.new_page(viewport={"width": 1400, "height": 1100})
    page.goto(f"{index.as_uri()}#/+atlas")
    page.wait_for_selector("canvas")
    rounds = [page.evaluate(_PAN)]
    for _ in range(6):
        page.locator("canvas").last.press("+")
    rounds.append(page.evaluate(_PAN))
    page.close()
    return rounds


def _visit(browser: Any, page: Any, view: str) -> tuple[float, tuple[int, int]]:
    started = time.perf_counter()
    page.evaluate("(view) => { location.hash = view; }", view)
    page.wait_for_function(_THERE, arg=view)
    page.evaluate(_PAINTED)
    return time.perf_counter() - started, _after(browser)


def _after(browser: Any) -> tuple[int, int]:
    time.sleep(_SETTLED)
    return memory_of(browser)


def main() -> None:
    """Print a table a page."""
    from playwright.sync_api import sync_playwright

    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folders", nargs="+", type=Path)
    options.add_argument("--rounds", type=int, default=3)
    asked = options.parse_args()
    path = os.environ.get("CONVSCOPE_BROWSER") or shutil.which("chromium")
    with sync_playwright() as playwright:
        for folder in asked.folders:
            walks, index = [], (folder / "report" / "index.html").resolve()
            for _ in range(asked.rounds):
                browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
                if (folder / "index" / "activations.parquet").exists():  # else it is a job of an atlas alone
                    walks.append(walk(browser, index))
                frames = pan(browser, index) if (index.parent / "data" / "+atlas.js").exists() else []
                browser.close()
            files = [file for file in (folder / "report").rglob("*") if file.is_file()]
            print(f"{folder.name}: {len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB")
            print(f"{'view':<32}{'seconds':>10}{'resident MB':>14}{'proportional MB':>18}")
            for steps in zip(*walks, strict=True):
                seconds = statistics.median(step[1] for step in steps)
                resident, own = (statistics.median(step[2][at] for step in steps) for at in (0, 1))
                print(f"{steps[0][0]:<32}{seconds:>10.2f}{resident:>14.0f}{own:>18.0f}", flush=True)
            for name, times in zip(("coarsest", "nearer"), frames, strict=False):
                slow = statistics.quantiles(times, n=20)[-1]
                print(f"panning the atlas, {name}: {statistics.median(times):.0f} ms a frame, one in twenty over {slow:.0f} ms")


if __name__ == "__main__":
    main()
