"""The laws of ranking through an upper clamp, of ties with the last winner, and of so many winners of a source image."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scanned import bytes_of, responses_of

from pipeline.activations.heap_members import Strongest
from pipeline.activations.plan import ScanPlan

VALUES = st.sampled_from([-1.0, -0.0, 0.0, 1.0, 6.0, 7.0, 8.0, np.inf, -np.inf])


@st.composite
def cases(draw: Any) -> Any:
    """Maxima before a clamp float32 (n, channels), the source image of each, a ceiling or None, k and per_image."""
    n, channels = draw(st.integers(0, 14)), draw(st.integers(1, 2))
    maxima = draw(arrays(np.float32, (n, channels), elements=VALUES, fill=st.nothing()))
    groups = np.array(draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)), np.int64)
    return maxima, groups, draw(st.sampled_from([None, 6.0])), draw(st.integers(1, 5)), draw(st.sampled_from([None, 1, 2, 3]))


def empty(case: Any) -> Any:
    maxima, _, _, k, per_image = case
    return Strongest.empty(maxima.shape[1], ScanPlan((), None, k, 4, per_image=per_image))


def updated(member: Any, case: Any, examples: Any) -> Any:
    """The member after some of the case's examples, in one batch."""
    maxima, groups, ceiling, _, _ = case
    return member.update(responses_of(maxima[examples], examples, ceiling=ceiling, groups=groups[examples]))


@settings(deadline=None, max_examples=300)
@given(cases(), st.randoms(use_true_random=False), st.integers(1, 4), st.integers(1, 4))
def test_any_order_batches_and_merges_give_the_same_bytes(case: Any, random: Any, shards: Any, batch: Any) -> None:
    order = np.arange(len(case[0]))
    random.shuffle(order)
    members = []
    for shard in range(shards):
        member, own = empty(case), order[shard::shards]
        for first in range(0, len(own), batch):
            member = updated(member, case, own[first : first + batch])
        members.append(member)
    random.shuffle(members)
    merged = functools.reduce(lambda first, second: first.merge(second), members)
    assert bytes_of(merged) == bytes_of(updated(empty(case), case, np.arange(len(case[0]))))
    assert bytes_of(merged.merge(empty(case))) == bytes_of(empty(case).merge(merged)) == bytes_of(merged)


@settings(deadline=None, max_examples=300)
@given(cases())
def test_winners_and_ties_are_those_of_a_plain_sort(case: Any) -> None:
    maxima, groups, ceiling, k, per_image = case
    member = updated(empty(case), case, np.arange(len(maxima)))
    lowest = np.full(maxima.shape[1], -1, np.float32)
    for channel in range(maxima.shape[1]):
        order = sorted(range(len(maxima)), key=lambda example: (-maxima[example, channel], example))
        taken: dict[int, int] = {}
        winners = []
        for example in order:
            taken[groups[example]] = taken.get(groups[example], 0) + 1
            if per_image is None or taken[groups[example]] <= per_image:
                winners.append(example)
        left, winners = winners[k:], winners[:k]
        heap = member.heap
        assert heap.examples[channel].tolist() == winners + [-1] * (k - len(winners))
        maps = [[channel, example] for example in winners] + [[0, 0]] * (k - len(winners))
        assert not len(maxima) or heap.maps[channel].tolist() == maps  # each response has its own, as `responses_of` gives it
        scores = [value if ceiling is None else min(value, ceiling) for value in maxima[winners, channel]]
        assert heap.scores[channel, : len(winners)].tolist() == scores
        unclipped = heap.unclipped[channel, : len(winners)]
        assert np.isnan(unclipped).all() if ceiling is None else unclipped.tolist() == maxima[winners, channel].tolist()
        if per_image is None:
            last = maxima[winners[-1], channel] if len(winners) == k else None
            expected = 0 if last is None or np.isneginf(last) else sum(maxima[other, channel] == last for other in left)
            assert member.ties(lowest)[channel] == expected
        else:
            assert member.ties(lowest) is None


def test_responses_of_zero_are_winners_only_where_something_is_lower() -> None:
    case = (np.array([[0, 0, 0], [2, 0, 0], [0, 0, -3]], np.float32), np.arange(3), None, 2, None)
    member = updated(empty(case), case, np.arange(3))
    lowest = np.array([0, 0, -3], np.float32)
    assert member.heap.fired(lowest).examples.tolist() == [[1, -1], [-1, -1], [0, 1]]
    assert member.ties(lowest).tolist() == [0, 0, 0]
