"""LabelCounts: how the responses to the images of each label are spread, and how well a response tells the label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

MOST_BINS, FEWEST_BINS = 256, 16
_MOST_CELLS = 2**27  # counts in memory, of all layers together
_TAIL = 32  # bins above all that the scan sampled, where the strongest responses lie


@dataclass(frozen=True, eq=False)
class LabelCounts:
    """Exact counts of the responses of a layer's channels, label by label, over a fixed grid for each channel.

    The grid is given, so counts of different images over the same grid merge by addition. Only finite responses to images
    with a label count.

    edges: float32 (channels, bins - 1), rising along each row. A bin holds its lower edge, not its upper.
    labels: the labels, in the order of their codes.
    counts: int32 (labels, channels, bins).
    """

    edges: np.ndarray
    labels: tuple[str, ...]
    counts: np.ndarray

    @classmethod
    def empty(cls, edges: np.ndarray, labels: Sequence[str]) -> LabelCounts:
        """Counts of nothing."""
        channels, bins = edges.shape
        return cls(edges, tuple(labels), np.zeros((len(labels), channels, bins + 1), np.int32))

    def update(self, responses: np.ndarray, codes: np.ndarray) -> LabelCounts:
        """The counts after some more images.

        Args:
            responses: float32 (images, channels).
            codes: int64 (images,): positions in `labels`; -1 for an image without a label.
        """
        kept = codes >= 0
        responses, codes = responses[kept], codes[kept]
        cells = self.counts.shape
        bins = np.empty(responses.shape, np.int64)
        for channel, edges in enumerate(self.edges):
            bins[:, channel] = np.searchsorted(edges, responses[:, channel], side="right")
        flat = (codes[:, None] * cells[1] + np.arange(cells[1])) * cells[2] + bins
        counts = self.counts.copy()
        np.add.at(counts.reshape(-1), flat[np.isfinite(responses)], 1)
        return replace(self, counts=counts)

    def merge(self, other: LabelCounts) -> LabelCounts:
        """The counts of both sets of images, over the same grid and labels."""
        return replace(self, counts=self.counts + other.counts)

    def average_precision(self) -> np.ndarray:
        """For each label the average precision of the response as its detector: the sum, over thresholds from the highest
        down, of precision times the gain in recall; responses of one bin pass together.

        Returns: float64 (labels, channels); NaN where no image of a label was seen.
        """
        passed = self._from_above(self.counts.sum(axis=0))
        values = []
        for counts in self.counts:
            hits = self._from_above(counts)
            precision = hits / np.maximum(passed, 1)
            values.append((counts[:, ::-1] * precision).sum(axis=1) / _or_nan(hits[:, -1]))
        return np.array(values).reshape(self.counts.shape[:2])

    def auc(self) -> np.ndarray:
        """For each label the area under the ROC curve of the response: how often an image of the label responds more
        strongly than one of another label; images of one bin count half.

        Returns: float64 (labels, channels); NaN where there are no images of the label, or of no other.
        """
        every = self.counts.sum(axis=0)
        values = []
        for counts in self.counts:
            others = every - counts
            below = others.cumsum(axis=1) - others / 2
            values.append((counts * below).sum(axis=1) / _or_nan(counts.sum(axis=1) * others.sum(axis=1)))
        return np.array(values).reshape(self.counts.shape[:2])

    @staticmethod
    def _from_above(counts: np.ndarray) -> np.ndarray:
        """The number of responses in each bin or a higher one, the highest bin first: (channels, bins)."""
        return counts[:, ::-1].cumsum(axis=1)


def _or_nan(numbers: np.ndarray) -> np.ndarray:
    return np.where(numbers > 0, numbers, np.nan)


def bins_for(labels: int, channels: int) -> int:
    """The number of bins of a channel's grid, so that the counts of all channels fit into memory."""
    return int(np.clip(_MOST_CELLS // max(labels * channels, 1), FEWEST_BINS, MOST_BINS))


def grid_of(sample: np.ndarray, highest: np.ndarray, bins: int) -> np.ndarray:
    """The edges of a grid: the quantiles of sampled responses, and equal steps from the largest of them to the highest known.

    Where there are edges enough for all different responses of the sample, each is one: no two images share a bin, unless they
    respond the same. A channel that is silent for most images has many equal responses.

    Args:
        sample: float32 (images, channels); values that are not finite are passed over.
        highest: float32 (channels,), the highest response of each channel, or NaN.
        bins: of each channel.

    Returns: float32 (channels, bins - 1).
    """
    tail = min(_TAIL, bins // 4)
    inner = bins - 1 - tail
    columns = []
    for values, top in zip(sample.T, highest, strict=True):
        values = np.sort(values[np.isfinite(values)])
        if not len(values):
            columns.append(np.zeros(bins - 1, np.float32))
            continue
        distinct, last = np.unique(values), values[-1]
        highest_known = max(top, last) if np.isfinite(top) else last
        room = bins - 1 if highest_known == last else inner
        if len(distinct) <= room + 1:  # the lowest has a bin without an edge
            distinct = distinct[-room:]
            quantiles = np.concatenate([distinct, np.full(room - len(distinct), last, np.float32)])
        else:
            quantiles = values[np.linspace(0, len(values) - 1, inner).round().astype(int)]
        steps = np.linspace(last, highest_known, bins - len(quantiles))[1:]
        columns.append(np.concatenate([quantiles, steps]).astype(np.float32))
    return np.array(columns, np.float32).reshape(len(columns), bins - 1)
