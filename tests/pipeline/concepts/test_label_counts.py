"""LabelCounts: average precision and area under the curve from counts, against scikit-learn and against every pair of images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.concepts.label_counts import FEWEST_BINS, MOST_BINS, LabelCounts, bins_for, grid_of

LABELS = ("cat", "dog", "eel")


def responses_and_codes(images: int, seed: int = 0, decimals: int | None = None) -> tuple[Any, Any]:
    """Responses of four channels, of which the first tells cats, and labels; a tenth of the images have none."""
    random = np.random.default_rng(seed)
    codes = random.choice([-1, 0, 1, 2], images, p=[0.1, 0.2, 0.3, 0.4])
    responses = random.normal(size=(images, 4)).astype(np.float32)
    responses[:, 0] += 1.5 * (codes == 0)
    responses[:, 3] = np.maximum(responses[:, 3], 0)
    return responses if decimals is None else responses.round(decimals), codes


def counted(responses: Any, codes: Any, bins: int = MOST_BINS) -> LabelCounts:
    return LabelCounts.empty(grid_of(responses, responses.max(axis=0), bins), LABELS).update(responses, codes)


@pytest.mark.parametrize("images", [200, MOST_BINS])
@pytest.mark.parametrize("decimals", [None, 1])
def test_where_no_two_responses_share_a_bin_the_measures_are_those_of_scikit_learn(decimals: Any, images: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    responses, codes = responses_and_codes(images, decimals=decimals)
    counts, labelled = counted(responses, codes), codes >= 0
    for label in range(3):
        for channel in range(4):
            is_label, scores = codes[labelled] == label, responses[labelled, channel]
            assert counts.average_precision()[label, channel] == pytest.approx(
                metrics.average_precision_score(is_label, scores), abs=1e-12
            )
            assert counts.auc()[label, channel] == pytest.approx(metrics.roc_auc_score(is_label, scores), abs=1e-12)


def test_a_channel_that_is_silent_for_most_images_has_bins_for_the_others() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    responses, codes = responses_and_codes(600)
    responses = np.maximum(responses - 0.8, 0)  # 500 different numbers at most are above zero
    responses[200:, 3] = 0
    counts, labelled = counted(responses, codes), codes >= 0
    expected = metrics.average_precision_score(codes[labelled] == 0, responses[labelled, 3])
    assert counts.average_precision()[0, 3] == pytest.approx(expected, abs=1e-12)


def test_on_a_coarse_grid_they_are_off_by_no_more_than_the_images_that_share_a_bin() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    responses, codes = responses_and_codes(4000)
    counts, labelled = counted(responses, codes, bins=64), codes >= 0
    every = counts.counts.sum(axis=0)
    for label in range(3):
        of_label = counts.counts[label]
        pairs = (of_label * (every - of_label)).sum(axis=1) / 2 / (of_label.sum(axis=1) * (every - of_label).sum(axis=1))
        for channel in range(4):
            is_label, scores = codes[labelled] == label, responses[labelled, channel]
            assert abs(counts.auc()[label, channel] - metrics.roc_auc_score(is_label, scores)) <= pairs[channel] + 1e-12
            assert counts.average_precision()[label, channel] == pytest.approx(
                metrics.average_precision_score(is_label, scores), abs=0.03
            )


def test_the_measures_are_those_of_every_pair_and_every_threshold() -> None:
    responses, codes = responses_and_codes(60, decimals=1)
    counts, labelled = counted(responses, codes), codes >= 0
    for channel in range(4):
        scores, is_cat = responses[labelled, channel], codes[labelled] == 0
        cats, others = scores[is_cat], scores[~is_cat]
        wins = np.mean([(cat > other) + (cat == other) / 2 for cat in cats for other in others])
        assert counts.auc()[0, channel] == pytest.approx(wins, abs=1e-12)
        precision = [np.mean(is_cat[scores >= cat]) for cat in cats]
        assert counts.average_precision()[0, channel] == pytest.approx(np.mean(precision), abs=1e-12)


def test_counts_of_any_cut_of_the_images_merge_to_the_same() -> None:
    responses, codes = responses_and_codes(300)
    whole = counted(responses, codes)
    empty = LabelCounts.empty(whole.edges, LABELS)
    for cut in (1, 100, 299):
        first, second = empty.update(responses[:cut], codes[:cut]), empty.update(responses[cut:], codes[cut:])
        assert np.array_equal(second.merge(first).counts, whole.counts)
    assert whole.merge(empty).counts.sum() == 4 * (codes >= 0).sum()


def test_what_is_not_finite_and_what_has_no_label_does_not_count() -> None:
    responses, codes = responses_and_codes(50)
    counts = counted(responses, codes)
    worse = np.concatenate([responses, np.full((3, 4), np.nan, np.float32), np.full((2, 4), np.inf, np.float32)])
    again = LabelCounts.empty(counts.edges, LABELS).update(worse, np.concatenate([codes, [0, 1, 2, 0, -1]]))
    assert np.array_equal(again.counts, counts.counts)


def test_a_label_without_images_has_no_measure() -> None:
    responses, codes = responses_and_codes(50)
    counts = counted(responses, np.where(codes == 2, -1, codes))
    assert np.isnan(counts.average_precision()[2]).all() and np.isnan(counts.auc()[2]).all()
    assert np.isnan(counted(responses, np.zeros(50, int)).auc()[0]).all()  # there is nothing to tell cats from


def test_the_grid_is_finer_where_the_strongest_responses_lie_beyond_the_sample() -> None:
    sample = np.array([[0, 1, 2, np.nan]], np.float32).T
    edges = grid_of(sample, np.array([10], np.float32), 64)[0]
    assert (np.diff(edges) >= 0).all() and {0, 1, 2, 10} <= set(edges.tolist())
    assert 10 < np.count_nonzero(edges > 2) < 20
    assert not grid_of(sample[3:], np.array([np.nan], np.float32), 64).any()


def test_many_labels_and_channels_share_the_memory() -> None:
    assert bins_for(10, 100) == MOST_BINS and bins_for(2000, 10**6) == FEWEST_BINS
    assert FEWEST_BINS < bins_for(1000, 2192) < MOST_BINS
