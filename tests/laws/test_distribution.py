"""The laws of distributions: any order and any split give the same bytes, and what they say is true."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scanned import bytes_of, responses_of

from pipeline.activations import distribution as module
from pipeline.activations.distribution import BUCKETS, SAMPLE, Distribution, bucket_edges, bucket_of

VALUES = st.one_of(st.floats(-100, 100, width=32), st.sampled_from([0.0, -0.0, 6.0, math.nan, math.inf, -math.inf, 1e-30, 3e38]))


@st.composite
def cases(draw: Any, most: Any = 12) -> Any:
    """Responses float32 (n, channels), examples, labels."""
    n, channels = draw(st.integers(0, most)), draw(st.integers(1, 3))
    maxima = draw(arrays(np.float32, (n, channels), elements=VALUES, fill=st.nothing()))
    examples = np.array(draw(st.lists(st.integers(0, 2**62), min_size=n, max_size=n, unique=True)), np.int64)
    return maxima, examples, np.array(draw(st.lists(st.sampled_from(["", "a", "bb", "ccc"]), min_size=n, max_size=n)), dtype=str)


def whole(maxima: Any, examples: Any, labels: Any) -> Any:
    return Distribution.empty(maxima.shape[1]).update(responses_of(maxima, examples, labels)).settled()


@settings(deadline=None, max_examples=100)
@given(cases(), st.randoms(use_true_random=False), st.integers(1, 4))
def test_any_split_in_any_order_gives_the_same_bytes(case: Any, random: Any, parts: Any) -> None:
    maxima, examples, labels = case
    order = list(range(len(examples)))
    random.shuffle(order)
    pieces = [whole(*(of[order[part::parts]] for of in case)) for part in range(parts)]
    random.shuffle(pieces)
    assert bytes_of(functools.reduce(Distribution.merge, pieces)) == bytes_of(whole(*case))
    one_by_one = functools.reduce(
        lambda all_, i: all_.update(responses_of(maxima[[i]], examples[[i]], labels[[i]])),
        order,
        Distribution.empty(maxima.shape[1]),
    )
    assert bytes_of(one_by_one) == bytes_of(whole(*case))


def test_pending_batches_are_counted_before_they_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PENDING", 50)
    maxima, examples, labels = np.ones((100, 2), np.float32), np.arange(100), np.full(100, "a")
    distribution = Distribution.empty(2)
    for i in range(0, 100, 5):
        distribution = distribution.update(responses_of(maxima[i : i + 5], examples[i : i + 5], labels[i : i + 5]))
        assert len(distribution.pending) < 5
    assert bytes_of(distribution) == bytes_of(whole(maxima, examples, labels))


def test_the_sample_is_the_same_for_any_split_of_more_than_it_holds() -> None:
    rng = np.random.default_rng(0)
    maxima, examples = rng.normal(size=(3000, 2)).astype(np.float32), np.arange(3000)
    labels = np.full(3000, "")
    parts = [whole(maxima[i::7], examples[i::7], labels[i::7]) for i in range(7)]
    merged = functools.reduce(Distribution.merge, parts[::-1])
    assert bytes_of(merged) == bytes_of(whole(maxima, examples, labels)) and len(merged.sample) == SAMPLE
    # Spread over all of the data, not the first that came.
    chosen = np.flatnonzero((maxima[:, None, 0] == merged.sample[None, :, 0]).any(axis=1))
    assert 1300 < chosen.mean() < 1700


@given(arrays(np.float32, st.integers(1, 30), elements=st.floats(-60000, 60000, width=32)))
def test_every_response_lies_within_its_bucket(values: Any) -> None:
    edges, at = bucket_edges(), bucket_of(values)
    assert len(edges) == BUCKETS + 1 and (np.diff(edges) > 0).all()
    low, high = edges[at], edges[at + 1]
    # Buckets of negative numbers hold their lower edge, not their upper one: the mirror of the positive ones.
    assert ((low <= values) & (values <= high)).all()


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_quantiles_are_off_by_a_bucket_at_most(share: Any) -> None:
    rng = np.random.default_rng(1)
    maxima = np.stack([rng.gamma(2, 3, 5000), rng.normal(0, 20, 5000), np.maximum(rng.normal(-1, 1, 5000), 0)], axis=1).astype(
        np.float32
    )
    actual = whole(maxima, np.arange(5000), np.full(5000, "")).quantile(share)
    expected = np.quantile(maxima, share, axis=0)
    assert (np.abs(actual - expected) <= np.abs(expected) / 8 + 1e-4).all(), (actual, expected)


def test_nothing_seen_has_no_quantiles_no_twins_and_no_label() -> None:
    empty = Distribution.empty(3)
    assert np.isnan(empty.quantile(0.5)).all()
    assert empty.twins()[0].tolist() == [-1, -1, -1] and empty.selectivity()[0] == [None] * 3


def test_the_selectivity_index_is_that_of_morcos() -> None:
    maxima = np.array([[4, 1, 0, -1], [2, 1, 0, -3], [1, 1, 0, -2], [1, 1, 0, -2]], np.float32)
    labels = np.array(["cat", "cat", "dog", "ant"])
    names, index = whole(maxima, np.arange(4), labels).selectivity()
    assert names[0] == "cat" and index[0] == pytest.approx((3 - 1) / (3 + 1))
    assert index[1:].tolist() == [0, 0, 0]
    assert names[3] in ("ant", "cat", "dog")


def test_a_single_label_has_no_selectivity() -> None:
    names, index = whole(np.ones((3, 2), np.float32), np.arange(3), np.full(3, "cat")).selectivity()
    assert names == [None, None] and np.isnan(index).all()


def test_label_statistics_are_dropped_above_the_limit_for_any_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LABELS", 3)
    labels = np.array(["a", "b", "c", "d"])
    maxima, examples = np.ones((4, 2), np.float32), np.arange(4)
    parts = [whole(maxima[i : i + 2], examples[i : i + 2], labels[i : i + 2]) for i in (0, 2)]
    for distribution in (whole(maxima, examples, labels), parts[0].merge(parts[1]), parts[1].merge(parts[0]).merge(parts[0])):
        assert distribution.crowded[0] and not len(distribution.labels) and distribution.selectivity()[0] == [None, None]
    assert not parts[0].crowded[0]


def test_twins_are_the_channels_that_go_together() -> None:
    rng = np.random.default_rng(2)
    base = rng.normal(size=(400, 3)).astype(np.float32)
    maxima = np.concatenate([base, base[:, [1]] * 3 + 1 + 0.01 * rng.normal(size=(400, 1)), np.full((400, 1), 0.1)], axis=1)
    twin, correlation = whole(maxima.astype(np.float32), np.arange(400), np.full(400, "")).twins()
    assert twin[1] == 3 and twin[3] == 1 and twin[4] == -1
    assert correlation[1] > 0.999 and np.isnan(correlation[4])
    expected = np.corrcoef(base.T)[0, 1:3]
    assert correlation[0] == pytest.approx(max(*expected, np.corrcoef(maxima[:, 0], maxima[:, 3])[0, 1]), abs=1e-6)


def test_how_often_the_largest_response_came_is_counted() -> None:
    maxima = np.array([[6, -1], [6, -1], [3, -2], [np.nan, np.inf]], np.float32)
    distribution = whole(maxima, np.arange(4), np.full(4, ""))
    assert distribution.high.tolist() == [6, -1] and distribution.at_high.tolist() == [2, 2]


def test_histograms_hold_every_finite_response_once() -> None:
    rng = np.random.default_rng(3)
    maxima = np.concatenate([rng.normal(3, 5, (500, 2)), [[np.nan, np.inf]]]).astype(np.float32)
    counts, edges = whole(maxima, np.arange(501), np.full(501, "")).histogram()
    assert counts.sum(axis=1).tolist() == [500, 500]
    assert (np.diff(edges) > 0).all() and np.allclose(
        edges[:, -1], np.nanmax(np.where(np.isfinite(maxima), maxima, np.nan), axis=0)
    )
    expected = np.histogram(maxima[:500, 0], bins=edges[0])[0]
    assert np.abs(np.cumsum(counts[0]) - np.cumsum(expected)).max() < 25  # buckets are an eighth wide


def test_histograms_of_even_responses_are_even() -> None:
    """Buckets grow wider with the values, and may be wider than a bin: none must look empty for that."""
    maxima = np.linspace(0, 40, 20_000, dtype=np.float32)[:, None]
    counts, _ = whole(maxima, np.arange(20_000), np.full(20_000, "")).histogram()
    assert counts.min() > 0.8 * counts.mean() and counts.max() < 1.2 * counts.mean()


def one_response(value: Any, label: Any, example: Any = 0) -> Any:
    """The distribution of one response of one channel, still pending."""
    return Distribution.empty(1).update(responses_of([[value]], [example], [label]))


def test_responses_too_large_to_be_summed_count_as_the_largest_that_are_not() -> None:
    for value, units in ((2.0**31, 2**54), (2.0**40, 2**54), (-(2.0**40), -(2**54)), (2.0**29, 2**53)):
        assert one_response(value, "ant").settled().sums.tolist() == [[units]]


def test_whichever_of_two_is_pending_or_crowded_shows_in_their_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = one_response(1, "ant"), one_response(2, "bee", 1)
    for left, right in ((one.settled(), other), (one, other.settled()), (other.settled(), one)):
        assert left.merge(right).labels.tolist() == ["ant", "bee"] and left.merge(right).counts.sum() == 2
    monkeypatch.setattr(module, "MOST_LABELS", 1)
    crowded = one.merge(other)
    for merged in (crowded.merge(one), one.merge(crowded)):
        assert merged.crowded[0] and not len(merged.labels)
