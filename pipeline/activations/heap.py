"""Activations: for every channel of a layer, the k strongest responses of a data set, exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNFILLED = -1  # the example of an unfilled slot of a heap


@dataclass(frozen=True, eq=False)
class Activations:
    """Per-channel heaps of the k strongest responses, strongest first.

    The response of an example is the maximum of the channel's map, at its first position in reading order. Responses are
    ordered by score, strongest first, then by example, row and col, lowest first: a total order, so that any order of
    updates and merges gives the same heap.

    scores: float32 (channels, k); -inf where unfilled.
    examples: int64 (channels, k); -1 where unfilled.
    rows, cols: int32 (channels, k); -1 where unfilled.
    nans: int64 (channels,): NaN values met, none of which entered.
    """

    scores: np.ndarray
    examples: np.ndarray
    rows: np.ndarray
    cols: np.ndarray
    nans: np.ndarray

    @classmethod
    def empty(cls, channels: int, k: int) -> Activations:
        """Empty heaps. Raises: ValueError for less than one channel or slot."""
        if channels < 1 or k < 1:
            raise ValueError(f"channels = {channels}, k = {k}: both must be at least 1.")
        unfilled = np.full((channels, k), UNFILLED, np.int32)
        scores = np.full((channels, k), -np.inf, np.float32)
        return cls(scores, unfilled.astype(np.int64), unfilled, unfilled.copy(), np.zeros(channels, np.int64))

    @property
    def channels(self) -> int:
        return self.scores.shape[0]

    @property
    def k(self) -> int:
        return self.scores.shape[1]

    @property
    def floor(self) -> np.ndarray:
        """The score that a response must exceed to enter, if its example comes after all in the heap.

        Returns: float32 (channels,); NaN where there is room for any.
        """
        return np.where(self.examples[:, -1] == UNFILLED, np.float32(np.nan), self.scores[:, -1])

    def update(self, features: np.ndarray, examples: np.ndarray) -> Activations:
        """The heaps after one more batch of feature maps.

        Args:
            features: float (batch, h, w, channels). NaN values are counted and passed over.
            examples: int (batch,): ids, at least 0; -1 marks padding, which never enters.
        Raises: ValueError where the shapes do not fit.
        """
        features, examples = np.asarray(features, np.float32), np.asarray(examples, np.int64)
        if features.ndim != 4 or features.shape[3] != self.channels or examples.shape != features.shape[:1]:
            raise ValueError(
                f"features {features.shape} and examples {examples.shape} do not fit heaps of {self.channels} channels: "
                "they must be (batch, h, w, channels) and (batch,)."
            )
        batch, height, width, _ = features.shape
        maps = features.reshape(batch, height * width, self.channels)
        nans = np.isnan(maps)
        nan_counts = nans.sum(axis=1)
        if nan_counts.any():
            maps = np.where(nans, -np.inf, maps)
        maxima = maps.max(axis=1)
        images, channels = self.entrants(maxima, examples, nan_counts < maps.shape[1])
        positions = maps[images, :, channels].argmax(axis=1)
        if nan_counts.any():  # beside NaN, -inf may be a real response: at the first position that is not NaN
            positions = np.where(np.isneginf(maxima[images, channels]), (~nans)[images, :, channels].argmax(axis=1), positions)
        heap = self.count_nans(nan_counts[examples >= 0].sum(axis=0))
        return heap.insert(channels, maxima[images, channels], examples[images], positions // width, positions % width)

    def entrants(
        self, maxima: np.ndarray, examples: np.ndarray, valid: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which responses of a batch can enter: those that fewer than k others in the heap or the batch exceed.

        Args:
            maxima: float32 (batch, channels): spatial maxima, free of NaN.
            examples: int64 (batch,): -1 marks padding.
            valid: bool (batch, channels): responses that count; absent: all.

        Returns: images, channels: int (n,) each, by channel, then by image.
        """
        allowed = (maxima >= self.scores[:, -1]) & (examples >= 0)[:, None]
        if valid is not None:
            allowed &= valid
        crowded = np.flatnonzero(allowed.sum(axis=0) > self.k)
        if len(crowded):  # within the batch, only what reaches the k-th largest can enter
            scores = np.where(allowed[:, crowded], maxima[:, crowded], -np.inf)
            allowed[:, crowded] &= maxima[:, crowded] >= np.partition(scores, -self.k, axis=0)[-self.k]
        channels, images = np.nonzero(allowed.T)
        return images, channels

    def insert(
        self, channels: np.ndarray, scores: np.ndarray, examples: np.ndarray, rows: np.ndarray, cols: np.ndarray
    ) -> Activations:
        """The heaps after some responses: (n,) each, of any channels, in any order; none is NaN."""
        if not len(channels):
            return self
        touched, row, counts = np.unique(channels, return_inverse=True, return_counts=True)
        by_channel = np.argsort(row, kind="stable")
        slot = self.k + np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        # A row a channel: its heap, then the new responses. Many short sorts take a fraction of the time of a long one.
        wide = Activations.empty(len(touched), self.k + int(counts.max()))
        # Adding 0 makes -0.0 a 0.0: equal scores have equal bytes.
        new = {"scores": np.asarray(scores, np.float32) + np.float32(0), "examples": examples, "rows": rows, "cols": cols}
        for name, values in new.items():
            column = getattr(wide, name)
            column[:, : self.k] = getattr(self, name)[touched]
            column[row[by_channel], slot] = values[by_channel]
        # As an unsigned number, the example of an unfilled slot is the largest: it comes last.
        order = np.lexsort((wide.cols, wide.rows, wide.examples.view(np.uint64), -wide.scores), axis=-1)[:, : self.k]
        best = {name: np.take_along_axis(getattr(wide, name), order, axis=1) for name in new}
        return Activations(**{name: _with_rows(getattr(self, name), touched, best[name]) for name in new}, nans=self.nans)

    def count_nans(self, nans: np.ndarray) -> Activations:
        """The heaps after some more NaN values: int (channels,)."""
        return Activations(self.scores, self.examples, self.rows, self.cols, self.nans + nans)

    def merge(self, other: Activations) -> Activations:
        """The heaps of both data sets together: associative and commutative, and an empty heap changes nothing.

        Raises: ValueError where channels or k differ.
        """
        if self.scores.shape != other.scores.shape:
            raise ValueError(f"heaps of {self.scores.shape} and {other.scores.shape} (channels, k) cannot be merged.")
        channels, slots = np.nonzero(other.examples != UNFILLED)
        merged = self.insert(
            channels,
            other.scores[channels, slots],
            other.examples[channels, slots],
            other.rows[channels, slots],
            other.cols[channels, slots],
        )
        return merged.count_nans(other.nans)


def _with_rows(array: np.ndarray, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    array = array.copy()
    array[rows] = values
    return array
