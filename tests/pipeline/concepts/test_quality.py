"""Clarity, polysemanticity and redundancy, against their definitions and on winners whose clusters are known."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from pipeline.concepts.quality import clarity, polysemanticity, redundancy


def unit(*vectors: Any) -> Any:
    values = np.array(vectors, float)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_clarity_is_the_mean_cosine_of_all_pairs() -> None:
    vectors = unit(*np.random.default_rng(0).normal(size=(6, 4)))
    pairs = [first @ second for first, second in itertools.permutations(vectors, 2)]
    assert clarity(vectors) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert clarity(np.array([[1.0, 0], [0, 0], [1, 0]])) == pytest.approx(1 / 3)  # what embeds as zero is like nothing
    assert clarity(unit([1, 0], [1, 0])) == pytest.approx(1) and np.isnan(clarity(unit([1, 0])))


def test_winners_of_two_kinds_are_polysemantic_and_of_one_kind_not() -> None:
    two = unit([1, 0, 0.1], [1, 0.1, 0], [0, 1, 0.1], [0.1, 1, 0], [0, 1, 0])
    means = two[:2].mean(axis=0), two[2:].mean(axis=0)
    expected = 1 - means[0] @ means[1] / np.linalg.norm(means[0]) / np.linalg.norm(means[1])
    assert polysemanticity(two) == pytest.approx(expected, abs=1e-12) and expected > 0.8
    assert polysemanticity(unit([1, 0, 0.1], [1, 0.1, 0], [1, 0, 0])) < 0.02
    assert polysemanticity(unit([1, 0], [1, 0], [1, 0])) == 0 and np.isnan(polysemanticity(unit([1, 0], [0, 1])))


def test_redundancy_finds_the_channel_with_the_like_winners() -> None:
    winners = [unit([1, 0], [1, 0.2]), unit([0, 1], [0.1, 1]), np.zeros((0, 2)), unit([1, 0.1])]
    values, nearest = redundancy(winners)
    assert nearest.tolist() == [3, 3, -1, 0] and values[0] == values[3] > 0.99 and np.isnan(values[2])
    alone, none = redundancy([unit([1, 0])])  # a layer of one channel
    assert np.isnan(alone).all() and none.tolist() == [-1]
