"""The stage `directions`: the sample that it takes, what it finds, what it leaves, and what it refuses."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest

from pipeline import run
from pipeline.ascent.checkpoint import Checkpoint
from pipeline.directions.autoencoder import Training, train_directions
from pipeline.directions.fitting import SetPlan, explained, fit_directions, unsettled
from pipeline.directions.results import direction_columns
from pipeline.directions.sampling import SamplePlan, sample_vectors
from pipeline.errors import WrongSpec
from pipeline.load import load_spec
from pipeline.models.keras.model import keras_network
from pipeline.receipt import read_receipt
from pipeline.sources.fit import Fit
from pipeline.sources.folder import open_folder
from pipeline.sources.images import Images
from pipeline.sources.readable import PassedOver, ReadableImages
from pipeline.spec.data import DataSpec
from pipeline.store.direction_sets import DirectionSet


def images_of(folder: Any) -> Any:
    source = Images(open_folder(str(folder), DataSpec(source=f"folder:{folder}"), False), Fit(16, 16, "crop"))
    return ReadableImages(source, Fit(16, 16, "stretch"), PassedOver())


@pytest.fixture(scope="module")
def sparse() -> Any:
    """3,000 vectors of width 24, non-negative, each a sum of few of 30 atoms."""
    random = np.random.default_rng(0)
    atoms = np.abs(random.normal(size=(30, 24)))
    weights = random.exponential(size=(3000, 30)) * (random.random((3000, 30)) < 0.1)
    return (weights @ atoms).astype(np.float32)


def test_the_stage_leaves_sets_a_table_and_a_receipt(directed: Any, tree_of: Any) -> None:
    rows = pd.read_parquet(directed / "index" / "directions.parquet")
    assert rows.groupby("layer", sort=False).size().to_dict() == {
        "edges@pca2": 2,
        "edges@ica2": 2,
        "edges@nmf3": 3,
        "edges@kmeans3": 3,
        "edges@lda3": 3,
        "edges@topk6": 6,
        "edges@jumprelu6": 6,
    }
    assert set(rows.path) == {name for name in tree_of(directed) if name.startswith("directions/")}
    assert (rows.vectors == 400).all() and rows.explained.between(0, 1).all()
    record = read_receipt(directed).stages["directions"]
    assert record.summary == "25 directions in 7 sets of up to 400 vectors" and "+directions" in str(
        (directed / "report" / "index.html").read_text()
    )


def test_the_same_job_gives_the_same_bytes(directed: Any, write_spec: Any, quiet: Any, tmp_path: Any) -> None:
    table = {"layers": ["edges"], "methods": ["nmf3"], "per_image": 20, "sparsity": 2, "steps": 40}
    spec = load_spec(write_spec(tmp_path / "spec.toml", directions=table), ['stages=["directions"]'])
    again = run(spec, tmp_path, reporter=quiet)
    names = sorted(path.name for path in (again / "directions").glob("*.npz"))
    assert len(names) == 1
    for name in names:
        assert (again / "directions" / name).read_bytes() == (directed / "directions" / name).read_bytes()


def test_the_sample_is_the_vectors_at_positions_that_depend_on_the_example_alone(tiny_model: Any, pictures: Any) -> None:
    network = keras_network(tiny_model, "tiny", None, "none")
    layers = [layer for layer in network.layers() if layer.name in ("edges", "shapes")]
    few, many = (
        sample_vectors(network, layers, images_of(pictures), SamplePlan(vectors, 4), lambda done, total: None)
        for vectors in (24, 1000)
    )
    for layer in layers:
        small, large = few[layer.name], many[layer.name]
        assert len(small.vectors) == 24 and len(large.vectors) == 80 and len(set(small.examples)) == 6
        every = dict(zip(zip(large.examples, large.rows, large.cols, strict=True), large.vectors, strict=True))
        assert len(every) == 80
        for example, row, col, vector in zip(small.examples, small.rows, small.cols, small.vectors, strict=True):
            np.testing.assert_array_equal(every[example, row, col], vector)
    import keras

    images = images_of(pictures)
    source, fit = images.source, images.fit
    maps = keras.Model(tiny_model.input, tiny_model.get_layer("shapes").output)
    sample = few["shapes"]
    for (example, image), own in zip(source.fetch(set(sample.examples)), sorted(set(sample.examples)), strict=True):
        expected = maps.predict(image.given(fit)[np.newaxis].astype(np.float32), verbose=0)[0]
        mine = sample.examples == own
        assert example == own
        np.testing.assert_allclose(sample.vectors[mine], expected[sample.rows[mine], sample.cols[mine]], rtol=1e-5)


def test_images_that_cannot_be_read_give_way_to_others(tiny_model: Any, write_pictures: Any, tmp_path: Any) -> None:
    folder = write_pictures(tmp_path / "broken", 12)
    for path in sorted(folder.rglob("*.png"))[::3]:
        path.write_bytes(b"no picture")
    network = keras_network(tiny_model, "tiny", None, "none")
    layers = [layer for layer in network.layers() if layer.name == "shapes"]
    sample = sample_vectors(network, layers, images_of(folder), SamplePlan(16, 2), lambda done, total: None)["shapes"]
    assert len(sample.vectors) == 16 and not set(sample.examples) & set(range(0, 12, 3))


@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("name", ["pca6", "ica6"])
def test_components_beyond_the_dimensions_of_the_sample_are_dead(sparse: Any, name: Any, few: bool) -> None:
    vectors = sparse[: 9 if few else 500, :12].copy()
    vectors[:, 4:8], vectors[:, 8:] = 0, vectors[:, :4]  # dead channels, and channels that are the same as others
    vectors += np.float32(0.3)
    directions = fit_directions(SetPlan("a", name, ""), vectors)
    columns = direction_columns(directions, vectors, "")
    assert columns["dead"].tolist() == [False] * 4 + [True] * 2
    assert columns["explained"][0] == pytest.approx(1, abs=1e-4)
    alike = fit_directions(SetPlan("a", name, ""), np.full_like(vectors, 0.7))
    columns = direction_columns(alike, np.full_like(vectors, 0.7), "")
    assert columns["dead"].all() and columns["explained"] == [None] * 6


@pytest.mark.parametrize("name", ["pca8", "ica8", "nmf8", "kmeans8"])
def test_components_explain_as_much_as_scikit_learn_says(sparse: Any, name: Any) -> None:
    from sklearn import decomposition

    directions = fit_directions(SetPlan("a", name, ""), sparse)
    share = explained(directions, sparse)
    best = float(decomposition.PCA(8).fit(sparse).explained_variance_ratio_.sum())
    if name in ("pca8", "ica8"):
        assert share == pytest.approx(best, abs=1e-4)
    elif name == "nmf8":
        assert 0.9 * best < share < 1.1 * best  # its components may leave the mean, which those of PCA start from
    else:
        assert 0.4 * best < share < best
    responses = directions.respond(sparse)
    energy = (responses.astype(np.float64) ** 2).sum(axis=0) * (directions.decoder**2).sum(axis=1)
    if name != "kmeans8":
        assert (np.diff(energy) < 0.02 * energy[0]).all(), "strongest first"
    if name in ("pca8", "ica8"):
        assert ((responses.astype(np.float64) ** 3).sum(axis=0) > 0).all(), "turned towards the longer tail"


def test_centroids_come_by_how_many_vectors_are_nearest() -> None:
    vectors = np.repeat(np.eye(5, dtype=np.float32)[:3], (10, 60, 30), axis=0)
    vectors += np.random.default_rng(0).normal(0, 0.01, vectors.shape).astype(np.float32)
    nearest = fit_directions(SetPlan("a", "kmeans3", ""), vectors).respond(vectors).argmax(axis=1)
    assert np.bincount(nearest).tolist() == [60, 30, 10]


def test_discriminants_point_from_the_mean_to_that_of_a_cluster_through_the_inverse_covariance() -> None:
    random, kinds = np.random.default_rng(0), np.repeat(np.arange(3), (30, 60, 50))
    noise = np.outer(random.normal(0, 3, 140), [0, 0, 0, 1, 1])  # strong, along what tells no kinds apart
    vectors = (5 * np.eye(5)[kinds] + random.normal(0, 0.1, (140, 5)) + 0.1 * noise + [9, 9, 9, 0, 0]).astype(np.float32)
    vectors = np.concatenate([vectors, np.zeros((1, 5), np.float32)])  # of no cluster
    directions = fit_directions(SetPlan("a", "lda3", ""), vectors)
    mean, covariance = vectors.mean(axis=0), np.cov(vectors.T, bias=True)
    inverse = np.linalg.inv(0.7 * covariance + 0.3 * np.trace(covariance) / 5 * np.eye(5))
    for direction, kind in zip(directions.encoder.T, (1, 2, 0), strict=True):  # the largest cluster first
        expected = inverse @ (vectors[:-1][kinds == kind].mean(axis=0) - mean)
        np.testing.assert_allclose(direction, expected / np.linalg.norm(expected), atol=1e-3)
    assert directions.respond(vectors[:-1]).argmax(axis=1).tolist() == np.array([2, 0, 1])[kinds].tolist()
    np.testing.assert_allclose(directions.respond(mean), 0, atol=1e-3)
    fewer = fit_directions(SetPlan("a", "lda9", ""), np.ones((20, 4), np.float32))
    assert np.isfinite(fewer.decoder).all() and not fewer.respond(np.ones(4, np.float32)).any()


def test_responses_to_non_negative_components_are_the_least_squares_without_negative_numbers(sparse: Any) -> None:
    from scipy.optimize import nnls

    directions = fit_directions(SetPlan("a", "nmf12", ""), sparse)
    expected = np.array([nnls(directions.decoder.T.astype(np.float64), vector)[0] for vector in sparse[:200]])
    np.testing.assert_allclose(directions.respond(sparse[:200]), expected, atol=2e-3 * expected.max())


@pytest.mark.parametrize(("name", "most_dead"), [("topk60", 3), ("jumprelu60", 3)])
def test_a_sparse_autoencoder_restores_the_sample_by_few_atoms(sparse: Any, name: Any, most_dead: Any, tmp_path: Any) -> None:
    directions = train_directions(SetPlan("a", name, ""), sparse, Training(4, 200), Checkpoint(tmp_path / "training.npz", 1e9))
    responses = directions.respond(sparse)
    counts = (responses > 0).sum(axis=1)
    assert counts.max() <= 4 if name == "topk60" else 2 < counts.mean() < 8
    assert explained(directions, sparse) > 0.7 and ((responses > 0).sum(axis=0) == 0).sum() <= most_dead
    np.testing.assert_allclose(np.linalg.norm(directions.decoder, axis=1), 1, atol=1e-5)


def test_a_training_that_stops_goes_on_to_the_same_bits(sparse: Any, tmp_path: Any) -> None:
    asked, training = SetPlan("a", "topk20", "", seed=3), Training(3, 60)
    whole = train_directions(asked, sparse, training, Checkpoint(tmp_path / "whole.npz", 1e9))

    def stop(steps: Any, loss: Any) -> None:
        if steps == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_directions(asked, sparse, training, Checkpoint(tmp_path / "part.npz", 1e-9), stop)
    assert (tmp_path / "part.npz").exists()
    first: list[int] = []
    rest = train_directions(
        asked, sparse, training, Checkpoint(tmp_path / "part.npz", 1e9), lambda steps, loss: first.append(steps)
    )
    assert first[0] == 40 and rest.digest() == whole.digest()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"layers": ["edges"], "methods": ["pca5"]}, "its 4 channels have no more components"),
        ({"layers": ["shapes"], "methods": ["nmf2"]}, "non-negative components need a layer without negative values"),
        ({"layers": ["shapes"], "methods": ["kmeans90"], "vectors": 80}, "needs more than 90 vectors; the sample has 80"),
        ({"layers": ["shapes"], "methods": ["topk4"], "sparsity": 5}, "has 4 directions"),
        ({"methods": ["pca0"]}, "methods"),
        ({"methods": ["tsne2"]}, "methods"),
    ],
)
def test_what_cannot_be_found_is_refused(write_spec: Any, quiet: Any, tmp_path: Any, table: Any, words: Any) -> None:
    with pytest.raises(WrongSpec, match=words):
        run(load_spec(write_spec(tmp_path / "spec.toml", directions=table), ['stages=["directions"]']), tmp_path, reporter=quiet)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"layers": ["shapes"], "methods": ["kmeans90"], "vectors": 80}, "the sample has 80"),
        ({"layers": ["shapes"], "methods": ["topk999"], "per_image": 2}, "the sample has 40"),
        ({"layers": ["edges"], "methods": ["ica5"]}, "its 4 channels"),
    ],
)
def test_a_sample_that_is_too_small_is_refused_before_the_scan(
    write_spec: Any, quiet: Any, tmp_path: Any, table: Any, words: Any
) -> None:
    spec = load_spec(write_spec(tmp_path / "spec.toml", directions=table), ['stages=["activations", "directions"]'])
    with pytest.raises(WrongSpec, match=words):
        run(spec, tmp_path, reporter=quiet)
    assert not list(tmp_path.rglob("activations.parquet"))


def test_non_negative_components_that_are_too_alike_for_their_steps_are_reported(
    write_spec: Any, reporter: Any, tmp_path: Any
) -> None:
    random = np.random.default_rng(0)
    base = random.random((6, 12)) + 0.05
    settled = DirectionSet("a", "nmf3", "nmf", "nonnegative", *_components(np.eye(12)[:3]))
    alike = DirectionSet("a", "nmf3", "nmf", "nonnegative", *_components(base[:1] + 0.02 * base[:3]))
    vectors = (random.random((50, 3)) @ alike.decoder).astype(np.float32)
    assert unsettled(settled, random.random((50, 12)).astype(np.float32)) < 1e-5
    assert unsettled(alike, vectors) > 0.1
    inputs = keras.Input((16, 16, 3))
    mean = keras.layers.GlobalAveragePooling2D(keepdims=True)(inputs)
    steep = keras.layers.Dense(6, activation="relu", kernel_initializer="ones", bias_initializer="ones", name="steep")(mean)
    near = keras.layers.Conv2D(6, 1, kernel_initializer=keras.initializers.RandomUniform(0, 0.004, seed=1))(inputs)
    sums = keras.layers.ReLU(name="sums")(keras.layers.Add()([near, steep]))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(sums)))
    model.save(tmp_path / "net.keras")
    tables = {"model": {"source": f"file:{tmp_path / 'net.keras'}", "layers": ["sums"]}, "directions": {"methods": ["nmf5"]}}
    run(load_spec(write_spec(tmp_path / "spec.toml", **tables), ['stages=["directions"]']), tmp_path, reporter=reporter)
    assert any(line.startswith("directions: sums@nmf5: components are so alike") for line in reporter.lines)


def _components(rows: Any) -> Any:
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit.T.copy(), np.zeros(len(unit), np.float32), unit, np.zeros(unit.shape[1], np.float32)
