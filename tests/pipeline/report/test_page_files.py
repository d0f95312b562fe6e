"""The page's files: what is written, from whatever there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_job import HOSTILE_LAYER, K, columns

from pipeline import run
from pipeline.drawing.pixels import decode_png
from pipeline.errors import WrongSpec
from pipeline.report.job_reader import JobReader
from pipeline.report.page import write_page
from pipeline.report.page_files import to_json
from pipeline.report.sprites import ROWS, draw_sprites, sprite_layout
from pipeline.stages import STAGES
from pipeline.stages.stage import sections_of
from pipeline.store.files import write_json
from pipeline.store.tables import INDEX, write_index

SECTIONS = sections_of(STAGES.values())


def taken(folder: Any, name: Any) -> Any:
    """The value that a data file hands to the page."""
    text = (folder / "report" / name).read_text()
    return json.loads("[" + re.fullmatch(r"convscope\.take\((.*)\);\n", text)[1] + "]")[1]


def test_every_patch_lies_on_its_sheet_where_the_page_looks_for_it(make_job: Any) -> None:
    crops = JobReader(make_job({"conv": ROWS + 3})).crops("conv")
    layout = sprite_layout(crops, {})
    assert (layout.height, layout.width, layout.k, layout.crisp) == (16, 16, K, True)
    found = list(draw_sprites(crops, list(range(ROWS + 3)), layout, {}))
    assert [(sheet.number, sheet.rows) for sheet in found] == [(0, ROWS), (1, 3)]
    for channel in (0, 1, ROWS - 1, ROWS, ROWS + 2):
        picture = decode_png(found[channel // ROWS].data)
        for rank in range(K):
            y, x = channel % ROWS * 16, rank * 16
            assert (picture[y : y + 16, x : x + 16] == (channel, 100 + rank, 200)).all()


def test_channels_that_the_spec_chose_keep_their_numbers(make_job: Any) -> None:
    folder = make_job({"conv": 3})
    rows = [row | {"channel": 7 * row["channel"]} for row in JobReader(folder).table("channels").to_pylist()]
    write_index(folder, "channels", columns("channels", rows))
    write_page(folder, SECTIONS)
    assert taken(folder, "data/conv.js")["order"] == [0, 1, 2, 7, 14]


def test_the_data_hold_every_winner_and_every_number(make_job: Any) -> None:
    folder = make_job({"conv": 4, HOSTILE_LAYER: 2})
    counts = write_page(folder, SECTIONS)
    assert counts["layers"] == 2 and counts["channels"] == 6
    job = taken(folder, "data/job.js")
    assert [layer["name"] for layer in job["layers"]] == ["conv", HOSTILE_LAYER]
    assert job["layers"][0]["dead"] == 0.25
    layer = taken(folder, job["layers"][1]["data"])
    assert layer["order"] == [0, 1] and layer["tables"]["activations"]["score"] == [10, 9, 8, 20, 19, 18]
    assert set(layer["tables"]["channels"]) == set(INDEX["channels"].names) - {"layer"}
    files = {path.relative_to(folder / "report").as_posix() for path in (folder / "report").rglob("*") if path.is_file()}
    assert files == {*json.loads((folder / "report/data/files.json").read_text()), "data/files.json"}
    assert counts["files"] == len(files) - 1


def test_images_that_are_the_same_are_one_file(make_job: Any) -> None:
    folder = make_job({"conv": 60})  # examples repeat after 50
    write_page(folder, SECTIONS)
    job = taken(folder, "data/job.js")
    assert len(job["images"]) == 50 == len(list((folder / "report" / "images").iterdir()))
    assert job["images"]["3"][1:] == [48, 64]


def test_nothing_in_a_script_can_end_it_and_numbers_that_json_lacks_are_null() -> None:
    text = to_json({"a": "</script><!--", "b": [float("nan"), float("inf"), 1.5], "c": "\u2028"})
    assert "<" not in text and "\u2028" not in text
    assert json.loads(text) == {"a": "</script><!--", "b": [None, None, 1.5], "c": "\u2028"}


def test_a_new_page_takes_the_place_of_the_old_and_leaves_what_others_put_there(make_job: Any) -> None:
    folder = make_job({"conv": 2})
    write_page(folder, SECTIONS)
    (folder / "report" / "mine.txt").write_text("mine")
    old = set((folder / "report" / "images").iterdir())
    (folder / "index" / "images.parquet").unlink()
    write_page(folder, SECTIONS)
    assert (folder / "report" / "mine.txt").read_text() == "mine"
    assert old and not any(path.exists() for path in old)


def test_a_folder_without_a_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongSpec, match=r"no run\.json"):
        write_page(tmp_path, SECTIONS)
    (tmp_path / "run.json").write_text("{]")
    with pytest.raises(WrongSpec, match="cannot be read"):
        write_page(tmp_path, SECTIONS)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(WrongSpec, match="no receipt"):
        write_page(tmp_path, SECTIONS)


def test_a_job_that_has_done_nothing_yet_gets_a_page_that_says_so(make_job: Any, tmp_path: Path) -> None:
    done = json.loads((make_job({"conv": 1}) / "run.json").read_text())
    write_json(tmp_path / "run.json", done | {"state": "running", "stages": {}, "layers": []})
    write_page(tmp_path, SECTIONS)
    page = (tmp_path / "report" / "index.html").read_text()
    assert "This job is running" in page and "No layer has been looked at yet" in page
    assert "run the job to its end" in page


def test_an_older_index_gets_a_page_that_names_what_it_lacks(make_job: Any) -> None:
    folder = make_job({"conv": 2})
    import pyarrow.parquet as pq

    path = folder / "index" / "channels.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["dead", "top_label"]), path)
    write_page(folder, SECTIONS)
    page = (folder / "report" / "index.html").read_text()
    assert "index/channels.parquet is from an older version: it has no dead, top_label" in page
    assert taken(folder, "data/job.js")["layers"][0]["dead"] is None


@pytest.mark.parametrize("broken", ["index/activations.parquet", "index/channels.parquet", "crops/conv.parquet"])
def test_a_broken_file_is_named_and_the_rest_is_shown(make_job: Any, broken: Any) -> None:
    folder = make_job({"conv": 2})
    (folder / broken).write_bytes(b"PAR1 and then nothing")
    write_page(folder, SECTIONS)
    assert f"{broken} cannot be read" in (folder / "report" / "index.html").read_text()
    assert taken(folder, "data/conv.js")["order"] == [0, 1]


def test_a_job_without_crops_has_a_page_without_sheets(make_job: Any) -> None:
    folder = make_job({"conv": 2})
    (folder / "crops" / "conv.parquet").unlink()
    write_page(folder, SECTIONS)
    assert taken(folder, "data/job.js")["layers"][0]["tile"] is None
    assert not list((folder / "report").glob("sheets/*"))


def test_clipped_patches_keep_their_shape(make_job: Any) -> None:
    import pyarrow as pa

    from pipeline.drawing.pixels import encode_png

    wide = np.full((100, 400, 3), 250, np.uint8)
    rows = [{"channel": 0, "rank": 0, "image": {"bytes": encode_png(wide), "path": "x"}}]
    rows += [{"channel": 1, "rank": 0, "image": {"bytes": encode_png(wide[:, :100]), "path": "x"}}]
    crops = pa.Table.from_pylist(rows)
    boxes = {(0, 0): (10, 40), (1, 0): (10, 10)}  # of the network's input: the second was clipped
    layout = sprite_layout(crops, boxes)
    assert (layout.height, layout.width) == (24, 96)
    (sheet,) = draw_sprites(crops, [0, 1], layout, boxes)
    bright = decode_png(sheet.data).astype(int).min(axis=2) > 200
    assert bright[:24].all() and (bright[24:].sum(axis=1) > 20).all() and bright[24:].sum() < 30 * 24


def test_the_page_of_a_run_that_comes_to_its_end_does_not_call_it_unfinished(spec: Any, quiet: Any, tmp_path: Path) -> None:
    folder = run(spec.model_copy(update={"stages": ["activations", "report"]}), tmp_path, reporter=quiet)
    assert "This job is" not in (folder / "report" / "index.html").read_text()
