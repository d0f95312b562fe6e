"""The page's files: what is written, from whatever there is."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from example_job import HOSTILE_LAYER, MAP, K, columns

from pipeline import run
from pipeline.drawing.pixels import decode_png
from pipeline.errors import WrongSpec
from pipeline.report.compare import Compared, write_comparison
from pipeline.report.job_reader import JobReader
from pipeline.report.page import write_page
from pipeline.report.page_files import to_json
from pipeline.stages import STAGES
from pipeline.stages.stage import sections_of
from pipeline.store.files import write_json
from pipeline.store.tables import INDEX, write_index

SECTIONS = sections_of(STAGES.values())


def taken(folder: Any, name: Any) -> Any:
    """The value that a data file hands to the page."""
    text = (folder / "report" / name).read_text()
    return json.loads("[" + re.fullmatch(r"convscope\.take\((.*)\);\n", text)[1] + "]")[1]


def test_the_page_shows_patches_from_the_mosaics_and_knows_where_each_lies(make_job: Any) -> None:
    folder = make_job({"conv": 5, HOSTILE_LAYER: 2})
    write_page(folder, SECTIONS)
    for layer, count in zip(taken(folder, "data/job.js")["layers"], (5, 2), strict=True):
        rows = taken(folder, layer["data"])["rows"]
        assert layer["tile"] == {"height": 16, "width": 16, "per_line": 2, "step_y": 20, "step_x": 20, "k": K}
        for channel in range(count):
            sheet, y, x = rows[str(channel)]
            name, height, width = layer["sheets"][sheet]
            picture = decode_png((folder / "report" / name).read_bytes())
            assert picture.shape == (height, width, 3)
            assert all((picture[y + rank // 2 * 20, x + rank % 2 * 20] == (channel, 100 + rank, 200)).all() for rank in range(K))
    assert not list((folder / "report").rglob("*crop*"))


def test_a_comparison_has_copies_of_the_mosaics_because_it_lies_elsewhere(make_job: Any, tmp_path: Path) -> None:
    first, second = (make_job({"conv": 2}, name=name) for name in ("first", "second"))
    write_comparison(Compared(first, second), tmp_path)
    for prefix, job in zip("ab", (first, second), strict=True):
        name = "mosaics/activations/conv-crop-001.png"
        assert (tmp_path / prefix / name).read_bytes() == (job / name).read_bytes()


def test_the_maps_of_winners_come_with_the_page(make_job: Any) -> None:
    folder = make_job({"conv": 2})
    write_page(folder, SECTIONS)
    maps = taken(folder, "data/conv/0.js")["maps"]
    assert base64.b64decode(maps["1"][str(K - 1)]) == MAP
    images = taken(folder, "data/+images.js")
    assert [images[name][0] for name in ("height", "width", "y1", "x1", "y2", "x2")] == [48, 64, 0, 8, 48, 56]


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
    assert "1 never fires" in job["layers"][0]["says"]
    layer = taken(folder, job["layers"][1]["data"])
    assert layer["order"] == [0, 1] and layer["winners"]["score"] == [10, 9, 8, 20, 19, 18]
    details = {"histogram", "histogram_edges"}
    assert set(layer["channels"]) == set(INDEX["channels"].names) - {"layer"} - details
    stored = taken(folder, f"{job['layers'][1]['details']}/0.js")["rows"]
    assert set(stored["histogram"]) == {"channel"} | details and {"row", "col", "src_y1"} <= set(stored["winners"])
    files = {path.relative_to(folder / "report").as_posix() for path in (folder / "report").rglob("*") if path.is_file()}
    assert files == {*json.loads((folder / "report/data/files.json").read_text()), "data/files.json"}
    assert counts["files"] == len(files) - 1


def test_images_that_are_the_same_are_one_file(make_job: Any) -> None:
    folder = make_job({"conv": 60})  # examples repeat after 50
    write_page(folder, SECTIONS)
    images = taken(folder, "data/+images.js")
    assert len(images["example"]) == 50 == len(list((folder / "report" / "images").iterdir()))
    assert (images["height"][3], images["width"][3]) == (48, 64)


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
    assert "fire" not in taken(folder, "data/job.js")["layers"][0]["says"]


@pytest.mark.parametrize("broken", ["index/activations.parquet", "index/channels.parquet", "crops/conv.parquet"])
def test_a_broken_file_is_named_and_the_rest_is_shown(make_job: Any, broken: Any) -> None:
    folder = make_job({"conv": 2})
    (folder / broken).write_bytes(b"PAR1 and then nothing")
    write_page(folder, SECTIONS)
    assert f"{broken} cannot be read" in (folder / "report" / "index.html").read_text()
    assert taken(folder, "data/conv.js")["order"] == [0, 1]


def test_a_job_from_before_there_was_a_table_of_mosaics_has_a_page_of_whole_images(make_job: Any) -> None:
    folder = make_job({"conv": 2})
    (folder / "index" / "mosaics.parquet").unlink()
    write_page(folder, SECTIONS)
    assert taken(folder, "data/job.js")["layers"][0]["tile"] is None


def test_a_mosaic_that_is_missing_is_named(make_job: Any) -> None:
    folder = make_job({"conv": 2})
    (folder / "mosaics/activations/conv-crop-001.png").unlink()
    write_page(folder, SECTIONS)
    assert "mosaics/activations/conv-crop-001.png is missing" in (folder / "report" / "index.html").read_text()
    assert taken(folder, "data/job.js")["layers"][0]["tile"] is None


def test_the_page_of_a_run_that_comes_to_its_end_does_not_call_it_unfinished(spec: Any, quiet: Any, tmp_path: Path) -> None:
    folder = run(spec.model_copy(update={"stages": ["activations", "report"]}), tmp_path, reporter=quiet)
    assert "This job is" not in (folder / "report" / "index.html").read_text()
