"""The stage `patterns`: what it leaves, what it remembers, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline import load_spec, run
from pipeline.ascent import checkpoint
from pipeline.ascent.objectives import channel, direction, layer, logit, neuron
from pipeline.drawing.pixels import decode_png
from pipeline.errors import UnknownLayer, UnknownName, WrongSpec
from pipeline.load import parse_spec
from pipeline.patterns import runner
from pipeline.patterns.plan import Pattern
from pipeline.spec.patterns import PatternsSpec
from pipeline.store import arrays

NAMED = {
    "name": "a class",
    "terms": [{"kind": "logit", "number": 2}, {"kind": "channel", "layer": "shapes", "channel": 1, "weight": -0.5}],
}
TABLE = {"layers": ["edges", "shapes"], "channels": [0, 2, 3], "steps": 12, "batch": 3, "sign": "both", "snapshot": 1e-9}


@pytest.fixture(scope="module")
def pattern_spec(spec: Any) -> Any:
    """The spec of the tiny job, with patterns of two layers and of one named objective."""
    tree = spec.model_dump(exclude_unset=True)
    return parse_spec(tree | {"stages": ["activations", "patterns"], "patterns": TABLE | {"objectives": [NAMED]}})


@pytest.fixture(scope="module")
def done(pattern_spec: Any, quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of the job, finished."""
    return run(pattern_spec, tmp_path_factory.mktemp("dreams"), reporter=quiet)


def rows_of(folder: Any) -> Any:
    return pd.read_parquet(folder / "index/patterns.parquet")


def test_every_picture_is_in_the_index_with_what_made_it(done: Any) -> None:
    rows = rows_of(done)
    channels = [
        (layer, number, sign) for layer in ("edges", "shapes") for number in (0, 2, 3) for sign in ("positive", "negative")
    ]
    assert list(rows[:12][["layer", "channel", "sign"]].itertuples(index=False, name=None)) == channels
    assert rows[12:].name.to_list() == ["a class"] * 2 and rows[12:].layer.isna().all()
    assert rows.objective[1] == 'channel("edges", 0)'
    assert rows.objective[12] == 'logit(2) - 0.5 * channel("shapes", 1)'
    assert (rows.steps == 12).all() and rows.losses.map(len).eq(12).all()
    assert [losses[-1] for losses in rows.losses] == rows.loss.to_list()
    parameters = json.loads(rows.parameters[0])
    assert parameters["steps"] == 12 and parameters["shake"]["jitter"] == PatternsSpec().shake.jitter
    assert not list((done / "parts").glob("patterns/*"))


def test_the_activation_reached_is_that_of_the_saved_picture(done: Any, tiny_model: Any) -> None:
    import keras

    rows = rows_of(done)
    means = {}
    for name in ("edges", "shapes"):
        look = keras.Model(tiny_model.input, tiny_model.get_layer(name).output)
        for saved in pq.read_table(done / "patterns" / f"{name}.parquet").to_pylist():
            picture = decode_png(saved["image"]["bytes"])
            maps = look(np.float32(picture)[np.newaxis]).numpy()[0, ..., saved["channel"]]
            row = rows[(rows.layer == name) & (rows.channel == saved["channel"]) & (rows.sign == saved["sign"])].iloc[0]
            assert row.reached == pytest.approx(maps.max() if row.sign == "positive" else maps.min(), rel=1e-5)
            means[name, saved["channel"], saved["sign"]] = maps.mean()
    for number in (0, 2, 3):
        assert means["shapes", number, "positive"] > means["shapes", number, "negative"]


def test_a_pattern_can_raise_the_middle_of_a_map_instead_of_its_mean(
    spec: Any, done: Any, quiet: Any, tmp_path: Path, tiny_model: Any
) -> None:
    import keras

    table = TABLE | {"target": "neuron", "layers": "edges"}
    folder = run(
        parse_spec(spec.model_dump(exclude_unset=True) | {"stages": ["patterns"], "patterns": table}), tmp_path, reporter=quiet
    )
    rows = rows_of(folder)
    assert rows.objective[rows.sign == "positive"].to_list() == [f'neuron("edges", {number})' for number in (0, 2, 3)]
    look = keras.Model(tiny_model.input, tiny_model.get_layer("edges").output)

    def raised(folder: Any) -> Any:
        """The maps of the raised channels, each made by the picture of its own."""
        rows = [row for row in pq.read_table(folder / "patterns/edges.parquet").to_pylist() if row["sign"] == "positive"]
        pictures = np.float32([decode_png(row["image"]["bytes"]) for row in rows])
        return [maps[..., row["channel"]] for maps, row in zip(look(pictures).numpy(), rows, strict=True)]

    maps, of_means = raised(folder), raised(done)
    assert rows.reached[rows.sign == "positive"].to_list() == pytest.approx([values.max() for values in maps], rel=1e-5)
    middle = maps[0].shape[0] // 2, maps[0].shape[1] // 2
    assert sum(values[middle] for values in maps) > sum(values[middle] for values in of_means)


def test_a_raised_channel_is_compared_with_its_strongest_patch_and_a_lowered_one_falls(done: Any) -> None:
    rows = rows_of(done)
    winners = pd.read_parquet(done / "index/activations.parquet")
    best = winners[winners["rank"] == 0].set_index(["layer", "channel"]).score
    for row in rows[:12].itertuples():
        if row.sign == "positive":
            assert row.strongest == best[row.layer, row.channel]
            assert row.exceeds == (row.reached > row.strongest)
            assert row.losses[-1] > row.losses[0]
        else:
            assert np.isnan(row.strongest) and row.exceeds is None
    lowered = rows[(rows.sign == "negative") & (rows.layer == "shapes")]
    assert all(losses[-1] < losses[0] for losses in lowered.losses)


def test_the_pictures_of_a_layer_stand_on_one_sheet_alone_and_beside_the_patches(done: Any) -> None:
    files = {path.name for path in (done / "mosaics/patterns").iterdir()}
    sheets = {f"{layer}{suffix}.png" for layer in ("edges", "shapes") for suffix in ("", "-found", "-loss")}
    assert files == sheets | {"+objectives.png", "+objectives-loss.png"}
    alone, beside = (decode_png((done / "mosaics/patterns" / name).read_bytes()) for name in ("shapes.png", "shapes-found.png"))
    assert beside.shape[1] > alone.shape[1]
    first = decode_png(pq.read_table(done / "patterns/shapes.parquet").to_pylist()[0]["image"]["bytes"])
    enlarged = np.kron(first, np.ones((128 // 16, 128 // 16, 1), np.uint8))
    assert any((alone[2:130, x : x + 128] == enlarged).all() for x in range(20, 60))


def test_the_entry_in_run_json_counts_the_patterns(done: Any) -> None:
    entry = json.loads((done / "run.json").read_text())["stages"]["patterns"]
    rows = rows_of(done)
    assert entry["pictures"] == 14 and entry["compared"] == 6 and entry["exceeding"] == rows.exceeds.sum()
    assert entry["summary"].startswith(f"14 patterns, {entry['exceeding']} of 6 above the strongest patch")


def test_a_second_run_gives_the_same_bytes(done: Any, pattern_spec: Any, quiet: Any, tmp_path: Path, tree_of: Any) -> None:
    again = run(pattern_spec, tmp_path, reporter=quiet)
    parts = ("index", "patterns", "mosaics")
    assert tree_of(again, *parts) == tree_of(done, *parts)


def test_an_interrupted_stage_goes_on_to_the_same_bytes(
    done: Any, pattern_spec: Any, quiet: Any, tmp_path: Path, tree_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    saved = []

    def save_and_die(path: Any, arrays: Any) -> None:
        save(path, arrays)
        saved.append(path.name)
        if len(saved) == 9:
            raise Killed

    save = arrays.save
    for module in (runner, checkpoint):
        monkeypatch.setattr(module, "save", save_and_die)
    with pytest.raises(Killed):
        run(pattern_spec, tmp_path, reporter=quiet)
    finished = [name for name in saved if name.endswith(".done.npz")]
    assert finished and len(set(saved)) > len(finished)
    monkeypatch.undo()
    made, make = [], runner.PatternRunner._make
    monkeypatch.setattr(runner.PatternRunner, "_make", lambda *arguments: made.append(1) or make(*arguments))
    again = run(pattern_spec, tmp_path, reporter=quiet)
    assert len(made) == 5 - len(finished)  # two batches of each layer, and one of the objective
    parts = ("index", "patterns", "mosaics")
    assert tree_of(again, *parts) == tree_of(done, *parts)


def test_without_the_stage_activations_there_is_nothing_to_compare_with(pattern_spec: Any, quiet: Any, tmp_path: Path) -> None:
    tree = pattern_spec.model_dump(exclude_unset=True)
    tree |= {"stages": ["patterns"], "patterns": {"layers": "edges", "channels": [1], "steps": 1}}
    folder = run(parse_spec(tree), tmp_path, reporter=quiet)
    assert rows_of(folder).strongest.isna().all()
    assert {path.name for path in (folder / "mosaics/patterns").iterdir()} == {"edges.png", "edges-loss.png"}


def test_a_table_of_the_spec_is_the_objective_that_python_writes() -> None:
    terms = [
        {"kind": "channel", "layer": "mixed5", "channel": 12, "weight": 0.7},
        {"kind": "logit", "number": 207, "weight": 0.3},
        {"kind": "neuron", "layer": "a", "channel": 1, "row": 0, "col": 2, "weight": -1},
        {"kind": "layer", "layer": "b"},
        {"kind": "direction", "layer": "c", "vector": [1, -2.5]},
    ]
    (spec,) = PatternsSpec(objectives=[{"name": "all", "terms": terms}]).objectives
    expected = 0.7 * channel("mixed5", 12) + 0.3 * logit(207) - neuron("a", 1, 0, 2) + layer("b") + direction("c", [1, -2.5])
    assert spec.objective() == expected
    assert Pattern(expected, -1, 0).raised == -1 * expected


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("patterns.channels=[4]", WrongSpec, r"channel 4, but edges has 4 \(0 to 3\)"),
        ("patterns.channels=[5, 1]", WrongSpec, "channel 5, but edges has 4"),
        ('patterns.layers=["edgy"]', UnknownLayer, "'edgy' is not one of the job's layers .*nearest: edges"),
        ("patterns.layers=[]", WrongSpec, "both empty"),
        ('patterns.objectives=[{name="x", terms=[{kind="logit", number=3}]}]', WrongSpec, r"no class 3: it has 3 \(0 to 2\)"),
        (
            'patterns.objectives=[{name="x", terms=[{kind="layer", layer="e"}]}]',
            UnknownLayer,
            "'e' is not in tiny .*objectives, 'x'",
        ),
        ('patterns.objectives=[{name="x", terms=[{kind="layer"}]}]', WrongSpec, "kind 'layer' needs the key 'layer'"),
        ('patterns.objectives=[{name="x", terms=[{kind="logit", number=1, row=1}]}]', WrongSpec, "no use for the key 'row'"),
        (
            'patterns.objectives=[{name="x", terms=[{kind="logit", numbr=1}]}]',
            UnknownName,
            "'numbr' is not a key .*nearest: number",
        ),
        ("patterns.variants=20", WrongSpec, "batch = 16 holds no 20 variants"),
        ("patterns.channels=[1, 1]", WrongSpec, "named twice"),
        ("patterns.rate=nan", WrongSpec, "patterns.rate"),
    ],
)
def test_what_does_not_fit_is_refused_before_work_starts(
    write_spec: Any, tmp_path: Path, quiet: Any, override: Any, error: Any, message: Any
) -> None:
    path = write_spec(tmp_path / "tiny.toml")
    with pytest.raises(error, match=message):
        run(load_spec(path, ['stages=["patterns"]', override]), tmp_path / "out", reporter=quiet)
    assert not (tmp_path / "out" / "tiny" / "run.json").exists()
