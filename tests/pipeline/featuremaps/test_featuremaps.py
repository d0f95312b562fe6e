"""The stage `featuremaps`: every map of a layer for the images chosen, read back from the pictures and the index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pandas as pd
import pytest

from pipeline import run
from pipeline.drawing.palettes import LETTERS, palette
from pipeline.drawing.pixels import decode_png
from pipeline.drawing.text import strip
from pipeline.errors import MissingInput, UnknownLayer, WrongSpec
from pipeline.featuremaps.map_sheet import MapStyle, draw_maps
from pipeline.featuremaps.statistics import MapStatistics
from pipeline.load import load_spec
from pipeline.receipt import read_receipt

CORNER = np.full((8, 8, 3), 200, np.uint8)


@pytest.fixture
def job_of(write_spec: Any, quiet: Any, tmp_path: Path) -> Any:
    """A function: run a job of the stage alone. Returns: its folder."""

    def start(model: Any = None, **featuremaps: Any) -> Any:
        spec = write_spec(tmp_path / "spec.toml", model=model or {}, featuremaps=featuremaps)
        return run(load_spec(spec, ['stages=["featuremaps"]']), tmp_path, reporter=quiet)

    return start


def index(folder: Any) -> Any:
    return pd.read_parquet(folder / "index" / "featuremaps.parquet")


def as_drawn(values: Any, colours: Any, low: Any, high: Any, times: Any = 1) -> Any:
    """A map as it must look: uint8 RGB."""
    low, high = float(low), float(high)
    places = np.rint(255 * (values.astype(np.float64) - low) / ((high - low) or 1)).astype(int)
    return palette(colours)[places].repeat(times, axis=0).repeat(times, axis=1)


def is_on(picture: Any, tile: Any) -> Any:
    """Where a tile is drawn, as (y, x), in reading order of all places."""
    height, width = tile.shape[:2]
    corners = (picture[: 1 - height, : 1 - width] == tile[0, 0]) & (picture[height - 1 :, width - 1 :] == tile[-1, -1])
    corners &= picture[: 1 - height, width - 1 :] == tile[0, -1]
    places = np.argwhere(corners.all(axis=2)).tolist()
    return [(y, x) for y, x in places if np.array_equal(picture[y : y + height, x : x + width], tile)]


@pytest.fixture
def maps() -> Any:
    return np.random.default_rng(5).normal(size=(20, 30, 7)).astype(np.float32)


@pytest.mark.parametrize("colours", ["viridis", "grey", "cividis", "inferno"])
@pytest.mark.parametrize("shared", [True, False])
def test_every_map_is_drawn_in_order_in_its_colours_on_its_scale(maps: Any, colours: Any, shared: Any) -> None:
    maps[..., 2] *= 5
    picture = draw_maps(maps, ["title"], CORNER, MapStyle(colours, shared, 100))
    ends = [(maps.min(), maps.max()) if shared else (maps[..., c].min(), maps[..., c].max()) for c in range(7)]
    places = [is_on(picture, as_drawn(maps[..., c], colours, *ends[c], times=3)) for c in range(7)]
    assert all(len(actual) == 1 for actual in places)
    assert [actual[0] for actual in places] == sorted(actual[0] for actual in places)


def test_maps_that_grow_are_made_of_squares() -> None:
    maps = np.random.default_rng(1).normal(size=(50, 40, 2)).astype(np.float32)
    picture = draw_maps(maps, ["title"], CORNER, MapStyle("viridis", False, 2))
    tile = as_drawn(maps[..., 1], "viridis", maps[..., 1].min(), maps[..., 1].max(), times=2)
    assert len(is_on(picture, tile)) == 1


def test_large_maps_shrink_and_channels_beyond_the_limit_are_left_out_and_both_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    monkeypatch.setattr(
        "pipeline.featuremaps.map_sheet.contact_sheet", lambda lines, body, *rest: said.append((lines, rest)) or body
    )
    maps = np.random.default_rng(0).normal(size=(300, 200, 12)).astype(np.float32)
    body = draw_maps(maps, ["title", "image"], CORNER, MapStyle("grey", False, 5))
    assert max(body.shape) < 700
    assert said[0][0] == ["title", "image", "The first 5 of 12 channels, at 1/3 of its size; each map has a scale of its own."]
    numbers = [strip(str(channel), 11, LETTERS, "head")[:13] for channel in range(6)]
    assert [len(is_on(body, number)) for number in numbers] == [1, 1, 1, 1, 1, 0]
    wide = np.zeros((7, 7, 4096), np.float32)
    assert max(draw_maps(wide, ["title"], CORNER, MapStyle("grey", False, 4096)).shape) < 3000


def test_dead_maps_are_crossed_out_and_counted(maps: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    maps[..., 3], maps[..., 5] = 0, -2.5
    statistics = MapStatistics.of(maps)
    assert np.flatnonzero(statistics.dead).tolist() == [3, 5]
    picture = draw_maps(maps, ["title"], CORNER, MapStyle("grey", False, 100))
    cross = np.zeros((60, 90, 3), np.uint8)
    for start, end in (((0, 0), (89, 59)), ((0, 59), (89, 0))):
        cv2.line(cross, start, end, (255, 176, 0), 1)
    assert len(is_on(picture, cross)) == 2
    said = []
    monkeypatch.setattr("pipeline.featuremaps.map_sheet.contact_sheet", lambda lines, body, *rest: said.append(lines) or body)
    draw_maps(maps, ["title"], CORNER, MapStyle("grey", False, 100))
    assert said[0][-1] == "2 dead maps, the same everywhere, are crossed out."
    one = MapStatistics.of(np.zeros((1, 1, 4), np.float32))
    assert not one.dead.any()  # a single value is the same everywhere, which says nothing


def test_what_is_no_number_is_marked_counted_and_left_out_of_the_statistics(maps: Any) -> None:
    maps[0, 0, 1], maps[3, 4, 1], maps[..., 6] = np.nan, np.inf, np.nan
    statistics = MapStatistics.of(maps)
    finite = maps[..., 1][np.isfinite(maps[..., 1])]
    assert statistics.nans.tolist() == [0, 2, 0, 0, 0, 0, 600]
    assert statistics.low[1] == finite.min() and statistics.high[1] == finite.max()
    assert statistics.mean[1] == pytest.approx(finite.mean(dtype=np.float64))
    assert statistics.share_positive[1] == (finite > 0).mean()
    assert np.isnan(statistics.low[6]) and not statistics.dead[6]
    expected = as_drawn(np.where(np.isfinite(maps[..., 1]), maps[..., 1], finite.min()), "grey", finite.min(), finite.max())
    expected[0, 0] = expected[3, 4] = (255, 176, 0)
    picture = draw_maps(maps, ["title"], CORNER, MapStyle("grey", False, 100))
    assert len(is_on(picture, expected.repeat(3, axis=0).repeat(3, axis=1))) == 1


def test_the_index_tells_of_every_map_what_the_network_gave(
    job_of: Any, tiny_model: Any, pictures: Any, tree_of: Any, tmp_path: Path
) -> None:
    file = pictures / "dog" / "003.png"
    folder = job_of(examples=[4], keys="cat/002.png", files=str(file))
    names = ["example-1", "example-4", "file-0-003"]
    assert sorted(name for name in tree_of(folder) if name != ".lock") == sorted(
        [
            *("run.json", "spec.toml", "index/featuremaps.parquet"),
            *(f"mosaics/featuremaps/{layer}/{name}.png" for layer in ("edges", "shapes", "classes") for name in names),
        ]
    )
    rows = index(folder)
    paths = [pictures / "cat/002.png", pictures / "cat/008.png", file]
    from pipeline.sources.fit import Fit

    shown = np.stack([Fit(16, 16).apply(decode_png(path.read_bytes())) for path in paths])
    for layer, channels in (("edges", 4), ("shapes", 5), ("classes", 3)):
        maps = keras.Model(tiny_model.inputs, tiny_model.get_layer(layer).output).predict(shown.astype(np.float32), verbose=0)
        of_layer = rows[rows.layer == layer]
        assert of_layer.channel.tolist() == [*range(channels)] * 3
        assert of_layer.example.astype("Int64").tolist()[::channels] == [1, 4, pd.NA]
        assert of_layer.key.tolist()[::channels] == ["cat/002.png", "cat/008.png", str(file)]
        values = maps.reshape(3, -1, channels)
        for column, expected in (("min", values.min(axis=1)), ("max", values.max(axis=1)), ("mean", values.mean(axis=1))):
            np.testing.assert_allclose(of_layer[column], expected.ravel(), rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(of_layer.share_positive, (values > 0).mean(axis=1).ravel(), atol=1e-6)
        assert of_layer.picture.tolist()[::channels] == [f"mosaics/featuremaps/{layer}/{name}.png" for name in names]
        assert of_layer.drawn.all() and all((folder / picture).is_file() for picture in of_layer.picture)
    record = read_receipt(folder).stages["featuremaps"]
    assert record.images == 3 and record.summary.startswith("36 maps of 3 layers and 3 images, ")


def test_without_a_choice_the_first_few_images_and_the_jobs_layers_are_drawn(job_of: Any) -> None:
    rows = index(job_of(layers="shapes", first=2, channels=3))
    assert rows.example.unique().tolist() == [0, 1] and rows.layer.unique().tolist() == ["shapes"]
    assert rows.drawn.tolist() == [True, True, True, False, False] * 2
    rows = index(job_of())
    assert rows.example.unique().tolist() == [0, 1, 2, 3] and rows.layer.unique().tolist() == ["edges", "shapes", "classes"]


def test_layers_whose_maps_are_many_are_drawn_in_several_passes_with_the_same_result(
    job_of: Any, monkeypatch: pytest.MonkeyPatch, tree_of: Any
) -> None:
    whole = tree_of(job_of(), "index", "mosaics")
    monkeypatch.setattr("pipeline.featuremaps.results._MOST_FLOATS", 1)
    assert tree_of(job_of(first=4), "index", "mosaics") == whole


def test_pictures_of_an_earlier_choice_are_removed(job_of: Any, tree_of: Any) -> None:
    job_of(first=3)
    assert [name for name in tree_of(job_of(layers="edges", examples=[7])) if name.endswith(".png")] == [
        "mosaics/featuremaps/edges/example-7.png"
    ]


def test_a_file_that_holds_another_picture_under_the_same_name_is_drawn_again_and_one_that_does_not_is_not(
    job_of: Any, tmp_path: Path, pictures: Any
) -> None:
    file = tmp_path / "mine.png"
    file.write_bytes((pictures / "dog" / "003.png").read_bytes())

    def drawn() -> Any:
        folder = job_of(files=str(file))
        return index(folder)["mean"].tolist(), (folder / "mosaics/featuremaps/edges/file-0-mine.png").stat().st_mtime_ns

    first = drawn()
    file.touch()
    assert drawn() == first
    file.write_bytes((pictures / "cat" / "002.png").read_bytes())
    assert drawn()[0] != first[0]


@pytest.mark.parametrize(
    ("featuremaps", "kind", "words"),
    [
        ({"layers": "egdes"}, UnknownLayer, "'egdes' is not in tiny; nearest: edges"),
        ({"examples": [20]}, WrongSpec, "[featuremaps]: example 20 is not there; examples run from 0 to 19"),
        ({"examples": [-1]}, WrongSpec, "featuremaps.examples"),
        ({"keys": "no.png"}, WrongSpec, "[featuremaps]: no example has the key 'no.png'"),
        ({"files": "no.png"}, MissingInput, "no.png' is missing"),
        ({"colours": "jet"}, WrongSpec, "featuremaps.colours = 'jet'"),
        ({"scale": "all"}, WrongSpec, "featuremaps.scale = 'all'"),
        ({"first": 0}, WrongSpec, "featuremaps.first = 0"),
    ],
)
def test_impossible_settings_are_reported_before_anything_is_written(
    job_of: Any, tmp_path: Path, featuremaps: Any, kind: Any, words: Any
) -> None:
    with pytest.raises(kind) as caught:
        job_of(**featuremaps)
    assert words in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 2
    assert not (tmp_path / "tiny" / "run.json").exists()


def test_files_of_a_spec_are_beside_the_spec_and_files_of_the_command_line_here(
    write_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_spec(tmp_path / "spec.toml", featuremaps={"files": ["a.png", "/b.png", "s3://c/d.png"]})
    assert load_spec(path).featuremaps.files == [str(tmp_path / "a.png"), "/b.png", "s3://c/d.png"]
    monkeypatch.chdir("/")
    changed = load_spec(path, [f"featuremaps.files={json.dumps(['x.png'])}"])
    assert changed.featuremaps.files == ["/x.png"]
