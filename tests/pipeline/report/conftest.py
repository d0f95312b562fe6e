"""Job folders without a network, and a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from example_job import (
    HOSTILE_KEY,
    HOSTILE_LABEL,
    HOSTILE_LAYER,
    MAP,
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
    columns,
    draw_mosaics,
    receipt,
    whole,
    winner,
)

from pipeline.report.compare import Compared, write_comparison
from pipeline.report.page import write_page
from pipeline.stages import STAGES
from pipeline.stages.stage import sections_of
from pipeline.store.files import file_name, write_json
from pipeline.store.tables import CROPS, write_crops, write_images, write_index


@pytest.fixture(scope="session")
def make_job(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that makes the folder of a finished job: {layer: number of channels}, every channel with K winners.

    labels: by example, or a function of it.

    Patch (channel, rank) has the colour (channel, 100 + rank, 200); the image of an example has (example, 0, 0).
    """

    def make(layers: dict[str, int], labels: Any = ("cat", "dog", None), name: str = "job", examples: int = 50) -> Path:
        folder: Path = tmp_path_factory.mktemp("job") / name
        winners, statistics, fields, places = [], [], [], []
        label_of = labels if callable(labels) else lambda example: labels[example % len(labels)]
        for layer, count in layers.items():
            fields.append({"layer": layer, "height": 8, "width": 8, "stride_y": 2.0, "stride_x": 2.0, "map_height": 7})
            fields[-1] |= {"map_width": 7, "global": False}
            for channel in range(count):
                of = []
                for rank in range(K):
                    example = (channel + rank) % examples
                    of.append(winner(layer, channel, rank, example, f"{HOSTILE_KEY} {example}", label_of(example)))
                winners += of
                statistics.append(
                    {"layer": layer, "channel": channel, "seen": 50, "mean": 0.5 * channel, "std": 1.0, "max": of[0]["score"]}
                    | {
                        "share_positive": 1 / (channel + 1),
                        "dead": channel == 1,
                        "top_label": label_of(channel % examples),
                        "label_purity": 1 / 3,
                    }
                )
            places += draw_mosaics(folder, layer, count)
            crops = [row | {"image": {"bytes": b"", "path": "x.png"}, "map": MAP} for row in winners if row["layer"] == layer]
            file = folder / "crops" / f"{file_name(layer)}.parquet"
            write_crops(file, [{name: [row[name] for row in crops] for name in CROPS.names}])
        write_index(folder, "mosaics", columns("mosaics", places))
        write_index(folder, "activations", columns("activations", winners))
        write_index(folder, "channels", columns("channels", statistics))
        write_index(folder, "fields", columns("fields", fields))
        write_index(folder, "skipped", columns("skipped", []))
        shown = sorted({row["example"] for row in winners})
        pictures = [
            {
                "image": {"bytes": whole(example), "path": "x.webp"},
                "example": example,
                "key": str(example),
                "height": 48,
                "width": 64,
                "input_y1": 0.0,
                "input_x1": 8.0,
                "input_y2": 48.0,
                "input_x2": 56.0,
            }
            for example in shown
        ]
        write_images(folder, [columns("images", pictures)])
        write_json(folder / "run.json", receipt(name, list(layers)))
        return folder

    return make


def find_chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("CONVSCOPE_BROWSER") or next((path for name in names if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium. Skips where there is none."""
    path = find_chromium()
    if path is None:
        pytest.skip("there is no Chromium; install Debian's package chromium, or name one as CONVSCOPE_BROWSER")
    api = pytest.importorskip("playwright.sync_api")
    quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
    with api.sync_playwright() as playwright:
        actual = playwright.chromium.launch(executable_path=path, args=quiet)
        yield actual
        actual.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """A function that opens a page of a folder; whatever goes wrong in the page fails the test."""
    contexts, wrong = [], []

    def open_page(index: Path, address: str = "#/", width: int = 1300, height: int = 900, dark: bool = False) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light")
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
        page.goto(f"{index.as_uri()}{address}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture(scope="session")
def pages(make_job: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A job's folder and a comparison's, with layers, labels and keys that no page should trust."""
    layers = {"conv": 200, HOSTILE_LAYER: 3}
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
    write_page(folder, sections_of(STAGES.values()))
    out = tmp_path_factory.mktemp("comparison")
    write_comparison(Compared(folder, make_job({"conv": 5}, name="second"), pairs={"conv": {0: (1, 0.75), 1: (0, 0.5)}}), out)
    return folder / "report" / "index.html", out / "index.html"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Where the pictures of the pages go: CONVSCOPE_PICTURES, or a folder that pytest keeps for a while."""
    folder = Path(os.environ.get("CONVSCOPE_PICTURES") or tmp_path_factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
