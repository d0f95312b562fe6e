"""Directions as layers: every stage takes `edges@pca2` like any layer, and its numbers are those of the formulas."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from pipeline import run
from pipeline.compiled.graph_walk import LogitsGraph
from pipeline.compiled.on_the_way import trace_on_the_way
from pipeline.errors import MissingInput, UnknownLayer, WrongSpec
from pipeline.load import load_spec
from pipeline.models.head import OutputSpec
from pipeline.models.keras.model import keras_network
from pipeline.models.network import own_layers
from pipeline.sources.fit import Fit
from pipeline.sources.folder import open_folder
from pipeline.sources.images import Images
from pipeline.sources.source import Shard
from pipeline.spec.data import DataSpec
from pipeline.stages import STAGES
from pipeline.store.direction_sets import load_sets

SET = "edges@nmf3"


def index(folder: Any, name: Any) -> Any:
    return pd.read_parquet(folder / "index" / f"{name}.parquet")


@pytest.fixture(scope="module")
def images(pictures: Any) -> Any:
    """The 20 pictures as the tiny network is given them: float32 (20, 16, 16, 3)."""
    source = Images(open_folder(str(pictures), DataSpec(source=f"folder:{pictures}"), False), Fit(16, 16, "crop"))
    return np.stack([element["image"] for element in source.stream(Shard()).as_numpy_iterator()]).astype(np.float32)


@pytest.fixture(scope="module")
def edges(tiny_model: Any, images: Any) -> Any:
    """The map of `edges` for the pictures, by Keras itself."""
    return keras.Model(tiny_model.input, tiny_model.get_layer("edges").output).predict(images, verbose=0)


def by_hand(directions: Any, x: Any) -> Any:
    """The formulas of the documents, in NumPy, in double precision."""
    x, encoder = x.astype(np.float64), directions.encoder.astype(np.float64)
    z = x @ encoder + directions.offset
    match directions.method:
        case "pca" | "ica" | "lda":
            return (x - directions.mean) @ encoder
        case "nmf":
            return directions.respond(x.astype(np.float32))  # which is held against another solver beside the stage
        case "kmeans":
            lengths = np.linalg.norm(x, axis=-1, keepdims=True)
            return x @ directions.decoder.T.astype(np.float64) / np.where(lengths == 0, 1, lengths)
        case "topk":
            ranks = np.argsort(np.argsort(-z, axis=-1, kind="stable"), axis=-1)
            return np.where(ranks < 2, np.maximum(z, 0), 0)
        case "jumprelu":
            return np.where(z > directions.threshold, z, 0)


@pytest.mark.parametrize("method", ["pca", "ica", "nmf", "kmeans", "lda", "topk", "jumprelu"])
def test_the_winners_of_directions_are_those_of_their_formula(layered: Any, directed: Any, edges: Any, method: Any) -> None:
    directions = next(one for one in load_sets(directed) if one.method == method)
    responses = by_hand(directions, edges)
    maxima = responses.reshape(20, -1, directions.count).max(axis=1)
    rows = index(layered, "activations").query("layer == @directions.layer")
    assert len(rows) > 0
    for channel, winners in rows.groupby("channel"):
        best = np.argsort(-maxima[:, channel], kind="stable")[:3]
        np.testing.assert_allclose(winners.score, maxima[best, channel][: len(winners)], rtol=1e-3, atol=1e-2)
        at = responses[winners.example, winners.row, winners.col, channel]
        np.testing.assert_allclose(winners.score, at, rtol=1e-3, atol=1e-2)


def test_directions_have_the_field_of_their_layer(layered: Any) -> None:
    fields = index(layered, "fields").set_index("layer")
    others = [name for name in fields.index if name.startswith("edges@")]
    assert len(others) == 7 and all((fields.loc[name] == fields.loc["edges"]).all() for name in others)


def test_the_table_of_layers_says_what_directions_are_made_from(layered: Any) -> None:
    layers = index(layered, "layers").set_index("layer")
    assert list(layers.loc["edges@pca2", "feeds"]) == ["edges"] and layers.loc["edges@pca2", "kind"] == "Directions"


def test_directions_are_no_layers_of_the_network_itself_and_change_its_digest(directed: Any, tiny_model: Any) -> None:
    plain = keras_network(tiny_model, "tiny", None, "none", OutputSpec(head="linear"))
    sets = {directions.layer: directions for directions in load_sets(directed)}
    other = sets | {"edges@pca2": replace(sets["edges@pca2"], offset=sets["edges@pca2"].offset + 1)}
    networks = [plain.with_directions(sets), plain.with_directions(other)]
    assert len({network.digest() for network in (plain, *networks)}) == 3
    assert [*own_layers(networks[0])] == [*plain.layers()] and len(networks[0].layers()) == len(plain.layers()) + len(sets)


@pytest.fixture(scope="module")
def explained(directed: Any, write_spec: Any, quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a job in which every stage looks at directions, non-negative ones above all."""
    folder = tmp_path_factory.mktemp("explained")
    model = {"directions": str(directed), "layers": ["edges", "edges@pca2", SET, "shapes"], "head": "linear"}
    tables: dict[str, Any] = {
        "filters": {"layers": ["edges", "shapes"]},
        "featuremaps": {"layers": [SET], "examples": [0]},
        "gradcam": {"layers": ["edges@pca2", SET, "edges"], "methods": ["gradcam"], "examples": [0], "arrays": True},
        "patterns": {"layers": [SET], "steps": 4, "channels": [1]},
        "dream": {"layers": SET, "examples": [0], "iterations": 2, "num_octave": 1},
        "concepts": {"quality": True},
        "directions": {"layers": ["shapes"], "methods": ["pca2"]},
        "atlas": {"layers": [SET], "per_image": 12, "neighbours": 5, "grids": [2], "steps": 2},
    }
    stages = [stage for stage in STAGES if stage != "report"]
    spec = load_spec(
        write_spec(folder / "spec.toml", model=model, **tables),
        [f"stages={[*stages, 'report']}", "concepts.masks.source=colours"],
    )
    return run(spec, folder, reporter=quiet)


@pytest.mark.slow
def test_every_stage_takes_directions_as_a_layer(explained: Any) -> None:
    tables = ("activations", "channels", "fields", "mosaics", "featuremaps", "attributions", "patterns", "concepts", "quality")
    for table in (*tables, "neighbours", "circuits", "stretches", "atlas"):
        assert (index(explained, table)["layer"] == SET).any(), table
    assert index(explained, "patterns").channel.tolist() == [1]
    assert set(index(explained, "attributions").layer) == {"edges@pca2", SET, "edges"}
    assert index(explained, "quality").query("layer == @SET").clarity.notna().any()
    assert set(index(explained, "concepts").query("layer == @SET").source) == {"masks", "labels"}
    assert (index(explained, "stretches").query("layer == @SET").other_layer == "edges").all()
    assert SET in str(index(explained, "dreams").to_dict()) and index(explained, "atlas").picture.notna().any()
    assert SET in (explained / "report" / "data" / "job.js").read_text()


@pytest.mark.slow
def test_gradcam_of_directions_is_the_gradient_of_the_layer_along_their_decoder(
    explained: Any, directed: Any, tiny_model: Any, images: Any, edges: Any
) -> None:
    directions = next(one for one in load_sets(directed) if one.name == "pca2")
    rest = keras.Model(tiny_model.get_layer("shapes").input, tiny_model.output)
    row = index(explained, "attributions").query("layer == 'edges@pca2'").iloc[0]
    x = tf.constant(edges[:1])
    with tf.GradientTape() as tape:
        tape.watch(x)
        score = rest(x)[0, int(row["class"])]
    by_response = np.asarray(tape.gradient(score, x)) @ directions.decoder.T
    expected = np.maximum(0, (by_hand(directions, edges[:1]) * by_response.mean(axis=(1, 2), keepdims=True)).sum(axis=-1))
    stored = pd.concat(map(pd.read_parquet, (explained / "maps").glob("edges_pca2*.parquet")))
    got = np.array(stored["map"].iloc[0], np.float64).reshape(stored["shape"].iloc[0]) * stored.scale.iloc[0]
    np.testing.assert_allclose(got, expected[0], atol=2e-3 * expected.max())


def test_directions_change_no_gradient_but_their_own(directed: Any, tiny_model: Any, images: Any) -> None:
    plain = keras_network(tiny_model, "tiny", None, "none")
    sets = {one.layer: one for one in load_sets(directed)}
    network = plain.with_directions(sets)

    def gradients(of: Any, layers: Any) -> Any:
        def explain(pixels: Any) -> Any:
            traced = trace_on_the_way(of, of.preprocess(pixels), [*layers, "logits"])
            graph, total = LogitsGraph(traced["logits"]), tf.reduce_sum(traced["logits"][:, 0])
            tensors = [graph.locate(traced[layer]).tensor for layer in layers]
            return [traced["logits"], *tf.gradients(total, [*tensors, pixels])]

        return [np.asarray(value) for value in tf.function(explain)(tf.constant(images[:2]))]

    logits, by_edges, by_shapes, by_pixels = gradients(plain, ["edges", "shapes"])
    with_sides = gradients(network, ["edges", "shapes", "edges@nmf3", "edges@topk6"])
    np.testing.assert_array_equal(with_sides[0], logits)
    for mine, own in zip((with_sides[1], with_sides[2], with_sides[5]), (by_edges, by_shapes, by_pixels), strict=True):
        np.testing.assert_array_equal(mine, own)
    for gradient, name in zip(with_sides[3:5], ("edges@nmf3", "edges@topk6"), strict=True):
        np.testing.assert_allclose(gradient, by_edges @ sets[name].decoder.T, rtol=1e-4, atol=1e-4)


def job(write_spec: Any, tmp_path: Any, quiet: Any, **model: Any) -> Any:
    return run(load_spec(write_spec(tmp_path / "spec.toml", model=model)), tmp_path, reporter=quiet)


def test_layers_chosen_by_rule_are_never_directions(directed: Any, write_spec: Any, tmp_path: Any, quiet: Any) -> None:
    folder = job(write_spec, tmp_path, quiet, directions=[str(directed)], layers=["auto"])
    assert not [name for name in index(folder, "fields").layer if "@" in name]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"preprocess": "unit"}, WrongSpec, "fitted to another network"),
        ({"layers": ["edges@pca3"]}, UnknownLayer, "edges@pca2"),
        ({"directions": "no_such_folder"}, MissingInput, "holds no directions"),
    ],
)
def test_directions_that_do_not_fit_are_refused(
    directed: Any, write_spec: Any, tmp_path: Any, quiet: Any, change: Any, error: Any, words: Any
) -> None:
    with pytest.raises(error, match=words):
        job(write_spec, tmp_path, quiet, **{"directions": str(directed), "layers": ["edges@pca2"], **change})


def test_two_sets_of_one_name_are_refused(directed: Any, write_spec: Any, tmp_path: Any, quiet: Any) -> None:
    shutil.copytree(directed / "directions", tmp_path / "copy" / "directions")
    with pytest.raises(WrongSpec, match="two sets"):
        job(write_spec, tmp_path, quiet, directions=[str(directed), str(tmp_path / "copy")])


def test_a_damaged_set_is_refused(directed: Any, write_spec: Any, tmp_path: Any, quiet: Any) -> None:
    (tmp_path / "directions").mkdir()
    whole = next(iter((directed / "directions").glob("*.npz"))).read_bytes()
    for number, content in enumerate((b"", whole[: len(whole) // 2], b"PK" + whole)):
        Path(tmp_path / "directions" / "a.npz").write_bytes(content if number < 2 else b"not a file")
        with pytest.raises(WrongSpec, match="holds no directions"):
            load_sets(tmp_path)
