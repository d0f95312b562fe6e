"""The weakest responses and the strongest for each label: those of brute force, whatever the shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from stopping import Stopping, changed

from pipeline import run
from pipeline.errors import WrongSpec
from pipeline.options import RunOptions
from pipeline.shards import merge, run_shard
from pipeline.sources.fit import Fit
from pipeline.sources.registry import open_source
from pipeline.sources.source import Shard

LAYERS = {"edges": (14, 14, 4), "shapes": (6, 6, 5)}
BOTTOM, OF_LABEL = 3, 2


@pytest.fixture(scope="module")
def asking(spec: Any) -> Any:
    """The tiny job with the weakest, and with winners for each label, in batches of three."""
    more = {"bottom_k": BOTTOM, "label_k": OF_LABEL}
    return changed(spec, activations=more, model={"layers": list(LAYERS)}, data={"batch": 3})


@pytest.fixture(scope="module")
def answered(asking: Any, quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(asking, tmp_path_factory.mktemp("answered"), reporter=quiet)


@pytest.fixture(scope="module")
def seen(spec: Any, tiny_model: Any) -> Any:
    """By layer the spatial maxima of all images, (images, channels), and the images' labels."""
    elements = list(open_source(spec.data, Fit(16, 16)).stream(Shard()).as_numpy_iterator())
    images = np.float32([element["image"] for element in elements])
    maxima = {}
    for layer, shape in LAYERS.items():
        maps = keras.Model(tiny_model.inputs, tiny_model.get_layer(layer).output).predict(images, verbose=0)
        maxima[layer] = maps.reshape(-1, *shape).max(axis=(1, 2))
    return maxima, np.array([element["label"].decode() for element in elements])


def table(folder: Any, name: Any) -> Any:
    return pd.read_parquet(folder / "index" / f"{name}.parquet")


def test_the_weakest_are_those_of_brute_force(answered: Any, seen: Any) -> None:
    rows = table(answered, "weakest")
    maxima, labels = seen
    assert len(rows) == BOTTOM * sum(shape[2] for shape in LAYERS.values())
    for (layer, channel), of in rows.groupby(["layer", "channel"]):
        order = np.argsort(maxima[layer][:, channel], kind="stable")[:BOTTOM]
        assert of["rank"].tolist() == list(range(BOTTOM)) and of.example.tolist() == order.tolist()
        np.testing.assert_array_equal(of.score, maxima[layer][order, channel])
        assert of.label.tolist() == labels[order].tolist()


def test_the_strongest_of_each_label_are_those_of_brute_force(answered: Any, seen: Any) -> None:
    rows = table(answered, "by_label")
    maxima, labels = seen
    assert len(set(labels)) > 1
    for (layer, channel, label), of in rows.groupby(["layer", "channel", "label"]):
        own = np.flatnonzero(labels == label)
        order = own[np.argsort(-maxima[layer][own, channel], kind="stable")[:OF_LABEL]]
        assert of.example.tolist() == order.tolist() and of["rank"].tolist() == list(range(len(order)))
        np.testing.assert_array_equal(of.score, maxima[layer][order, channel])
    assert rows.groupby(["layer", "channel"]).label.nunique().eq(len(set(labels))).all()
    assert rows.channel.tolist() == sorted(rows.channel[rows.layer == "edges"]) + sorted(rows.channel[rows.layer == "shapes"])


def test_the_columns_of_channels_are_those_of_brute_force(answered: Any, seen: Any) -> None:
    rows = table(answered, "channels")
    maxima, labels = seen
    for row in rows.itertuples():
        values = maxima[row.layer][:, row.channel].astype(np.float64)
        assert sum(row.histogram) == len(values) and np.isclose(row.share_at_max, (values == values.max()).mean())
        assert abs(row.q50 - np.quantile(values, 0.5)) <= max(abs(values).max() / 8, 1e-4)
        means = {label: values[labels == label].mean() for label in set(labels)}
        assert means[row.selective_label] == pytest.approx(max(means.values()), abs=1e-6)
        others = [j for j in range(maxima[row.layer].shape[1]) if j != row.channel and maxima[row.layer][:, j].std() > 0]
        if values.std() > 0 and others:
            best = max(np.corrcoef(values, maxima[row.layer][:, j])[0, 1] for j in others)
            assert row.twin_correlation == pytest.approx(best, abs=1e-6)
        assert row.always_negative == (values < 0).all()


def test_any_shards_give_the_same_bytes(asking: Any, answered: Any, tmp_path: Path, tree_of: Any) -> None:
    for index in (2, 0, 1):
        run_shard(asking, (index, 3), tmp_path, Stopping())
    assert tree_of(merge(tmp_path / "tiny", Stopping()), "index", "crops") == tree_of(answered, "index", "crops")


def test_tables_that_are_no_longer_asked_for_go(asking: Any, quiet: Any, tmp_path: Path) -> None:
    folder = run(asking, tmp_path, reporter=quiet)
    run(changed(asking, activations={"bottom_k": 0}), tmp_path, reporter=quiet)
    assert not (folder / "index" / "weakest.parquet").exists() and (folder / "index" / "by_label.parquet").exists()


def test_winners_for_each_label_need_labels(asking: Any, quiet: Any, tmp_path: Path) -> None:
    with pytest.raises(WrongSpec, match="does not name its labels"):
        run(changed(asking, data={"source": "sample:photos"}), tmp_path, reporter=quiet)


def test_other_names_of_the_labels_are_not_mixed_with_those_of_an_earlier_scan(
    asking: Any, pictures: Any, quiet: Any, tmp_path: Path
) -> None:
    files = sorted(pictures.rglob("*.png"))
    (tmp_path / "list.txt").write_text("".join(f"{file}\t{number % 2}\n" for number, file in enumerate(files)))
    for names in ("cat dog", "ant bee"):
        labels = tmp_path / f"{names}.txt"
        labels.write_text("\n".join(names.split()))
        listed = changed(asking, data={"source": f"list:{tmp_path / 'list.txt'}", "labels": str(labels)})
        folder = run(listed, tmp_path / "out", reporter=quiet)
        assert set(table(folder, "by_label").label) == set(names.split())
        assert set(table(folder, "channels").selective_label) == set(names.split())


def test_a_label_that_comes_with_new_examples_is_sorted_among_the_others(
    asking: Any, write_pictures: Any, quiet: Any, tmp_path: Path, tree_of: Any
) -> None:
    growing = changed(asking, data={"source": f"folder:{write_pictures(tmp_path / 'growing', 6)}"})
    run(growing, tmp_path / "updated", reporter=quiet)
    (tmp_path / "growing" / "elk").mkdir()
    (tmp_path / "growing" / "elk" / "900.png").write_bytes((tmp_path / "growing" / "cat" / "000.png").read_bytes())
    updated = run(growing, tmp_path / "updated", reporter=quiet, options=RunOptions(update=True))
    assert set(table(updated, "by_label").label) == {"cat", "dog", "elk"}
    assert tree_of(updated, "index") == tree_of(run(growing, tmp_path / "anew", reporter=quiet), "index")
