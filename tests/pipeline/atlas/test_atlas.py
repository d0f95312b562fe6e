"""The stage `atlas`: where points lie, what cells hold, what it leaves, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest

from pipeline import run
from pipeline.atlas import layout
from pipeline.atlas.layout import cells_of, lay_out, striking_channels
from pipeline.drawing.palettes import GROUND
from pipeline.drawing.pixels import decode_png, encode_png
from pipeline.errors import WrongSpec
from pipeline.load import load_spec
from pipeline.receipt import read_receipt


def job(
    write_spec: Any,
    folder: Any,
    quiet: Any,
    model: Any = None,
    stages: Any = '["atlas", "report"]',
    source: Any = None,
    **table: Any,
) -> Any:
    atlas = {"per_image": 12, "neighbours": 5, "grids": [3], "steps": 2, **table}
    spec = load_spec(
        write_spec(folder / "spec.toml", model={"layers": ["edges"], **(model or {})}, atlas=atlas),
        [f"stages={stages}", *([] if not source else [f"data.source={source}"])],
    )
    return run(spec, folder, reporter=quiet)


@pytest.fixture(scope="module")
def mapped(write_spec: Any, quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a job with an atlas of `edges`, 240 points, and its page."""
    return job(write_spec, tmp_path_factory.mktemp("atlas"), quiet, projector=True)


def test_the_stage_leaves_points_cells_icons_and_what_other_viewers_load(mapped: Any) -> None:
    points = pd.read_parquet(mapped / "atlas" / "edges.parquet")
    cells = pd.read_parquet(mapped / "index" / "atlas.parquet")
    assert len(points) == 240 and points[["x", "y"]].stack().between(0, 1).all()
    assert set(points.label) == {"cat", "dog"} and points.groupby("example").size().eq(12).all()
    assert cells.vectors.sum() <= 240 and (cells.vectors >= 3).all() and (cells.picture == "mosaics/atlas/edges-3.png").any()
    vectors = np.loadtxt(mapped / "atlas" / "edges-vectors.tsv", delimiter="\t")
    metadata = pd.read_csv(mapped / "atlas" / "edges-metadata.tsv", sep="\t")
    assert vectors.shape == (240, 4) and metadata.key.tolist() == points.key.tolist()
    assert "240 points of 1 layer" in str(read_receipt(mapped).stages["atlas"].summary)
    assert not list((mapped / "parts" / "atlas").glob("*")) and (mapped / "report" / "data" / "+atlas.js").exists()


def test_icons_lie_where_their_cells_lie(mapped: Any) -> None:
    cells = pd.read_parquet(mapped / "index" / "atlas.parquet")
    sheet = decode_png((mapped / "mosaics" / "atlas" / "edges-3.png").read_bytes())
    side = sheet.shape[0] // 3
    drawn = {
        (row, col)
        for row in range(3)
        for col in range(3)
        if (sheet[row * side : (row + 1) * side, col * side : (col + 1) * side] != GROUND).any()
    }
    assert drawn == set(zip(cells.row[cells.picture.notna()], cells.col[cells.picture.notna()], strict=True)) and drawn


def test_an_icon_shows_what_its_cell_responds_to_and_not_the_opposite(write_spec: Any, quiet: Any, tmp_path: Any) -> None:
    inputs = keras.Input((16, 16, 3))
    colour = keras.layers.Conv2D(2, 1, use_bias=False, name="colour")
    model = keras.Model(inputs, colour(inputs), name="colours")
    colour.set_weights([np.array([[1, -1], [0, 0], [-1, 1]], np.float32).reshape(1, 1, 3, 2) / 255])  # red less blue; the reverse
    model.save(tmp_path / "colours.keras")
    random = np.random.default_rng(0)
    for number in range(24):
        name = ("red", "blue")[number % 2]
        pixels = random.integers(0, 90, (16, 16, 3), np.uint8)
        pixels[..., 0 if name == "red" else 2] += 160
        path = tmp_path / "pictures" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(pixels))
    network = {"source": f"file:{tmp_path / 'colours.keras'}", "layers": ["colour"]}
    folder = job(write_spec, tmp_path, quiet, network, '["atlas"]', f"folder:{tmp_path / 'pictures'}", grids=[2], steps=16)
    cells = pd.read_parquet(folder / "index" / "atlas.parquet").query("picture.notna() and label_share == 1")
    sheet = decode_png((folder / "mosaics" / "atlas" / "colour-2.png").read_bytes()).astype(int)
    side = sheet.shape[0] // 2
    redder: dict[str, list[float]] = {"red": [], "blue": []}
    for row, col, label in cells[["row", "col", "label"]].itertuples(index=False):
        icon = sheet[row * side : (row + 1) * side, col * side : (col + 1) * side]
        redder[label].append(float((icon[..., 0] - icon[..., 2]).mean()))
    assert min(redder["red"]) > max(redder["blue"])


def test_the_channel_of_a_cell_is_the_one_most_above_its_mean_in_standard_deviations(mapped: Any) -> None:
    vectors = np.zeros((40, 3), np.float32)
    vectors[:20, 0], vectors[:2, 1] = 100 + np.arange(20), 1  # channel 0 is large everywhere it is, channel 1 rare
    cells = [SimpleNamespace(mean=vectors[:2].mean(axis=0)), SimpleNamespace(mean=vectors[2:20].mean(axis=0))]
    assert striking_channels(vectors, cells) == [1, 0]
    assert pd.read_parquet(mapped / "index" / "atlas.parquet").channel.between(0, 3).all()


def test_vectors_of_different_directions_lie_apart_and_the_same_seed_gives_the_same_map() -> None:
    random = np.random.default_rng(0)
    kinds = np.repeat(np.eye(3, 8), 40, axis=0)
    vectors = (kinds * random.uniform(1, 5, (120, 1)) + random.normal(0, 0.05, (120, 8))).astype(np.float32)
    points = lay_out(vectors, 8, seed=1)
    np.testing.assert_array_equal(points, lay_out(vectors, 8, seed=1))
    middles = points.reshape(3, 40, 2).mean(axis=1)
    spread = points.reshape(3, 40, 2).std(axis=1).max()
    apart = min(np.linalg.norm(middles[a] - middles[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert apart > 2 * spread


def test_what_numba_compiles_of_umap_is_kept_for_other_processes(mapped: Any) -> None:
    import umap

    compiled = [getattr(umap.umap_, name).stats for name in layout._COMPILED]
    assert all(stats.cache_path and sum((stats.cache_hits | stats.cache_misses).values()) for stats in compiled), compiled


def test_a_disk_without_room_for_what_numba_compiles_costs_time_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import umap

    vectors, tries = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32), []
    expected, fit = lay_out(vectors, 5, seed=1), umap.UMAP.fit_transform

    def full(reducer: Any, vectors: Any) -> Any:
        tries.append(reducer)
        if len(tries) <= len(layout._COMPILED):
            raise OSError(28, "No space left on device")
        return fit(reducer, vectors)

    monkeypatch.setattr(umap.UMAP, "fit_transform", full)
    np.testing.assert_array_equal(lay_out(vectors, 5, seed=1), expected)


def test_progress_counts_the_epochs_of_umap_up_to_the_last(capfd: Any) -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    reported: list[tuple[int, int]] = []
    points = lay_out(vectors, 8, seed=1, progress=lambda done, total: reported.append((done, total)))
    assert reported[0] == (0, 500) and reported[-1] == (500, 500) and reported == sorted(reported)
    np.testing.assert_array_equal(points, lay_out(vectors, 8, seed=1))
    assert capfd.readouterr() == ("", "")  # no bar of UMAP's own


def test_a_cell_is_the_mean_of_its_vectors_and_bears_their_most_frequent_label() -> None:
    points = np.array([[0.1, 0.1], [0.2, 0.2], [0.3, 0.1], [0.9, 0.4], [1.0, 1.0]], np.float32)
    vectors = np.arange(10, dtype=np.float32).reshape(5, 2)
    cells = cells_of(points, vectors, ["a", "b", "b", "c", None], grid=2, least=1)
    assert [(cell.row, cell.col, cell.label, len(cell.members)) for cell in cells] == [
        (0, 0, "b", 3),
        (0, 1, "c", 1),
        (1, 1, None, 1),
    ]
    np.testing.assert_array_equal(cells[0].mean, [2, 3])
    assert cells[0].label_share == pytest.approx(2 / 3)
    assert [cell.row for cell in cells_of(points, vectors, ["a"] * 5, grid=2, least=2)] == [0]


def test_a_layer_without_gradients_gets_an_atlas_without_icons(write_spec: Any, quiet: Any, tmp_path: Any) -> None:
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, name="before")(inputs)
    model = keras.Model(inputs, keras.layers.Activation("linear", name="cut")(keras.ops.floor(x)), name="cutting")
    model.save(tmp_path / "cutting.keras")
    folder = job(write_spec, tmp_path, quiet, {"source": f"file:{tmp_path / 'cutting.keras'}", "layers": ["cut"]}, '["atlas"]')
    assert pd.read_parquet(folder / "index" / "atlas.parquet").picture.isna().all()
    record = read_receipt(folder).stages["atlas"].model_extra or {}
    assert record["icons"] == 0 and "gradient" in record["without_icons"]["cut"]


def test_a_sample_that_is_too_small_for_the_map_is_refused_before_the_scan(write_spec: Any, quiet: Any, tmp_path: Any) -> None:
    with pytest.raises(WrongSpec, match="needs at least 22 vectors, but the sample has 20"):
        job(write_spec, tmp_path, quiet, stages='["activations", "atlas"]', per_image=1, neighbours=20)
    assert not list(tmp_path.rglob("activations.parquet"))


def test_a_layer_of_one_channel_has_no_directions_to_lay_out(write_spec: Any, quiet: Any, tmp_path: Any) -> None:
    inputs = keras.Input((16, 16, 3))
    keras.Model(inputs, keras.layers.Conv2D(1, 3, name="single")(inputs)).save(tmp_path / "single.keras")
    with pytest.raises(WrongSpec, match="atlas.layers: 'single' has one channel"):
        job(write_spec, tmp_path, quiet, {"source": f"file:{tmp_path / 'single.keras'}", "layers": ["single"]}, '["atlas"]')
