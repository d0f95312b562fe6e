"""Distribution: how a layer's responses are spread, which labels they favour, and a sample of them.

Counts and sums are whole numbers, and the sample is chosen by the examples' own numbers, so any sharding of the data
gives the same distribution, to the byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline import exact_sums
from pipeline.activations.correlation import FEWEST, Standardized, correlations
from pipeline.activations.member import Member, Responses, without_nan
from pipeline.activations.plan import ScanPlan
from pipeline.scrambling import scrambled
from pipeline.store.tables import QUANTILES

# Buckets of the histogram: eight to a doubling, from 2**-16 to 2**16, for either sign, and one for what is smaller.
_OCTAVE = 8
_LOWEST, _HIGHEST = -16, 16
_SIDE = _OCTAVE * (_HIGHEST - _LOWEST)
BUCKETS = 2 * _SIDE + 1

MOST_LABELS = 2000  # a data set with more has no label statistics
SAMPLE = 512  # examples
_PENDING = 400_000  # responses that are counted together: counting a few costs as much as counting many


@dataclass(frozen=True, eq=False)
class Distribution(Member):
    """How the responses (spatial maxima) of a layer's channels are spread. Only finite responses count.

    counts: int64 (channels, BUCKETS): the histogram.
    high: float32 (channels,); at_high: int64 (channels,): the largest response, and how many responses equal it.
    labels: str (labels,), sorted; sums, seen: int64 (labels, channels): summed responses, in units of
    `exact_sums.UNIT`, and their number. All three are empty in a data set without labels, and in one with more than
    MOST_LABELS.
    crowded: bool (1,): whether there were more.
    order: uint64 (sampled,), ascending: scrambled numbers of the sampled examples; sample: float32 (sampled, channels).
    pending: batches (maxima, examples, labels) that the arrays do not count yet; `settled` counts them.
    """

    NAME = "distribution"

    counts: np.ndarray
    high: np.ndarray
    at_high: np.ndarray
    labels: np.ndarray
    sums: np.ndarray
    seen: np.ndarray
    crowded: np.ndarray
    order: np.ndarray
    sample: np.ndarray
    pending: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...] = ()

    @classmethod
    def empty(cls, channels: int, plan: ScanPlan | None = None) -> Distribution:
        """The distribution of nothing; every plan keeps it."""
        none = np.zeros((0, channels), np.int64)
        return cls(
            np.zeros((channels, BUCKETS), np.int64),
            np.full(channels, -np.inf, np.float32),
            np.zeros(channels, np.int64),
            np.zeros(0, "<U1"),
            none,
            none,
            np.zeros(1, bool),
            np.zeros(0, np.uint64),
            np.zeros((0, channels), np.float32),
        )

    def update(self, responses: Responses) -> Distribution:
        pending = (*self.pending, (responses.maxima, responses.examples, responses.labels))
        updated = replace(self, pending=pending)
        return updated.settled() if sum(maxima.size for maxima, _, _ in pending) >= _PENDING else updated

    def arrays(self) -> dict[str, np.ndarray]:
        arrays = super(Distribution, self.settled()).arrays()
        del arrays["pending"]
        return arrays

    def settled(self) -> Distribution:
        """The same distribution with nothing pending."""
        if not self.pending:
            return self
        maxima, examples, labels = (np.concatenate(column) for column in zip(*self.pending, strict=True))
        maxima += np.float32(0)  # makes -0.0 a 0.0
        finite = np.isfinite(maxima)
        clean = finite.all()
        values = maxima if clean else np.where(finite, maxima, 0)
        channels = maxima.shape[1]
        buckets = bucket_of(values) + np.arange(channels) * BUCKETS
        counts = np.bincount(buckets.ravel() if clean else buckets[finite], minlength=channels * BUCKETS)
        largest = (maxima if clean else np.where(finite, maxima, -np.inf)).max(axis=0, initial=-np.inf)
        at_largest = np.count_nonzero(finite & (maxima == largest), axis=0)
        high, at_high = _higher((self.high, self.at_high), (largest, at_largest))
        counted = replace(self, counts=self.counts + counts.reshape(channels, BUCKETS), high=high, at_high=at_high, pending=())
        return counted._with_labels(*_by_label(values, finite, labels))._with_sample(scrambled(examples), maxima)

    def merge(self, other: Distribution) -> Distribution:
        if self.pending or other.pending:
            return self.settled().merge(other.settled())
        high, at_high = _higher((self.high, self.at_high), (other.high, other.at_high))
        crowded = self.crowded | other.crowded
        counted = replace(self, counts=self.counts + other.counts, high=high, at_high=at_high, crowded=crowded)
        return counted._with_labels(other.labels, other.sums, other.seen)._with_sample(other.order, other.sample)

    def _with_labels(self, labels: np.ndarray, sums: np.ndarray, seen: np.ndarray) -> Distribution:
        every = np.union1d(self.labels, labels)
        if self.crowded[0] or len(every) > MOST_LABELS:
            none = np.zeros((0, self.counts.shape[0]), np.int64)
            return replace(self, labels=np.zeros(0, "<U1"), sums=none, seen=none, crowded=np.ones(1, bool))
        totals = []
        for mine, others in ((self.sums, sums), (self.seen, seen)):
            total = np.zeros((len(every), self.counts.shape[0]), np.int64)
            total[np.searchsorted(every, self.labels)] = mine
            total[np.searchsorted(every, labels)] += others
            totals.append(total)
        return replace(self, labels=every, sums=totals[0], seen=totals[1])

    def _with_sample(self, order: np.ndarray, sample: np.ndarray) -> Distribution:
        if len(self.order) == SAMPLE:
            enter = order < self.order[-1]
            if not enter.any():
                return self
            order, sample = order[enter], sample[enter]
        together = np.concatenate([self.order, order])
        first = np.argsort(together, kind="stable")[:SAMPLE]
        return replace(self, order=together[first], sample=np.concatenate([self.sample, sample])[first])

    def quantile(self, share: float) -> np.ndarray:
        """The response below which a share of the responses lies: float64 (channels,); NaN where nothing was seen.

        It is off by no more than a bucket's width, an eighth of itself (2**-16 near zero).
        """
        edges = bucket_edges()
        totals = self.counts.sum(axis=1)
        below = np.cumsum(self.counts, axis=1)
        rank = share * totals
        bucket = (below < rank[:, None]).sum(axis=1).clip(0, BUCKETS - 1)
        inside = self.counts[np.arange(len(bucket)), bucket]
        before = below[np.arange(len(bucket)), bucket] - inside
        fraction = ((rank - before) / np.maximum(inside, 1)).clip(0, 1)
        values = np.minimum(edges[bucket] + fraction * (edges[bucket + 1] - edges[bucket]), self.high)
        # The middle bucket stands for zero, which most of its responses are.
        values = np.where(bucket == _SIDE, np.minimum(0, self.high), values)
        return np.where(totals > 0, values, np.nan)

    def selectivity(self) -> tuple[list[str | None], np.ndarray]:
        """The label to which each channel responds most, on average, and its class selectivity index.

        The index is (a - b) / (a + b) with a the mean response to that label, b the mean of the other labels' means, both
        counted from zero where they are negative: 0 where all labels are the same to a channel, 1 where it responds to one
        alone (Morcos et al. 2018, "On the importance of single directions for generalization").

        Returns: a label or None, and float64, NaN where there are fewer than two labels; (channels,) each.
        """
        channels = self.counts.shape[0]
        if len(self.labels) < 2:
            return [None] * channels, np.full(channels, np.nan)
        means = np.where(self.seen > 0, self.sums / np.maximum(self.seen, 1) * exact_sums.UNIT, -np.inf)
        best = means.argmax(axis=0)
        positive = np.maximum(means, 0)
        top = positive[best, np.arange(channels)]
        others = (self.seen > 0).sum(axis=0) - 1
        rest = (positive.sum(axis=0) - top) / np.maximum(others, 1)
        index = np.divide(top - rest, top + rest, out=np.zeros(channels), where=top + rest > 0)
        known = others > 0
        labels = [str(self.labels[number]) if is_known else None for number, is_known in zip(best, known, strict=True)]
        return labels, np.where(known, index, np.nan)

    def standardized(self) -> Standardized:
        """The sampled responses, in the order of the sample, as correlations take them."""
        return Standardized.of(self.sample)

    def twins(self) -> tuple[np.ndarray, np.ndarray]:
        """For each channel the one whose responses correlate most with its own, over the sampled examples.

        Returns: int64 (channels,), -1 where there is none, as for a channel that never varies; and their correlation
        (Pearson's), float64, NaN where there is none.
        """
        channels = self.sample.shape[1]
        twin, correlation = np.full(channels, -1, np.int64), np.full(channels, np.nan)
        if len(self.sample) < FEWEST or channels < 2:
            return twin, correlation
        values = self.standardized()
        for first in range(0, channels, 256):  # channels x channels at once may be too many
            block = slice(first, min(first + 256, channels))
            together = correlations(values.channels(block), values)
            together[np.arange(block.stop - first), np.arange(first, block.stop)] = np.nan
            together = np.where(np.isnan(together), -np.inf, together)
            twin[block], correlation[block] = together.argmax(axis=1), together.max(axis=1)  # the lower number among equals
        alone = ~np.isfinite(correlation)
        twin[alone], correlation[alone] = -1, np.nan
        return twin, correlation

    def histogram(self, bins: int = 24) -> tuple[np.ndarray, np.ndarray]:
        """The histogram with fewer, equal bins, from the least response to the largest.

        Returns: int64 (channels, bins), and the bins' edges, float64 (channels, bins + 1).
        """
        edges = bucket_edges()
        counts = np.zeros((self.counts.shape[0], bins), np.int64)
        bounds = np.zeros((self.counts.shape[0], bins + 1))
        for channel, buckets in enumerate(self.counts):
            filled = np.flatnonzero(buckets)
            if not len(filled):
                continue
            low, high = min(edges[filled[0]], 0.0) if filled[0] < _SIDE else 0.0, max(float(self.high[channel]), 0.0)
            bounds[channel] = np.linspace(low, high if high > low else low + 1, bins + 1)
            # A bucket that overlaps several bins is shared out among them.
            below = np.interp(bounds[channel], edges, np.concatenate([[0], np.cumsum(buckets)]))
            below[0], below[-1] = 0, buckets.sum()
            counts[channel] = np.diff(np.rint(below))
        return counts, bounds

    def columns(self, channels: np.ndarray) -> dict[str, Sequence[Any] | np.ndarray]:
        settled = self.settled()
        seen = settled.counts.sum(axis=1)
        dead = (seen > 0) & (settled.high == 0) & (settled.at_high == seen)
        labels, selectivity = settled.selectivity()
        twins, correlation = settled.twins()
        counts, edges = settled.histogram()
        return {
            "saturated": ~dead & (settled.at_high > seen / 2),
            "share_at_max": settled.at_high / np.maximum(seen, 1),
            **{f"q{share:02}": without_nan(settled.quantile(share / 100)) for share in QUANTILES},
            "selective_label": labels,
            "selectivity": without_nan(selectivity),
            "twin": [None if twin < 0 else channels[twin] for twin in twins],
            "twin_correlation": without_nan(correlation),
            "histogram": list(counts),
            "histogram_edges": list(edges),
        }


def bucket_of(values: np.ndarray) -> np.ndarray:
    """The bucket of each response, finite float32 of any shape: int64."""
    # A float's bits, from the highest: sign, exponent, fraction. The first twelve determine the bucket.
    return _BUCKET_OF[np.ascontiguousarray(values, np.float32).view(np.uint32) >> (23 - 3)]


def _buckets() -> np.ndarray:
    """The bucket for every twelve highest bits that a float32 may have: int64 (4096,)."""
    bits = np.arange(4096)
    size = np.clip((bits & 0x7FF) - _OCTAVE * (127 + _LOWEST) + 1, 0, _SIDE)
    return _SIDE + np.where(bits < 2048, size, -size)


_BUCKET_OF = _buckets()


def bucket_edges() -> np.ndarray:
    """The edges between the buckets: float64 (BUCKETS + 1,), rising; the outermost stand for all that lies beyond."""
    steps = np.arange(_SIDE + 1)
    sizes = np.ldexp(1 + steps % _OCTAVE / _OCTAVE, _LOWEST + steps // _OCTAVE)
    return np.concatenate([-sizes[::-1], sizes])


def _higher(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The larger of two maxima and how many responses equal it, from two pairs of (maxima, how many responses equal them)."""
    (high, count), (other_high, other_count) = first, second
    at_high = np.where(high >= other_high, count, 0) + np.where(other_high >= high, other_count, 0)
    return np.maximum(high, other_high).astype(np.float32), at_high


def _by_label(values: np.ndarray, finite: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums in `exact_sums.UNIT` and numbers of finite responses by label: str (labels,), int64 (labels, channels) each."""
    of_images = labels.tolist()
    names = sorted(set(of_images) - {""})
    if not names:
        none = np.zeros((0, values.shape[1]), np.int64)
        return np.zeros(0, "<U1"), none, none
    codes = {name: code for code, name in enumerate(names)}
    code = np.array([codes.get(label, len(names)) for label in of_images], np.int32)
    order = np.argsort(code, kind="stable")[: np.count_nonzero(code < len(names))]
    starts = np.searchsorted(code[order], np.arange(len(names)))
    sums = exact_sums.sum_in_units(values[order], starts)
    return np.array(names), sums, np.add.reduceat(finite[order], starts, axis=0, dtype=np.int64)
