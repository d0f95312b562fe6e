"""Tally: how a layer's responses are spread, which labels they favour, and a sample of them; exact in any order.

Counts and sums are whole numbers, and the sample is chosen by the examples' own numbers, so any sharding of the
data gives the same tally, to the byte.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

# Buckets of the histogram: eight to a doubling, from 2**-16 to 2**16, for either sign, and one for what is smaller.
_OCTAVE = 8
_LOWEST, _HIGHEST = -16, 16
_SIDE = _OCTAVE * (_HIGHEST - _LOWEST)
BUCKETS = 2 * _SIDE + 1

_UNIT = 2.0**-24  # of the sums of responses; up to 2**39 may be summed
_LARGEST = 2.0**30  # responses beyond it count as it in those sums
MOST_LABELS = 2000  # a data set with more has no label statistics
SAMPLE = 512  # examples
_PENDING = 400_000  # responses that wait to be counted together: counting a few costs as much as counting many


@dataclass(frozen=True, eq=False)
class Tally:
    """What the responses (spatial maxima) of a layer's channels were like. Only finite responses count.

    counts: int64 (channels, BUCKETS): the histogram.
    high: float32 (channels,); at_high: int64 (channels,): the largest response, and how many responses equal it.
    labels: str (labels,), sorted; sums, seen: int64 (labels, channels): summed responses, in units of 2**-24, and their
    number. All three are empty in a data set without labels, and in one with more than MOST_LABELS.
    crowded: bool (1,): whether there were more.
    order: uint64 (sampled,), ascending: the sampled examples, by scrambled numbers; sample: float32 (sampled, channels).
    pending: arguments of `update` that the rest does not count yet; `settled` counts them.
    """

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
    def empty(cls, channels: int) -> Tally:
        """The tally of nothing."""
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

    def update(self, maxima: np.ndarray, examples: np.ndarray, labels: np.ndarray) -> Tally:
        """The tally after some more responses.

        Args:
            maxima: float32 (n, channels).
            examples: int64 (n,), none of them seen before.
            labels: str (n,): "" for an example without one.
        """
        told = replace(self, pending=(*self.pending, (maxima, examples, labels)))
        return told.settled() if sum(one[0].size for one in told.pending) >= _PENDING else told

    def settled(self) -> Tally:
        """The same tally with nothing pending."""
        if not self.pending:
            return self
        maxima, examples, labels = (np.concatenate(column) for column in zip(*self.pending, strict=True))
        maxima += np.float32(0)  # makes -0.0 a 0.0
        finite = np.isfinite(maxima)
        clean = finite.all()
        values = maxima if clean else np.where(finite, maxima, 0)
        channels = maxima.shape[1]
        place = bucket_of(values) + np.arange(channels) * BUCKETS
        counted = np.bincount(place.ravel() if clean else place[finite], minlength=channels * BUCKETS)
        largest = (maxima if clean else np.where(finite, maxima, -np.inf)).max(axis=0, initial=-np.inf)
        high, at_high = _higher(self.high, self.at_high, largest, np.count_nonzero(finite & (maxima == largest), axis=0))
        counts = self.counts + counted.reshape(channels, BUCKETS)
        told = replace(self, counts=counts, high=high, at_high=at_high, pending=())
        return told._with_labels(*_by_label(values, finite, labels))._with_sample(_scrambled(examples), maxima)

    def merge(self, other: Tally) -> Tally:
        """The tally of both data sets together, settled."""
        if self.pending or other.pending:
            return self.settled().merge(other.settled())
        high, at_high = _higher(self.high, self.at_high, other.high, other.at_high)
        crowded = self.crowded | other.crowded
        told = replace(self, counts=self.counts + other.counts, high=high, at_high=at_high, crowded=crowded)
        return told._with_labels(other.labels, other.sums, other.seen)._with_sample(other.order, other.sample)

    def _with_labels(self, labels: np.ndarray, sums: np.ndarray, seen: np.ndarray) -> Tally:
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

    def _with_sample(self, order: np.ndarray, sample: np.ndarray) -> Tally:
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
        wanted = share * totals
        at = (below < wanted[:, None]).sum(axis=1).clip(0, BUCKETS - 1)
        inside = self.counts[np.arange(len(at)), at]
        before = below[np.arange(len(at)), at] - inside
        part = (wanted - before) / np.maximum(inside, 1)
        found = np.minimum(edges[at] + part.clip(0, 1) * (edges[at + 1] - edges[at]), self.high)
        # The middle bucket stands for zero, which most of its responses are.
        found = np.where(at == _SIDE, np.minimum(0, self.high), found)
        return np.where(totals > 0, found, np.nan)

    def selectivity(self) -> tuple[list[str | None], np.ndarray]:
        """The label to which each channel answers most, on average, and its class selectivity index.

        The index is (a - b) / (a + b) with a the mean response to that label, b the mean of the other labels' means, both
        counted from zero where they are negative: 0 where all labels are the same to a channel, 1 where it answers to one
        alone (Morcos et al. 2018, "On the importance of single directions for generalization").

        Returns: a label or None, and float64, NaN where there are fewer than two labels; (channels,) each.
        """
        channels = self.counts.shape[0]
        if len(self.labels) < 2:
            return [None] * channels, np.full(channels, np.nan)
        means = np.where(self.seen > 0, self.sums / np.maximum(self.seen, 1) * _UNIT, -np.inf)
        best = means.argmax(axis=0)
        positive = np.maximum(means, 0)
        top = positive[best, np.arange(channels)]
        others = (self.seen > 0).sum(axis=0) - 1
        rest = (positive.sum(axis=0) - top) / np.maximum(others, 1)
        index = np.divide(top - rest, top + rest, out=np.zeros(channels), where=top + rest > 0)
        known = others > 0
        labels = [str(self.labels[place]) if there else None for place, there in zip(best, known, strict=True)]
        return labels, np.where(known, index, np.nan)

    def twins(self) -> tuple[np.ndarray, np.ndarray]:
        """For each channel the other one whose responses go most with its own, over the sampled examples.

        Returns: int64 (channels,), -1 where there is none, as for a channel that never varies; and their correlation
        (Pearson's), float64, NaN where there is none.
        """
        values = np.where(np.isfinite(self.sample), self.sample, 0).astype(np.float64)
        channels = values.shape[1]
        none = np.full(channels, -1, np.int64), np.full(channels, np.nan)
        if len(values) < 3 or channels < 2:
            return none
        values -= values.mean(axis=0)
        norms = np.sqrt((values**2).sum(axis=0))
        varied = norms > 1e-6 * np.abs(self.sample).max(axis=0, initial=0, where=np.isfinite(self.sample))
        values /= np.where(varied, norms, 1)
        twin, correlation = none
        for first in range(0, channels, 256):  # channels x channels at once may be too many
            block = slice(first, min(first + 256, channels))
            together = np.where(varied[block, None] & varied, values[:, block].T @ values, -np.inf)
            together[np.arange(block.stop - first), np.arange(first, block.stop)] = -np.inf
            # Rounding, so that the last bits do not decide between equals: the lower number does.
            together = together.round(9)
            twin[block], correlation[block] = together.argmax(axis=1), together.max(axis=1)
        alone = ~np.isfinite(correlation)
        twin[alone], correlation[alone] = -1, np.nan
        return twin, correlation.clip(-1, 1)

    def histogram(self, bins: int = 24) -> tuple[np.ndarray, np.ndarray]:
        """The histogram with fewer, equal bins, from the least response to the largest.

        Returns: int64 (channels, bins), and the bins' edges, float64 (channels, bins + 1).
        """
        edges = bucket_edges()
        counts = np.zeros((self.counts.shape[0], bins), np.int64)
        bounds = np.zeros((self.counts.shape[0], bins + 1))
        for channel, of_channel in enumerate(self.counts):
            filled = np.flatnonzero(of_channel)
            if not len(filled):
                continue
            low, high = min(edges[filled[0]], 0.0) if filled[0] < _SIDE else 0.0, max(float(self.high[channel]), 0.0)
            bounds[channel] = np.linspace(low, high if high > low else low + 1, bins + 1)
            # A bucket that reaches over several bins is shared out among them.
            below = np.interp(bounds[channel], edges, np.concatenate([[0], np.cumsum(of_channel)]))
            below[0], below[-1] = 0, of_channel.sum()
            counts[channel] = np.diff(np.rint(below))
        return counts, bounds


def bucket_of(values: np.ndarray) -> np.ndarray:
    """The bucket of each response, finite float32 of any shape: int64."""
    # A float's bits are, from above: sign, exponent, and the place between two powers of two; twelve of them tell the bucket.
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


def _higher(one: np.ndarray, at_one: np.ndarray, other: np.ndarray, at_other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The larger of two maxima and how many responses equal it."""
    at = np.where(one >= other, at_one, 0) + np.where(other >= one, at_other, 0)
    return np.maximum(one, other).astype(np.float32), at


def _by_label(values: np.ndarray, finite: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums, in units, and numbers of finite responses by label: str (labels,), int64 (labels, channels) twice."""
    listed = labels.tolist()
    names = sorted(set(listed) - {""})
    if not names:
        none = np.zeros((0, values.shape[1]), np.int64)
        return np.zeros(0, "<U1"), none, none
    codes = {name: code for code, name in enumerate(names)}
    code = np.array([codes.get(label, len(names)) for label in listed], np.int32)
    order = np.argsort(code, kind="stable")[: np.count_nonzero(code < len(names))]
    starts = np.searchsorted(code[order], np.arange(len(names)))
    units = np.multiply(values[order], 1 / _UNIT, dtype=np.float64)
    np.rint(units, out=units)
    limit = _LARGEST / _UNIT
    # Whole numbers below 2**53 are added exactly as floats, which is the quicker way.
    if max(units.max(), -units.min()) * len(units) >= 2.0**53:
        units = units.clip(-limit, limit).astype(np.int64)
    sums = np.add.reduceat(units, starts, axis=0).astype(np.int64)
    return np.array(names), sums, np.add.reduceat(finite[order], starts, axis=0, dtype=np.int64)


def _scrambled(examples: np.ndarray) -> np.ndarray:
    """Numbers that look random and are never the same for two examples (splitmix64, Steele et al. 2014): uint64."""
    value = examples.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
