"""A job's folder from a stranger: what its tables and links name is neither read nor written where it lies outside of it."""

from __future__ import annotations

import html
import http.client
import io
import os
import struct
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pyarrow.parquet as pq
import pytest
from example_job import HOSTILE_KEY, HOSTILE_LABEL, HOSTILE_LAYER, add_kernels, add_patterns, columns, patch

import convscope
from pipeline.drawing.pixels import encode_png
from pipeline.errors import Fault, StoreFailed
from pipeline.report.compare import Compared, write_comparison
from pipeline.report.job_reader import JobReader
from pipeline.report.page import write_page
from pipeline.stages import STAGES
from pipeline.stages.stage import sections_of
from pipeline.store.files import file_name, named_file
from pipeline.store.locks import hold
from pipeline.store.tables import CROPS, PATTERNS, write_crops, write_index

SECTIONS = sections_of(STAGES.values())


@pytest.fixture
def folder(make_job: Any, tmp_path: Path) -> Path:
    """A job of one layer, three levels deep, with a secret above it."""
    job: Path = make_job({"conv": 2})
    deep = tmp_path / "a" / "b" / "job"
    deep.parent.mkdir(parents=True)
    job.rename(deep)
    add_kernels(deep, "conv")
    (tmp_path / "secret.png").write_bytes(encode_png(np.full((40, 40, 3), 77, np.uint8)))
    return deep


def changed(folder: Path, table: str, **values: Any) -> None:
    rows = [row | values for row in JobReader(folder).table(table).to_pylist()]
    write_index(folder, table, columns(table, rows))


def outside(folder: Path) -> dict[Path, bytes]:
    """The files above a job's folder, with their content."""
    top = folder.parents[2]
    return {path: path.read_bytes() for path in top.rglob("*") if path.is_file() and not path.is_relative_to(folder)}


@pytest.mark.parametrize("part", ["/../../../../../evil", "/../../../evil", "../../../evil", "\0", "x" * 300])
def test_a_kernel_whose_part_is_a_path_is_written_below_the_page(folder: Path, part: str) -> None:
    changed(folder, "filters", part=part)
    before = outside(folder)
    write_page(folder, SECTIONS)
    assert outside(folder) == before and not list(folder.glob("*.webp"))
    assert len(list((folder / "report" / "kernels").glob("conv-*.webp"))) == 2


def test_a_pattern_whose_sign_is_a_path_is_written_below_the_page(folder: Path) -> None:
    add_patterns(folder, "conv")
    row = {"channel": 1, "sign": "/../../../../evil", "variant": 0, "layer": "conv"}
    row["image"] = {"bytes": encode_png(patch(1, 0)), "path": "x.png"}
    write_crops(folder / "patterns" / "conv.parquet", [{field.name: [row.get(field.name)] for field in PATTERNS}], PATTERNS)
    before = outside(folder)
    write_page(folder, SECTIONS)
    assert outside(folder) == before and len(list((folder / "report" / "patterns").glob("conv-1-*.webp"))) == 1


@pytest.mark.parametrize("name", ["../../secret.png", "{top}/secret.png", "link.png", "https://example.org/x.png", ""])
def test_a_picture_that_lies_elsewhere_is_a_gap_and_in_no_page(folder: Path, tmp_path: Path, name: str) -> None:
    name = name.replace("{top}", str(tmp_path))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    changed(folder, "filters", picture=name)
    changed(folder, "mosaics", picture=name)
    before = outside(folder)
    with pytest.raises(OSError):
        named_file(folder, name)
    reader = JobReader(folder)
    write_page(folder, SECTIONS)
    out = tmp_path / "x" / "y" / "compared"
    write_comparison(Compared(folder, folder), out)
    after = {path: data for path, data in outside(folder).items() if not path.is_relative_to(out)}
    assert after == before and not list(out.rglob("secret*")) and not list((folder / "report").rglob("kernels/*"))
    assert reader.gaps == [] and "cannot be read" in (folder / "report" / "index.html").read_text()


def test_the_lock_empties_no_file_that_a_link_leads_to(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "secret.png"
    before = target.read_bytes()
    (folder / ".lock").unlink(missing_ok=True)
    (folder / ".lock").symlink_to(target)
    with pytest.raises(StoreFailed), hold(folder):
        pass
    assert target.read_bytes() == before


@pytest.mark.parametrize("link", ["report", "index/atlas.parquet", "mosaics/gradcam/on-demand"])
def test_nothing_is_written_into_a_folder_with_a_link_out_of_it(folder: Path, tmp_path: Path, link: str) -> None:
    (tmp_path / "mine").mkdir()
    (folder / link).parent.mkdir(parents=True, exist_ok=True)
    (folder / link).symlink_to(tmp_path / "mine")
    with pytest.raises(StoreFailed, match=f"a link that leads out of it, '{link}'"), hold(folder):
        pass
    assert not list((tmp_path / "mine").iterdir())


def test_a_link_within_the_folder_is_none_that_leads_out(folder: Path, tmp_path: Path) -> None:
    (folder / "again").symlink_to(folder)
    (folder / "same.parquet").symlink_to(Path("index") / "activations.parquet")
    (tmp_path / "known").symlink_to(folder)
    with hold(tmp_path / "known"):
        pass


def test_a_page_that_is_served_leads_nowhere_else(folder: Path, tmp_path: Path) -> None:
    from jobs.viewing import _Quiet

    (folder / "leak.png").symlink_to(tmp_path / "secret.png")
    (folder / "all").symlink_to(tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def ask(path: str, host: str | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        connection.request("GET", path, headers={} if host is None else {"Host": host})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers.get("Content-Security-Policy", "")

    try:
        status, policy = ask("/run.json")
        assert status == 200 and policy.startswith("default-src 'self'") and "http" not in policy
        assert ask("/run.json", "localhost:1")[0] == 200 and ask("/run.json", "evil.example:1")[0] == 403
        assert [ask(path)[0] for path in ("/leak.png", "/all/secret.png", "/all/", "/../../secret.png")] == [404] * 4
    finally:
        server.shutdown()
        server.server_close()


def test_a_search_in_tables_of_nulls_is_an_error_of_one_line(folder: Path, command: Any) -> None:
    write_index(folder, "concepts", columns("concepts", [{"layer": "conv", "concept": "cat"}]))
    changed(folder, "channels", selective_label="cat")
    status, _, error = command("search", folder, "cat")
    assert status == 1 and error.startswith("Fault: the index of") and len(error.splitlines()) == 1


def test_a_notebook_opens_no_picture_in_a_format_that_runs_programs(folder: Path) -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(ran) print\n"
    with PIL.Image.open(io.BytesIO(eps)) as known:
        assert known.format == "EPS"  # Pillow alone would hand it to Ghostscript
    rows = [row | {"image": {"bytes": eps, "path": "x.png"}} for row in JobReader(folder).table("images").to_pylist()]
    write_index(folder, "images", columns("images", rows))
    with pytest.raises(Fault, match="no picture"):
        convscope.open(os.fspath(folder)).image(0).picture  # noqa: B018


class Tags(HTMLParser):
    """The elements of a page: their tags with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))


def test_in_a_notebook_names_are_text_and_nothing_else(make_job: Any) -> None:
    folder = make_job({HOSTILE_LAYER: 2}, labels=(HOSTILE_LABEL, None))
    file = folder / "crops" / f"{file_name(HOSTILE_LAYER)}.parquet"
    crops = [row | {"image": {"bytes": encode_png(patch(0, 0)), "path": ""}} for row in pq.read_table(file).to_pylist()]
    write_crops(file, [{name: [row[name] for row in crops] for name in CROPS.names}])
    named = {"layer": HOSTILE_LAYER, "channel": 1, "concept": HOSTILE_LABEL, "named": True, "chance": 0.1}
    write_index(folder, "concepts", columns("concepts", [named]))
    results = convscope.open(folder)
    channel = results.channel(HOSTILE_LAYER, 1)
    for part in (results, channel, results.image(0)):
        page = part._repr_html_()
        elements = Tags(page).all
        assert not [text for text in (HOSTILE_LAYER, HOSTILE_LABEL, HOSTILE_KEY) if text in page]
        assert {tag for tag, _ in elements} <= {"b", "table", "tr", "th", "td", "div", "figure", "img", "figcaption"}
        assert {name for _, own in elements for name in own} <= {"style", "src", "alt"}
        sources = [str(own["src"]) for tag, own in elements if tag == "img"]
        assert all(source.startswith("data:image/png;base64,") for source in sources) and (sources or part is results)
    assert html.escape(HOSTILE_LABEL) in channel._repr_html_() and html.escape(HOSTILE_KEY) in channel._repr_html_()


def test_a_notebook_shows_the_job_of_an_older_program_and_names_a_table_that_is_damaged(make_job: Any) -> None:
    folder = make_job({"conv": 2})
    path = folder / "index" / "channels.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["dead", "top_label"]), path)
    (folder / "crops" / "conv.parquet").unlink()
    results = convscope.open(folder)
    assert results.channels["dead"].isna().all() and "conv / 1" in results.channel("conv", 1)._repr_html_()
    assert "<td>2</td><td>0</td>" in results._repr_html_()
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(Fault, match="channels.parquet of .* cannot be opened") as caught:
        convscope.open(folder).channels  # noqa: B018
    assert "\n" not in str(caught.value)


def test_a_picture_that_claims_too_many_pixels_is_not_decoded(folder: Path) -> None:
    picture = encode_png(patch(0, 0))
    bomb = picture[:16] + struct.pack(">II", 1 << 17, 1 << 17) + picture[24:]
    rows = [row | {"image": {"bytes": bomb, "path": "x.png"}} for row in JobReader(folder).table("images").to_pylist()]
    write_index(folder, "images", columns("images", rows))
    with pytest.raises(Fault, match="131,072 x 131,072 pixels"):
        convscope.open(folder).image(0).picture  # noqa: B018
    (folder / "mosaics/filters/conv.png").write_bytes(bomb)
    write_page(folder, SECTIONS)
    assert "mosaics/filters/conv.png cannot be read" in (folder / "report" / "index.html").read_text()
