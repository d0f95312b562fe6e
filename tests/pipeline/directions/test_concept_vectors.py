"""Concept vectors and their tests: what is trained, what is scored, what the tables say, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import run
from pipeline.directions.concept_vectors import Counterexamples, EmbeddedImages, set_size, train_vector
from pipeline.directions.tcav import compare_scores, tcav_scores, welch
from pipeline.errors import WrongSpec
from pipeline.load import load_spec
from pipeline.progress import Advance, Reporter
from pipeline.receipt import read_receipt

RANDOM = np.random.default_rng(3)


def embedded(vectors: np.ndarray, prefix: str = "") -> EmbeddedImages:
    return EmbeddedImages(tuple(f"{prefix}{number}" for number in range(len(vectors))), {"layer": vectors.astype(np.float32)})


@pytest.fixture(scope="module")
def red(write_pictures: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder of 12 pictures in which red is all there is."""
    from PIL import Image

    folder = write_pictures(tmp_path_factory.mktemp("red"), 12)
    for path in folder.rglob("*.png"):
        pixels = np.array(Image.open(path)) // 8
        pixels[..., 0] += 200
        Image.fromarray(pixels).save(path)
    return folder


class Counting(Reporter):
    """Says nothing, and keeps the last total of every step."""

    def __init__(self) -> None:
        super().__init__("counting")
        self.totals: dict[str, int] = {}

    def say(self, text: str, **facts: Any) -> None:
        pass

    @contextmanager
    def step(self, title: str, unit: str) -> Iterator[Advance]:
        def advance(done: int, total: int, note: str = "") -> None:
            self.totals[title] = total

        yield advance


@pytest.fixture
def counting() -> Counting:
    return Counting()


@pytest.fixture(scope="module")
def tested(write_spec: Any, red: Any, quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a job with the concept vector of red at one layer, and its tests, against the 20 pictures."""
    folder = tmp_path_factory.mktemp("tested")
    table = {"layers": ["shapes"], "methods": [], "targets": ["predicted", 1]}
    path = write_spec(folder / "spec.toml", directions=table)
    concept = f'directions.concepts.red={{ source = "folder:{red}" }}'
    return run(load_spec(path, ['stages=["directions", "report"]', concept]), folder, reporter=quiet)


def test_a_concept_vector_is_a_layer_that_responds_to_its_concept(
    tested: Any, red: Any, write_spec: Any, quiet: Any, tmp_path: Path
) -> None:
    row = pd.read_parquet(tested / "index" / "concept_vectors.parquet").iloc[0]
    assert (row.layer, row.concept, row.runs) == ("shapes@cav_red", "red", 20)
    assert row.images == 10, "half of the counterexamples, so that random sets have their own"
    assert row.accuracy > 0.95 and row.agreement > 0.5 and 0.3 < row.random_accuracy < 0.7
    directions = pd.read_parquet(tested / "index" / "directions.parquet")
    assert directions.explained.isna().all() and directions.name.tolist() == ["red"] and directions.method.tolist() == ["cav"]
    model = {"directions": str(tested), "layers": ["shapes@cav_red"]}
    tables = {"model": model, "activations": {"top_k": 40}}
    for name in ("red", "others"):
        images = {} if name == "others" else {"data": {"source": f"folder:{red}"}}
        spec = load_spec(write_spec(tmp_path / f"{name}.toml", **tables, **images))
        later = run(spec, tmp_path / name, reporter=quiet)
        scores = pd.read_parquet(later / "index" / "channels.parquet")
        assert (scores["mean"] > 0).all() == (name == "red")


def test_the_stage_says_what_it_tested_and_what_not(tested: Any) -> None:
    record = read_receipt(tested).stages["directions"]
    scores = pd.read_parquet(tested / "index" / "tcav.parquet")
    assert (scores.images >= 10).all() and scores.score.between(0, 1).all()
    np.testing.assert_allclose(scores.score, [np.mean(row) for row in scores.scores])
    np.testing.assert_allclose(scores.p_corrected, np.minimum(1, scores.p * len(scores)))
    assert f"of {len(scores)} tests significant" in record.summary
    for row in scores.itertuples():
        _, p = welch(np.array(row.scores), np.array(row.random_scores))
        assert p == pytest.approx(row.p) and row.significant == (row.p_corrected < 0.05 and row.chance < 0.05)


def test_a_concept_may_be_called_against_and_progress_counts_the_images_there_are(
    write_spec: Any, red: Any, counting: Any, tmp_path: Path
) -> None:
    path = write_spec(tmp_path / "spec.toml", directions={"layers": ["shapes"], "methods": [], "images": 10})
    concept = f'directions.concepts.against={{ source = "folder:{red}" }}'
    folder = run(load_spec(path, ['stages=["directions"]', concept]), tmp_path, reporter=counting)
    row = pd.read_parquet(folder / "index" / "concept_vectors.parquet").iloc[0]
    assert row.concept == "against" and row.images == 10
    assert counting.totals["images of against"] == 10
    assert counting.totals["images of the data set"] == 20


def test_the_page_shows_the_tests_and_names_no_folder(tested: Any, red: Any) -> None:
    (data,) = (tested / "report" / "data").glob("+directions.js")
    text = data.read_text()
    assert "shapes@cav_red" in text and red.name in text and str(red) not in text and str(red.parent) not in text


def test_gradients_of_classes_equal_those_of_keras(smooth: Any) -> None:
    import keras
    import tensorflow as tf

    from pipeline.attribution.layer_gradients import target_gradients
    from pipeline.attribution.targets import Classes, ClassTarget
    from pipeline.geometry import Box
    from pipeline.sources.picking import Picked
    from pipeline.sources.source import Image

    pixels = RANDOM.integers(0, 256, (24, 12, 12, 3), np.uint8)
    labels = [["a", "b", None][number % 3] for number in range(24)]
    images = [
        Picked(number, Image(str(number), label, own, Box.whole(12, 12)), own)
        for number, (own, label) in enumerate(zip(pixels, labels, strict=True))
    ]
    classes = Classes(3, ("a", "b", "c"))
    asked = classes, [ClassTarget(classes, name) for name in ("a", "b")]
    targets = target_gradients(smooth, ["first"], asked, images, 100)
    model = smooth.reader.model
    head = keras.Model(model.get_layer("second").input, model.get_layer("flat").output)
    kernel, bias = model.get_layer("classes").get_weights()
    maps = keras.Model(model.input, model.get_layer("first").output)(smooth.preprocess(tf.constant(pixels)))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(maps)
        logits = head(maps) @ kernel + bias
        sums = [tf.reduce_sum(logits[:, number]) for number in (0, 1)]
    predicted = np.asarray(logits).argmax(axis=1)
    for target, number in zip(targets, (0, 1), strict=True):
        own = [at for at, label in enumerate(labels) if label == "ab"[number] or (label is None and predicted[at] == number)]
        expected = np.asarray(tape.gradient(sums[number], maps)).sum(axis=(1, 2))[own]
        np.testing.assert_allclose(np.stack(target.by_layer["first"]), expected, rtol=1e-4, atol=1e-6)
    few = target_gradients(smooth, ["first"], asked, images, 3)
    assert [target.images for target in few] == [3, 3] and [target.title for target in few] == ["a", "b"]


def test_a_vector_is_that_of_logistic_regression_and_does_not_depend_on_scale() -> None:
    from sklearn.linear_model import LogisticRegression

    positive, negative = RANDOM.normal(0.7, 1, (60, 6)), RANDOM.normal(0, 1, (60, 6))
    vector, offset, accuracy = train_vector(positive, negative, [5])
    split = np.random.default_rng([5])
    halves = [own[split.permutation(60)] for own in (positive, negative)]
    x, y = np.concatenate([own[20:] for own in halves]), np.repeat([1, 0], 40)
    scale = np.sqrt(((x - x.mean(axis=0)) ** 2).mean())
    expected = LogisticRegression(max_iter=1000).fit(x / scale, y)
    np.testing.assert_allclose(vector, expected.coef_[0] / np.linalg.norm(expected.coef_), atol=1e-3)
    tests = np.concatenate([own[:20] for own in halves])
    assert accuracy == pytest.approx(expected.score(tests / scale, np.repeat([1, 0], 20)), abs=0.026)
    assert ((x @ vector + offset > 0) == expected.predict(x / scale)).mean() > 0.97
    larger, offset_of_larger, _ = train_vector(100 * positive, 100 * negative, [5])
    np.testing.assert_allclose(larger, vector, atol=1e-6)
    assert offset_of_larger == pytest.approx(100 * offset, rel=1e-4)


def test_scores_are_shares_of_images_whose_evidence_rises() -> None:
    gradients, vectors = RANDOM.normal(size=(7, 4)), RANDOM.normal(size=(2, 3, 4))
    expected = [[sum(g @ v > 0 for g in gradients) / 7 for v in several] for several in vectors]
    np.testing.assert_allclose(tcav_scores(gradients, vectors), expected)


def test_samples_that_do_not_vary_are_equal_or_different() -> None:
    assert welch(np.ones(5), np.ones(5)) == (0.0, 1.0)
    assert welch(np.ones(5), np.zeros(5)) == (np.inf, 0.0) and welch(np.zeros(5), np.ones(5)) == (-np.inf, 0.0)


def test_a_concept_that_matters_is_significant_and_random_sets_are_not() -> None:
    """Evidence rises along the first of 12 channels, more or less, in which alone the concept's images differ from others."""
    gradients = RANDOM.normal(0, 1, (80, 12))
    gradients[:, 0] += 1.5
    pool = embedded(RANDOM.normal(size=(200, 12)))
    others = Counterexamples(pool, 30, 20)
    at_random = np.stack([others.vectors_of(others.random_set(number), "layer").vectors for number in range(20)])
    shift = np.eye(12)[0] * 4
    concept = embedded(RANDOM.normal(size=(30, 12)) + shift, "concept")
    test = compare_scores(gradients, others.vectors_of(concept, "layer").vectors, at_random, 3)
    assert test.significant and test.scores.mean() > 0.85 and test.corrected == pytest.approx(min(1, 3 * test.p))
    significant = 0
    for _ in range(5):
        plain = embedded(RANDOM.normal(size=(30, 12)), "plain")
        significant += compare_scores(gradients, others.vectors_of(plain, "layer").vectors, at_random, 3).significant
    assert significant <= 1


def test_no_image_of_a_set_is_among_its_counterexamples() -> None:
    """Were they, a set that is the pool's own first images could not be told from others so well."""
    values = np.concatenate([np.full((20, 3), 1.0), RANDOM.normal(0, 0.01, (20, 3))])
    pool = embedded(values)
    runs = Counterexamples(pool, 10, 20).vectors_of(pool.first(20), "layer")
    assert (runs.accuracies == 1).all()


def test_sets_are_cut_to_the_smallest_concept_and_half_of_the_counterexamples() -> None:
    sets = {"a": embedded(np.zeros((30, 2)), "a"), "b": embedded(np.zeros((14, 2)), "b")}
    assert set_size(sets, embedded(np.zeros((100, 2))), 100) == 14
    assert set_size(sets, embedded(np.zeros((24, 2))), 100) == 12
    assert set_size(sets, embedded(np.zeros((100, 2))), 11) == 11
    with pytest.raises(WrongSpec, match=r"concepts\.b has 9 images"):
        set_size({**sets, "b": embedded(np.zeros((9, 2)))}, embedded(np.zeros((100, 2))), 100)
    with pytest.raises(WrongSpec, match="told from 18 images, 18 of them in no concept"):
        set_size(sets, embedded(np.zeros((18, 2))), 100)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["directions.methods=[]"], "there is nothing to find"),
        (['directions.targets=["predicted"]'], "Name a set of images"),
        (['directions.concepts.a={source="folder:nowhere"}'], r"in directions\.concepts\.a\.source does not exist"),
        (['directions.concepts.a={label="horse"}'], r"'horse' is not a label of the data \(directions\.concepts\.a\)"),
        (['directions.concepts.a={files=["gone.png"]}'], r"directions\.concepts\.a: the image file .* is missing"),
        (['directions.concepts.a={label="cat", files=["gone.png"]}'], "exactly one of source, label and files"),
        (['directions.concepts."a b"={label="cat"}'], "a b"),
        (['directions.concepts.a={label="cat"}', "directions.targets=[7]"], r"directions\.targets: there is no class 7"),
        (['directions.concepts.a={label="cat"}', "directions.runs=5"], "runs"),
    ],
)
def test_sets_that_cannot_be_used_are_refused(write_spec: Any, quiet: Any, tmp_path: Path, overrides: Any, words: Any) -> None:
    path = write_spec(tmp_path / "spec.toml")
    with pytest.raises(WrongSpec, match=words):
        run(load_spec(path, ['stages=["directions"]', *overrides]), tmp_path, reporter=quiet)
