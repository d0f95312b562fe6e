"""Heaps by relevance: the images in which a channel counts most for the predicted class, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest

from pipeline import load_spec, run
from pipeline.errors import WrongSpec
from pipeline.shards import merge, run_shard
from pipeline.sources.fit import Fit
from pipeline.store.tables import read_index


@pytest.fixture(scope="module")
def by_relevance(write_spec: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The spec of the tiny network, with heaps by relevance at the layer before the logits."""
    path = write_spec(tmp_path_factory.mktemp("relevance") / "tiny.toml", model={"layers": ["edges", "shapes"]})
    return load_spec(path, ['activations.rank="relevance"', 'model.head="softmax"'])


@pytest.fixture(scope="module")
def ranked(by_relevance: Any, quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(by_relevance, tmp_path_factory.mktemp("ranked"), reporter=quiet)


def relevance_by_hand(model: Any, images: np.ndarray) -> np.ndarray:
    """Of `shapes`, float64 (images, 6, 6, 5): a dense layer shares out the highest logit by what each value adds to it, and what
    is due to its bias by the size of that."""
    shapes = keras.Model(model.input, model.get_layer("shapes").output).predict(images, verbose=0).astype(np.float64)
    kernel, bias = (values.astype(np.float64) for values in model.get_layer("classes").get_weights())
    flat = shapes.reshape(len(images), -1)
    best = (flat @ kernel + bias).argmax(axis=1)
    added = flat * kernel.T[best]
    own = added + np.abs(added) * (bias[best] / np.abs(added).sum(axis=1))[:, np.newaxis]
    return own.reshape(shapes.shape)


def test_winners_are_those_that_count_most_for_the_predicted_class(ranked: Any, tiny_model: Any, pictures: Path) -> None:
    images = np.stack([Fit(16, 16).apply(cv2.imread(str(path))[..., ::-1]) for path in sorted(pictures.rglob("*.png"))])
    maps = relevance_by_hand(tiny_model, images.astype(np.float32))
    sums = maps.sum(axis=(1, 2))
    rows = [row for row in read_index(ranked, "activations").to_pylist() if row["layer"] == "shapes"]
    assert len(rows) == 5 * 3
    for channel in range(5):
        own = [row for row in rows if row["channel"] == channel]
        order = np.argsort(-sums[:, channel], kind="stable")[:3]
        assert [row["example"] for row in own] == order.tolist()
        np.testing.assert_allclose([row["score"] for row in own], sums[order, channel], rtol=1e-3)
        for row in own:
            peak = np.unravel_index(maps[row["example"], ..., channel].argmax(), (6, 6))
            assert (row["row"], row["col"]) == peak


def test_the_relevance_of_a_layer_adds_up_to_the_logit(ranked: Any, tiny_model: Any, pictures: Path) -> None:
    images = np.stack([Fit(16, 16).apply(cv2.imread(str(path))[..., ::-1]) for path in sorted(pictures.rglob("*.png"))])
    logits = tiny_model.predict(images.astype(np.float32), verbose=0).max(axis=1)
    channels = read_index(ranked, "channels").to_pylist()
    for layer in ("edges", "shapes"):
        means = [row["mean"] for row in channels if row["layer"] == layer]
        assert sum(means) == pytest.approx(logits.mean(), rel=1e-3)


def test_shards_merge_to_the_same_bytes(by_relevance: Any, ranked: Any, quiet: Any, tmp_path: Path) -> None:
    for shard in ((1, 2), (0, 2)):
        run_shard(by_relevance, shard, tmp_path, quiet)
    merged = merge(tmp_path / "tiny", quiet)
    for name in ("activations", "channels"):
        assert (merged / "index" / f"{name}.parquet").read_bytes() == (ranked / "index" / f"{name}.parquet").read_bytes()


def test_a_network_without_classes_is_refused(write_spec: Any, quiet: Any, tmp_path: Path) -> None:
    spec = load_spec(write_spec(tmp_path / "tiny.toml"), ['activations.rank="relevance"', 'model.head="linear"'])
    with pytest.raises(WrongSpec, match="needs classes"):
        run(spec, tmp_path, reporter=quiet)
