"""What the index says of filters: norms, means, near zeros and twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.filters.statistics import FilterStatistics
from pipeline.models.network import Kernel


def of(weights: Any, groups: Any = 1) -> Any:
    return FilterStatistics.of(Kernel(np.asarray(weights, np.float32), groups))


@pytest.fixture
def weights() -> Any:
    return np.random.default_rng(0).normal(size=(3, 3, 4, 700)).astype(np.float32)  # more than are compared at a time


def test_norm_mean_and_near_zeros_are_those_of_each_filter(weights: Any) -> None:
    weights[0, :, :, 5] = weights[..., :].max() * 0.0099
    weights[..., 6] = 0
    actual = of(weights)
    flat = weights.reshape(36, 700).astype(np.float64)
    np.testing.assert_allclose(actual.norm, np.sqrt((flat**2).sum(axis=0)), rtol=1e-12)
    np.testing.assert_allclose(actual.mean, flat.mean(axis=0), atol=1e-12)
    limit = 0.01 * np.abs(flat).max()
    assert actual.share_near_zero.tolist() == (np.abs(flat) < limit).mean(axis=0).tolist()
    assert actual.share_near_zero[5] >= 1 / 3 and actual.share_near_zero[6] == 1


def test_the_strongest_inputs_have_the_largest_weights_and_the_sign_of_their_sum() -> None:
    weights = np.zeros((1, 2, 6, 2), np.float32)
    weights[0, :, 4, 0], weights[0, :, 1, 0], weights[0, :, 3, 1] = (-3, -1), (2, 0.5), (1, 1)
    numbers, sums = of(weights).strongest_inputs
    assert numbers[0][:3] == [4, 1, 0] and sums[0][:2] == [-4, 2.5] and numbers[1][0] == 3 and len(numbers[0]) == 5
    grouped = of(np.ones((1, 1, 2, 4)), groups=2).strongest_inputs[0]
    assert grouped == [[0, 1], [0, 1], [2, 3], [2, 3]]


def test_the_twin_is_the_filter_that_points_the_same_way(weights: Any) -> None:
    weights[..., 650] = 3 * weights[..., 2]
    weights[..., 7] = -weights[..., 8]  # opposite is no twin
    weights[..., 9] = 0
    actual = of(weights)
    assert (actual.twin[2], actual.twin[650]) == (650, 2) and actual.twin_cosine[2] == pytest.approx(1, abs=1e-6)
    assert actual.twin[7] != 8 and actual.twin[8] != 7
    assert actual.twin[9] == -1 and np.isnan(actual.twin_cosine[9]) and 9 not in actual.twin
    flat = weights.reshape(36, 700).astype(np.float64)
    with np.errstate(invalid="ignore"):
        cosines = (flat.T @ flat) / np.outer(actual.norm, actual.norm)
    np.fill_diagonal(cosines, -2)
    cosines = np.nan_to_num(cosines, nan=-2)
    expected = cosines.argmax(axis=0)
    some = [filter for filter in range(700) if filter != 9]
    assert (actual.twin[some] == expected[some]).all()
    np.testing.assert_allclose(actual.twin_cosine[some], cosines.max(axis=0)[some], atol=1e-6)


def test_a_filter_alone_or_without_numbers_has_no_twin() -> None:
    assert of(np.ones((3, 3, 2, 1))).twin.tolist() == [-1]
    weights = np.random.default_rng(1).normal(size=(2, 2, 1, 4))
    weights[0, 0, 0, 1] = np.nan
    actual = of(weights, 4)
    assert actual.twin[1] == -1 and 1 not in actual.twin and np.isnan(actual.norm[1]) and (actual.twin[[0, 2, 3]] >= 0).all()


def test_a_kernel_of_zeros_is_all_near_zero() -> None:
    assert of(np.zeros((3, 3, 2, 4))).share_near_zero.tolist() == [1] * 4
