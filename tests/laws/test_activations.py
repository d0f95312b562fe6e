"""The laws of heaps, statistics and parts, held against a plain sort of all responses and against fractions."""

from __future__ import annotations

import dataclasses
import functools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scanned import in_bytes as part_in_bytes
from scanned import responses_of

from pipeline.activations import Activations, Statistics
from pipeline.activations.part import MEMBERS, Part, Skipped, merge
from pipeline.activations.plan import ScanPlan
from pipeline.models.network import LayerInfo

INF, NAN = math.inf, math.nan

# Few values, so that most responses tie; both zeros, and all that is not finite.
TIED = st.sampled_from([-1.0, -0.0, 0.0, 0.5, INF, -INF, NAN])
PLAIN = st.sampled_from([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5])
EXAMPLES = st.one_of(st.integers(-1, 5), st.sampled_from([2**31, 2**53 + 1, 2**63 - 1]))


@st.composite
def responses(draw: Any, values: Any = TIED, most: Any = 8) -> Any:
    """Some images' maps and their ids: float32 (n, h, w, channels), int64 (n,)."""
    shape = draw(st.tuples(st.integers(0, most), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)))
    maps = draw(arrays(np.float32, shape, elements=values, fill=st.nothing()))
    return maps, draw(arrays(np.int64, shape[:1], elements=EXAMPLES))


@st.composite
def cuts(draw: Any, count: Any) -> Any:
    """The numbers 0 to count - 1 in any order, cut into batches, some of them empty."""
    order = draw(st.permutations(range(count)))
    edges = sorted(draw(st.lists(st.integers(0, count), max_size=4)))
    return [np.array(order[first:last], int) for first, last in zip([0, *edges], [*edges, count], strict=True)]


def in_bytes(state: Any) -> Any:
    """All that a state holds, to the sign of a zero."""
    arrays_ = [getattr(state, field.name) for field in dataclasses.fields(state)]
    return [(array.dtype.kind, array.shape, array.tobytes()) for array in arrays_]


def one_batch(maps: Any, examples: Any, k: Any) -> Any:
    return Activations.empty(maps.shape[3], k).update(maps, examples)


def sorted_by_hand(maps: Any, examples: Any, k: Any) -> Any:
    """The heap by a plain Python sort of every image's response."""
    batch, height, width, channels = maps.shape
    heap = Activations.empty(channels, k)
    fields = {field.name: getattr(heap, field.name).copy() for field in dataclasses.fields(heap)}
    for channel in range(channels):
        actual = []
        for image in range(batch):
            if examples[image] < 0:
                continue
            places = [(r, c) for r in range(height) for c in range(width) if not math.isnan(maps[image, r, c, channel])]
            fields["nans"][channel] += height * width - len(places)
            if places:
                row, col = max(places, key=lambda at: (maps[(image, *at, channel)], -at[0], -at[1]))
                actual.append((-float(maps[image, row, col, channel]), int(examples[image]), row, col))
        for rank, (negative, example, row, col) in enumerate(sorted(actual)[:k]):
            fields["scores"][channel, rank] = 0.0 if negative == 0 else -negative
            for name, value in {"examples": example, "groups": example, "rows": row, "cols": col}.items():
                fields[name][channel, rank] = value
    return Activations(**fields)


@given(responses(), st.integers(1, 6))
def test_a_heap_holds_exactly_what_a_sort_of_all_responses_puts_first(data: Any, k: Any) -> None:
    assert in_bytes(one_batch(*data, k)) == in_bytes(sorted_by_hand(*data, k))  # type: ignore[call-arg]


@given(st.data(), responses(), st.integers(1, 6))
def test_any_batches_shards_and_merge_tree_give_the_same_bytes(data: Any, seen: Any, k: Any) -> None:
    maps, examples = seen
    heaps = []
    for shard in data.draw(cuts(len(maps))):
        heap = Activations.empty(maps.shape[3], k)
        for batch in data.draw(cuts(len(shard))):
            heap = heap.update(maps[shard[batch]], examples[shard[batch]])
        heaps.append(heap)
    while len(heaps) > 1:
        first = heaps.pop(data.draw(st.integers(0, len(heaps) - 1)))
        second = heaps.pop(data.draw(st.integers(0, len(heaps) - 1)))
        heaps.append(first.merge(second))
    assert in_bytes(heaps[0]) == in_bytes(one_batch(maps, examples, k))


@given(responses(), responses(), responses(), st.integers(1, 4))
def test_merging_heaps_is_associative_and_commutative_and_an_empty_one_is_neutral(one: Any, two: Any, three: Any, k: Any) -> None:
    channels = min(maps.shape[3] for maps, _ in (one, two, three))
    a, b, c = (one_batch(maps[..., :channels], examples, k) for maps, examples in (one, two, three))
    assert in_bytes(a.merge(b)) == in_bytes(b.merge(a))
    assert in_bytes(a.merge(b).merge(c)) == in_bytes(a.merge(b.merge(c)))
    empty = Activations.empty(channels, k)
    assert in_bytes(empty.merge(a)) == in_bytes(a.merge(empty)) == in_bytes(a)


@given(responses(), st.integers(1, 6))
def test_the_order_is_total_score_then_example_then_row_then_col_and_the_unfilled_come_last(data: Any, k: Any) -> None:
    heap = one_batch(*data, k)  # type: ignore[call-arg]
    for channel in range(heap.channels):
        filled = int((heap.examples[channel] >= 0).sum())
        columns = (-heap.scores, heap.examples, heap.rows, heap.cols)
        keys = list(zip(*(column[channel, :filled].tolist() for column in columns), strict=True))
        assert keys == sorted(keys)
        assert (heap.examples[channel, filled:] == -1).all() and (heap.scores[channel, filled:] == -INF).all()
        assert (heap.rows[channel, filled:] == -1).all() and (heap.cols[channel, filled:] == -1).all()


@given(responses(), st.integers(1, 6))
def test_nan_is_counted_and_never_in_and_padding_is_not_even_counted(data: Any, k: Any) -> None:
    maps, examples = data
    heap = one_batch(maps, examples, k)
    assert not np.isnan(heap.scores).any()
    assert heap.nans.tolist() == np.isnan(maps[examples >= 0]).sum(axis=(0, 1, 2)).tolist()
    of_padding = one_batch(maps, np.full(len(maps), -1), k)
    assert in_bytes(of_padding) == in_bytes(Activations.empty(maps.shape[3], k))


@given(responses(values=st.sampled_from([-1e30, -2.0, -1.0, -INF])), st.integers(1, 6))
def test_channels_that_are_always_negative_have_winners(data: Any, k: Any) -> None:
    maps, examples = data
    heap = one_batch(maps, examples, k)
    assert ((heap.examples >= 0).sum(axis=1) == min(k, (examples >= 0).sum())).all()


@given(responses(), responses(), st.integers(1, 4))
def test_update_and_merge_leave_the_old_heap_untouched(first: Any, second: Any, k: Any) -> None:
    channels = min(first[0].shape[3], second[0].shape[3])
    heap = one_batch(first[0][..., :channels], first[1], k)
    before = in_bytes(heap)
    maps = second[0][..., :channels].copy()
    maps.flags.writeable = False
    later = heap.update(maps, second[1])
    heap.merge(later)
    later.merge(heap)
    assert in_bytes(heap) == before


def test_minus_zero_ties_with_zero_and_is_kept_as_zero() -> None:
    maps = np.array([-0.0, 0.0, -0.0], np.float32).reshape(3, 1, 1, 1)
    heap = one_batch(maps, np.array([7, 5, 6]), 3)
    assert heap.examples.tolist() == [[5, 6, 7]]
    assert not np.signbit(heap.scores).any()


def test_minus_infinity_is_a_response_like_any_other_and_nan_around_it_is_not() -> None:
    maps = np.array([[NAN, NAN], [NAN, -INF]], np.float32).reshape(1, 2, 2, 1)
    heap = one_batch(maps, np.array([3]), 2)
    assert heap.examples.tolist() == [[3, -1]] and (heap.rows[0, 0], heap.cols[0, 0]) == (1, 1) and heap.nans.tolist() == [3]


def test_an_image_of_nothing_but_nan_is_passed_over() -> None:
    heap = one_batch(np.full((1, 2, 2, 1), NAN, np.float32), np.array([3]), 2)
    assert heap.examples.tolist() == [[-1, -1]] and heap.nans.tolist() == [4]


def test_a_heap_has_the_documented_types() -> None:
    heap = one_batch(np.ones((2, 2, 2, 3), np.float32), np.arange(2), 4)
    actual = {
        field.name: (getattr(heap, field.name).dtype, getattr(heap, field.name).shape) for field in dataclasses.fields(heap)
    }
    assert actual == {
        "scores": (np.float32, (3, 4)),
        "examples": (np.int64, (3, 4)),
        "rows": (np.int32, (3, 4)),
        "cols": (np.int32, (3, 4)),
        "unclipped": (np.float32, (3, 4)),
        "groups": (np.int64, (3, 4)),
        "nans": (np.int64, (3,)),
        "per_image": (np.int64, ()),
        "maps": (np.uint8, (3, 4, 0)),
    }


@pytest.mark.parametrize(("channels", "k"), [(0, 1), (1, 0), (-1, 3)])
def test_a_heap_without_channels_or_slots_is_refused(channels: Any, k: Any) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Activations.empty(channels, k)


@pytest.mark.parametrize("shape", [(2, 3, 3), (2, 3, 3, 5), (3, 3, 3, 4)])
def test_features_that_do_not_fit_the_heap_are_refused(shape: Any) -> None:
    with pytest.raises(ValueError, match="do not fit heaps of 4 channels"):
        Activations.empty(4, 2).update(np.zeros(shape), np.arange(2))


def test_heaps_of_different_sizes_are_not_merged() -> None:
    with pytest.raises(ValueError, match="cannot be merged"):
        Activations.empty(4, 2).merge(Activations.empty(4, 3))


# The whole range of float32, from the smallest number to the largest, and values that cancel.
FLOATS = st.one_of(
    st.floats(width=32),
    st.sampled_from([1.0, -1.0, 0.1, 16777216.0, 3.4028234663852886e38, -3.4028234663852886e38, 1.401298464324817e-45, -0.0]),
)


@st.composite
def maxima(draw: Any, values: Any = FLOATS) -> Any:
    """float32 (n, channels)."""
    return draw(arrays(np.float32, st.tuples(st.integers(0, 12), st.integers(1, 3)), elements=values, fill=st.nothing()))


def statistics_of(values: Any) -> Any:
    return Statistics.empty(values.shape[1]).update(responses_of(values))


@given(st.data(), maxima())
def test_statistics_have_the_same_bytes_in_any_order_batches_and_merges(data: Any, values: Any) -> None:
    parts = []
    for shard in data.draw(cuts(len(values))):
        part = Statistics.empty(values.shape[1])
        for batch in data.draw(cuts(len(shard))):
            part = part.update(responses_of(values[shard[batch]]))
        parts.append(part)
    merged = functools.reduce(lambda one, other: other.merge(one), parts)
    whole = statistics_of(values)
    assert in_bytes(merged) == in_bytes(whole)
    assert merged.mean.tobytes() == whole.mean.tobytes() and merged.std.tobytes() == whole.std.tobytes()


@given(maxima(), maxima(), maxima())
def test_merging_statistics_is_associative_and_commutative_and_nothing_is_neutral(one: Any, two: Any, three: Any) -> None:
    channels = min(values.shape[1] for values in (one, two, three))
    a, b, c = (statistics_of(values[:, :channels]) for values in (one, two, three))
    assert in_bytes(a.merge(b)) == in_bytes(b.merge(a))
    assert in_bytes(a.merge(b).merge(c)) == in_bytes(a.merge(b.merge(c)))
    assert in_bytes(a.merge(Statistics.empty(channels))) == in_bytes(a)


@given(maxima())
def test_mean_and_deviation_are_those_of_fractions(values: Any) -> None:
    statistics = statistics_of(values)
    for channel in range(values.shape[1]):
        finite = [Fraction(float(value)) for value in values[:, channel] if math.isfinite(value)]
        assert statistics.seen[channel] == len(finite)
        if not finite:
            assert math.isnan(statistics.mean[channel]) and math.isnan(statistics.std[channel])
            continue
        mean = sum(finite) / len(finite)
        variance = sum((value - mean) ** 2 for value in finite) / len(finite)
        assert statistics.mean[channel] == pytest.approx(float(mean), rel=1e-15, abs=0)
        assert statistics.std[channel] == pytest.approx(math.sqrt(variance), rel=1e-14, abs=0)


@given(maxima())
def test_extremes_counts_and_dead_channels_are_those_of_the_finite_responses(values: Any) -> None:
    statistics = statistics_of(values)
    for channel in range(values.shape[1]):
        finite = [float(value) for value in values[:, channel] if math.isfinite(value)]
        assert statistics.low[channel] == min(finite, default=INF)
        assert statistics.high[channel] == max(finite, default=-INF)
        assert statistics.positive[channel] == sum(value > 0 for value in finite)
        assert statistics.dead[channel] == (bool(finite) and all(value == 0 for value in finite))


def test_a_channel_that_never_varies_has_no_deviation() -> None:
    for value in (0.1, 1e6 + 0.3, 1e-30, 3e38):
        assert statistics_of(np.full((1000, 1), value, np.float32)).std.tolist() == [0.0]


def test_a_small_deviation_about_a_large_mean_is_not_lost() -> None:
    values = np.array([[16777214.0], [16777216.0]] * 500, np.float32)
    assert statistics_of(values).std.tolist() == [1.0]


def test_sums_of_many_addends_of_every_size_are_exact() -> None:
    random = np.random.default_rng(0)
    large = np.ldexp(random.uniform(1, 2, 24_000), np.repeat(np.arange(-30, 30), 400)).astype(np.float32)
    values = np.concatenate([large, [np.float32(1e-40)], -large])  # all but the smallest cancel
    statistics = functools.reduce(Statistics.update, map(responses_of, np.array_split(values[:, None], 40)), Statistics.empty(1))
    assert statistics.mean[0] == float(np.float32(1e-40)) / len(values)


LABELS = ("a", "b")


def plan_for(channels: Any) -> Any:
    """A plan under which every member is kept."""
    return ScanPlan((LayerInfo("layer", "Conv2D", (1, 9, channels)),), None, 2, 4, bottom_k=1, label_k=3, labels=LABELS)


def part_of(values: Any, examples: Any, skipped: Any = ()) -> Any:
    """The part of some responses, labelled by their examples' numbers."""
    numbers = np.asarray(examples) % len(LABELS)
    responses = responses_of(values, examples, np.array(LABELS)[numbers], numbers)
    unread = tuple(Skipped(example, f"key{example}", "torn") for example in skipped)
    return Part.empty(plan_for(values.shape[1])).update({"layer": responses}, len(values), unread)


def test_a_plan_that_asks_for_everything_has_every_member() -> None:
    assert [type(member) for member in Part.empty(plan_for(1)).members["layer"].values()] == list(MEMBERS)


@given(st.data(), maxima(PLAIN), st.sets(st.integers(0, 30), max_size=4))
def test_parts_merge_to_the_same_whole_in_any_order_their_skipped_images_sorted(data: Any, values: Any, skipped: Any) -> None:
    whole = part_of(values, np.arange(len(values)), sorted(skipped))
    shards = data.draw(cuts(len(values)))
    owners = data.draw(st.lists(st.integers(0, len(shards) - 1), min_size=len(skipped), max_size=len(skipped)))
    parts = [
        part_of(values[shard], shard, sorted(example for example, owner in zip(skipped, owners, strict=True) if owner == place))
        for place, shard in enumerate(shards)
    ]
    order = data.draw(st.permutations(parts))
    assert part_in_bytes(merge(order)) == part_in_bytes(whole)
    empty = Part.empty(plan_for(values.shape[1]))
    assert part_in_bytes(whole.merge(empty)) == part_in_bytes(empty.merge(whole)) == part_in_bytes(whole)


def test_no_parts_at_all_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="no parts"):
        merge([])


@given(responses(values=st.sampled_from([-1.0, -0.0, 0.0, 0.5, INF, -INF])), responses(values=PLAIN), st.integers(1, 4))
def test_of_later_examples_only_what_surpasses_the_floor_enters(first: Any, second: Any, k: Any) -> None:
    channels = min(first[0].shape[3], second[0].shape[3])
    heap = one_batch(first[0][..., :channels], np.arange(len(first[0])), k)
    maps, examples = second[0][..., :channels], 100 + np.arange(len(second[0]))
    later = heap.update(maps, examples)
    for channel in range(channels):
        entered = set(later.examples[channel]) & set(examples)
        maxima, floor = maps[..., channel].max(axis=(1, 2)), heap.floor[channel]
        above = {example for example, score in zip(examples, maxima, strict=True) if math.isnan(floor) or score > floor}
        assert entered <= above and (not above or entered)
        assert math.isnan(floor) == (heap.examples[channel, -1] < 0)
