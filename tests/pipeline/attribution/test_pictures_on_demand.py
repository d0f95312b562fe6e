"""Pictures of some images while the stage runs, and of any other afterwards."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import load_spec, run
from pipeline.attribution.map_files import read_maps
from pipeline.attribution.results import spread_evenly
from pipeline.store.tables import read_index


def explain(write_spec: Any, tiny_file: Any, folder: Path, quiet: Any, pictures: Any) -> Any:
    """A finished job that explains five images, from a copy of the tiny network beside it."""
    network = folder / "tiny.keras"
    shutil.copy(tiny_file, network)
    keys = {"first": 5, "methods": ["gradcam", "gradient"], "arrays": True, "pictures": pictures, "batch": 2}
    spec = write_spec(folder / "few.toml", model={"source": f"file:{network}"}, gradcam=keys)
    return run(load_spec(spec, ['stages=["gradcam"]']), folder / "out", reporter=quiet)


@pytest.fixture(scope="module")
def few(write_spec: Any, tiny_file: Any, quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A job that draws two of its five images, and a twin that draws all."""
    folders = [tmp_path_factory.mktemp(name) for name in ("few", "all")]
    return [explain(write_spec, tiny_file, folder, quiet, most) for folder, most in zip(folders, (2, "all"), strict=True)]


def rows(folder: Path) -> list[Any]:
    return read_index(folder, "attributions").to_pylist()


@pytest.mark.parametrize(("most", "total"), [(0, 5), (1, 5), (2, 5), (5, 5), (9, 5), (200, 50_000), (7, 97)])
def test_as_many_images_are_drawn_as_may_be_and_they_are_spread_evenly(most: Any, total: Any) -> None:
    drawn = [number for number in range(total) if spread_evenly(most, total)(number)]
    assert len(drawn) == min(most, total) and drawn[:1] == [0][:most]
    gaps = {second - first for first, second in itertools.pairwise(drawn)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_every_image_is_in_the_index_and_some_are_drawn(few: Any) -> None:
    some, every = (rows(folder) for folder in few)
    assert [row["digest"] for row in some] == [row["digest"] for row in every] and len(some) == 10
    assert {row["example"] for row in some if row["picture"]} == {0, 3}
    assert all(row["picture"] for row in every)


def test_a_stored_map_is_drawn_without_the_network_as_the_stage_would_have_drawn_it(few: Any, command: Any) -> None:
    some, every = few
    network = some.parents[1] / "tiny.keras"
    hidden = network.rename(network.with_suffix(".hidden"))
    try:
        for row in rows(every):
            options = ("--method", row["method"], "--target", row["class"])
            status, path, error = command("picture", some, "--image", row["key"], *options)
            assert (status, error) == (0, "")
            made, drawn = (Path(name).read_bytes() for name in (path.strip(), every / row["picture"]))
            # What float16 rounds may change a grey level, and so a few bytes of the file.
            assert abs(len(made) - len(drawn)) <= 0.02 * len(drawn)
    finally:
        hidden.rename(network)


def test_the_maps_of_one_image_are_read_alone(few: Any) -> None:
    keys = [stored.key for stored in read_maps(few[0], "gradient")]
    assert len(set(keys)) == 5 and [stored.key for stored in read_maps(few[0], "gradient", key=keys[3])] == [keys[3]]


def test_of_several_targets_the_one_that_is_asked_for_is_drawn(
    write_spec: Any, tiny_file: Any, quiet: Any, command: Any, tmp_path: Path
) -> None:
    keys = {"first": 1, "methods": ["gradient"], "targets": [0, 2], "pictures": "all"}
    spec = write_spec(tmp_path / "two.toml", model={"source": f"file:{tiny_file}"}, gradcam=keys)
    folder = run(load_spec(spec, ['stages=["gradcam"]']), tmp_path / "out", reporter=quiet)
    drawn = [command("picture", folder, "--image", row["key"], "--target", row["class"])[1].strip() for row in rows(folder)]
    assert drawn == [str(folder / row["picture"]) for row in rows(folder)] and len(set(drawn)) == 2


def test_an_image_that_the_job_did_not_explain_is_explained_anew_without_the_jobs_checks(
    few: Any, command: Any, tmp_path: Path
) -> None:
    folder = shutil.copytree(few[0], tmp_path / "few")
    receipt = json.loads((folder / "run.json").read_text())
    receipt["spec"]["gradcam"] |= {"sanity": ["metrics"], "objects": {"source": "gone.csv"}, "aggregate": ["places"]}
    (folder / "run.json").write_text(json.dumps(receipt))
    status, path, error = command("picture", folder, "--image", 7, "--method", "hirescam", "--layer", "edges", "--target", 2)
    assert status == 0 and "explains the image anew" in error, error
    assert Path(path.strip()).relative_to(folder).as_posix() == "mosaics/gradcam/on-demand/7/2-hirescam-edges.png"
    assert Path(path.strip()).read_bytes().startswith(b"\x89PNG")
    assert not [row for row in rows(folder) if row["example"] == 7]


def test_a_target_that_is_none_is_an_error(few: Any, command: Any) -> None:
    status, _path, error = command("picture", few[0], "--image", 7, "--target", "zebra")
    assert status == 2 and "zebra" in error


@pytest.mark.parametrize("key", [{"trusted": True}, {"custom": "layers.py"}])
def test_a_folder_that_lets_its_network_run_code_gets_no_new_picture(few: Any, command: Any, tmp_path: Path, key: Any) -> None:
    folder = shutil.copytree(few[0], tmp_path / "tiny")
    receipt = json.loads((folder / "run.json").read_text())
    receipt["spec"]["model"] |= key
    (folder / "run.json").write_text(json.dumps(receipt))
    status, _, error = command("picture", folder, "--image", 7)
    assert status == 2 and "lets the network run Python code" in error


def test_stored_maps_that_are_broken_are_an_error_of_one_line(few: Any, command: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(few[0], tmp_path / "tiny")
    undrawn = next(row for row in rows(folder) if row["picture"] is None)
    for path in (folder / "maps").glob("*.parquet"):
        table = pq.read_table(path)
        shapes = pa.array([[2**30, 2**30]] * len(table), table.schema.field("shape").type)
        pq.write_table(table.set_column(table.column_names.index("shape"), "shape", shapes), path)
    status, _, error = command("picture", folder, "--image", undrawn["key"], "--method", undrawn["method"])
    assert status == 2 and error.startswith("MissingInput: the maps of") and len(error.splitlines()) == 1
