"""Channels taken apart: two clusters of winners become two directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import run
from pipeline.directions.splitting import two_clusters
from pipeline.errors import WrongSpec
from pipeline.load import load_spec
from pipeline.store.direction_sets import load_sets


def test_winners_of_two_kinds_fall_into_two_clusters_and_those_of_one_lie_less_far_apart() -> None:
    random = np.random.default_rng(0)
    noise = random.normal(0, 0.05, (9, 6))
    kinds = np.array([0, 1, 0, 0, 1, 0, 1, 0, 0])
    two = dict(enumerate((np.eye(6)[kinds] * 3 + noise).astype(np.float32)))
    apart = two_clusters(4, two, seed=0)
    assert apart is not None and apart.channel == 4 and apart.ranks == ((0, 2, 3, 5, 7, 8), (1, 4, 6))
    np.testing.assert_allclose(np.abs(apart.centres[:, :2]), np.eye(2), atol=0.1)
    one = two_clusters(4, dict(enumerate((np.eye(6)[kinds * 0] * 3 + noise).astype(np.float32))), seed=0)
    assert apart.separation > 0.9 and (one is None or one.separation < 0.5)


@pytest.mark.parametrize("vectors", [[[1, 0]] * 9, [[0, 0]] * 9, [[1, 0], [0, 1], [1, 1]], [[1, 0]] * 8 + [[0, 1]]])
def test_winners_that_make_no_two_clusters_are_left_whole(vectors: Any) -> None:
    assert two_clusters(0, dict(enumerate(np.array(vectors, np.float32))), seed=0) is None


def test_the_stage_takes_the_channels_apart_that_lie_furthest_apart(write_spec: Any, quiet: Any, tmp_path: Any) -> None:
    table = {"layers": ["edges"], "methods": ["pca2"], "split": 2}
    stages = ['stages=["activations", "directions"]', "activations.top_k=9"]
    folder = run(load_spec(write_spec(tmp_path / "spec.toml", directions=table), stages), tmp_path, reporter=quiet)
    rows = pd.read_parquet(folder / "index" / "directions.parquet").query("method == 'split'")
    assert rows.layer.unique().tolist() == ["edges@split4"] and len(rows) == 4
    assert rows.split_channel.tolist() == sorted(rows.split_channel) and rows.groupby("split_channel").size().eq(2).all()
    for _, own in rows.groupby("split_channel"):
        ranks = [set(values) for values in own.split_ranks]
        assert not ranks[0] & ranks[1] and ranks[0] | ranks[1] <= set(range(9))
    directions = next(one for one in load_sets(folder) if one.method == "split")
    assert list(directions.labels) == rows.name.tolist()
    # A winner is nearer to the centre of its own cluster than to that of the other.
    winners = pd.read_parquet(folder / "index" / "activations.parquet").query("layer == 'edges'")
    assert set(rows.split_channel) <= set(winners.channel)


def test_taking_apart_without_winners_is_refused(write_spec: Any, quiet: Any, tmp_path: Any) -> None:
    spec = load_spec(write_spec(tmp_path / "spec.toml", directions={"split": 1, "methods": ["pca2"]}), ['stages=["directions"]'])
    with pytest.raises(WrongSpec, match="directions.split"):
        run(spec, tmp_path, reporter=quiet)
