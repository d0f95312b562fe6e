"""The stage `concepts` from a spec to its table: names by labels, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import run
from pipeline.errors import WrongSpec
from pipeline.load import load_spec

STAGES = 'stages=["activations", "concepts"]'


@pytest.fixture(scope="module")
def named(write_spec: Any, quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished job that lists the responses of every channel to all 20 pictures: its folder."""
    folder = tmp_path_factory.mktemp("concepts")
    spec = load_spec(write_spec(folder / "spec.toml", activations={"top_k": 20}), [STAGES])
    return run(spec, folder, reporter=quiet)


def index(folder: Any, name: str = "concepts") -> Any:
    return pd.read_parquet(folder / "index" / f"{name}.parquet")


def test_the_measures_of_labels_are_those_of_the_responses_in_the_index(named: Any) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rows, responses = index(named), index(named, "activations")
    assert set(rows["source"]) == {"labels"}
    measures = {"average_precision": metrics.average_precision_score, "auc": metrics.roc_auc_score}
    for row in rows.itertuples():
        of_channel = responses[(responses["layer"] == row.layer) & (responses["channel"] == row.channel)]
        assert len(of_channel) == 20 or row.layer == "edges"
        if len(of_channel) == 20:
            value = measures[row.measure](of_channel["label"] == row.concept, of_channel["score"])
            assert row.value == pytest.approx(value, abs=1e-9)


def test_every_channel_has_each_label_once_by_each_measure_best_first(named: Any) -> None:
    rows = index(named)
    groups = rows.groupby(["layer", "channel", "measure"], sort=False)
    assert len(groups) == 2 * (4 + 5 + 3)
    for _, group in groups:
        assert sorted(group["concept"]) == ["cat", "dog"] and group["rank"].tolist() == [0, 1]
        assert group["value"].is_monotonic_decreasing and group["chance"].between(0, 1).all()
        assert group["margin"].iloc[0] == pytest.approx(group["value"].iloc[0] - group["value"].iloc[1])


def test_a_sample_changes_what_chance_gives_and_not_the_measures(named: Any, quiet: Any, tmp_path: Path) -> None:
    spec = load_spec(named.parent / "spec.toml", [STAGES, "concepts.images=8"])
    rows, fewer = index(named), index(run(spec, tmp_path, reporter=quiet))
    assert rows[["concept", "value", "margin"]].equals(fewer[["concept", "value", "margin"]])
    assert not np.array_equal(rows["chance"], fewer["chance"])


def test_without_a_scan_there_is_nothing_to_name(write_spec: Any, quiet: Any, tmp_path: Path) -> None:
    spec = load_spec(write_spec(tmp_path / "spec.toml"), ['stages=["concepts"]'])
    with pytest.raises(WrongSpec, match="needs the scan"):
        run(spec, tmp_path, reporter=quiet)


def test_data_without_labels_have_an_empty_table(write_spec: Any, quiet: Any, tmp_path: Path) -> None:
    spec = load_spec(write_spec(tmp_path / "spec.toml"), [STAGES, "concepts.labels=false"])
    assert index(run(spec, tmp_path, reporter=quiet)).empty
