"""Activations: for every channel of a layer, the k strongest responses of a data set, exactly."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

UNFILLED = -1  # the example of an unfilled slot of a heap


@dataclass(frozen=True, eq=False)
class Entries:
    """Responses of some channels to some examples: (n,) each, in any order.

    channels, examples, rows, cols: int. scores: float32, free of NaN.
    unclipped: float32: what the scores were before an upper clamp; NaN where there is none.
    groups: int: the source image that each example is cut from.
    maps: uint8 (n, cells): the channels' maps of these examples, see `pipeline.activations.winner_maps`; (n, 0) where heaps
        keep none.
    """

    channels: np.ndarray
    scores: np.ndarray
    examples: np.ndarray
    rows: np.ndarray
    cols: np.ndarray
    unclipped: np.ndarray
    groups: np.ndarray
    maps: np.ndarray


@dataclass(frozen=True, eq=False)
class Activations:
    """Per-channel heaps of the k strongest responses, strongest first.

    The response of an example is the maximum of the channel's map, at its first position in reading order. Responses are
    ordered by what they were before an upper clamp, or by score where there is none, strongest first, then by example, row
    and col, lowest first: a total order, so that any order of updates and merges gives the same heap.

    scores: float32 (channels, k); -inf where unfilled.
    examples: int64 (channels, k); -1 where unfilled.
    rows, cols: int32 (channels, k); -1 where unfilled.
    unclipped: float32 (channels, k): the responses before an upper clamp; NaN where there is none.
    groups: int64 (channels, k): the source images that the examples are cut from; -1 where unfilled.
    nans: int64 (channels,): NaN values met, none of which entered.
    per_image: int64 (): how many responses to examples of one source image a channel takes, the strongest; 0: any number.
    maps: uint8 (channels, k, cells): the channels' maps, as `Entries` has them; 0 where unfilled. An empty heap has no cells:
        it takes maps of any size, or none.
    """

    scores: np.ndarray
    examples: np.ndarray
    rows: np.ndarray
    cols: np.ndarray
    unclipped: np.ndarray
    groups: np.ndarray
    nans: np.ndarray
    per_image: np.ndarray
    maps: np.ndarray

    @classmethod
    def empty(cls, channels: int, k: int, per_image: int | None = None) -> Activations:
        """Empty heaps. Raises: ValueError for less than one channel, slot or response of an image."""
        if channels < 1 or k < 1 or (per_image is not None and per_image < 1):
            raise ValueError(f"channels = {channels}, k = {k}, per_image = {per_image}: all must be at least 1.")
        unfilled = np.full((channels, k), UNFILLED, np.int32)
        examples = unfilled.astype(np.int64)
        scores = np.full((channels, k), -np.inf, np.float32)
        nans, limit = np.zeros(channels, np.int64), np.array(per_image or 0, np.int64)
        unclipped, maps = np.full_like(scores, np.nan), np.zeros((channels, k, 0), np.uint8)
        return cls(scores, examples, unfilled, unfilled.copy(), unclipped, examples.copy(), nans, limit, maps)

    @property
    def channels(self) -> int:
        return self.scores.shape[0]

    @property
    def k(self) -> int:
        return self.scores.shape[1]

    @property
    def keys(self) -> np.ndarray:
        """The values that responses are ranked by: float32 (channels, k); -inf where unfilled."""
        return unclipped_or_score(self.unclipped, self.scores)

    @property
    def floor(self) -> np.ndarray:
        """The key that a response must exceed to enter, if its example comes after all in the heap.

        Returns: float32 (channels,); NaN where there is room for any.
        """
        return np.where(self.examples[:, -1] == UNFILLED, np.float32(np.nan), self.keys[:, -1])

    def update(self, features: np.ndarray, examples: np.ndarray, groups: np.ndarray | None = None) -> Activations:
        """The heaps, which keep no maps, after one more batch of feature maps of a layer without an upper clamp.

        Args:
            features: float (batch, h, w, channels). NaN values are counted and passed over.
            examples: int (batch,): ids, at least 0; -1 marks padding, which never enters.
            groups: int (batch,): the source image that each example is cut from; absent: each is an image of its own.
        Raises: ValueError where the shapes do not fit.
        """
        features, examples = np.asarray(features, np.float32), np.asarray(examples, np.int64)
        groups = examples if groups is None else np.asarray(groups, np.int64)
        fits = features.ndim == 4 and features.shape[3] == self.channels
        if not fits or not features.shape[:1] == examples.shape == groups.shape:
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
        images, channels = self._entrants(maxima, examples, nan_counts < maps.shape[1])
        positions = maps[images, :, channels].argmax(axis=1)
        if nan_counts.any():  # beside NaN, -inf may be a real response: at the first position that is not NaN
            positions = np.where(np.isneginf(maxima[images, channels]), (~nans)[images, :, channels].argmax(axis=1), positions)
        scores = maxima[images, channels]
        rows, cols = positions // width, positions % width
        none, maps = np.full_like(scores, np.nan), np.zeros((len(scores), 0), np.uint8)
        entries = Entries(channels, scores, examples[images], rows, cols, none, groups[images], maps)
        return self.count_nans(nan_counts[examples >= 0].sum(axis=0)).insert(entries)

    def _entrants(self, maxima: np.ndarray, examples: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which responses of a batch can enter: those that fewer than k others in the heap or the batch exceed.

        Args:
            maxima: float32 (batch, channels): spatial maxima, free of NaN.
            examples: int64 (batch,): -1 marks padding.
            valid: bool (batch, channels): responses that count.

        Returns: images, channels: int (n,) each, by channel, then by image.
        """
        allowed = (maxima >= self.keys[:, -1]) & (examples >= 0)[:, None] & valid
        crowded = np.flatnonzero(allowed.sum(axis=0) > self.k)
        # Within the batch, only what reaches the k-th largest can enter, unless those above it are of one image.
        if len(crowded) and not self.per_image:
            scores = np.where(allowed[:, crowded], maxima[:, crowded], -np.inf)
            allowed[:, crowded] &= maxima[:, crowded] >= np.partition(scores, -self.k, axis=0)[-self.k]
        channels, images = np.nonzero(allowed.T)
        return images, channels

    def insert(self, entries: Entries) -> Activations:
        """The heaps after some responses, of any channels, in any order. Raises: ValueError, for maps of another size."""
        if not len(entries.channels):
            return self
        cells = entries.maps.shape[1]
        if self.maps.shape[2] != cells and (self.examples != UNFILLED).any():
            raise ValueError(f"responses with maps of {cells} cells do not fit heaps with maps of {self.maps.shape[2]}.")
        touched, row, counts = np.unique(entries.channels, return_inverse=True, return_counts=True)
        by_channel = np.argsort(row, kind="stable")
        slot = self.k + np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        # A row a channel: its heap, then the new responses. Many short sorts take a fraction of the time of a long one.
        wide = Activations.empty(len(touched), self.k + int(counts.max()))
        for name in _COLUMNS:
            values, column = getattr(entries, name), getattr(wide, name)
            # Adding 0 makes -0.0 a 0.0: equal scores have equal bytes.
            values = np.asarray(values, np.float32) + np.float32(0) if column.dtype == np.float32 else values
            column[:, : self.k] = getattr(self, name)[touched]
            column[row[by_channel], slot] = values[by_channel]
        # As an unsigned number, the example of an unfilled slot is the largest: it comes last.
        order = np.lexsort((wide.cols, wide.rows, wide.examples.view(np.uint64), -wide.keys), axis=-1)
        if self.per_image:
            in_order = np.take_along_axis(wide.groups, order, axis=1)
            surplus = _occurrence(in_order) >= self.per_image
            surplus &= in_order != UNFILLED
            order = np.take_along_axis(order, np.argsort(surplus, axis=1, kind="stable"), axis=1)[:, : self.k]
            surplus = np.sort(surplus, axis=1)[:, : self.k]
        else:
            order, surplus = order[:, : self.k], np.zeros((), bool)
        best = {name: np.take_along_axis(getattr(wide, name), order, axis=1) for name in _COLUMNS}
        if surplus.any():
            unfilled = Activations.empty(len(touched), self.k)
            best = {name: np.where(surplus, getattr(unfilled, name), column) for name, column in best.items()}
        if cells:
            best["maps"] = self._maps_after(entries, touched, (row[by_channel], slot, by_channel), np.where(surplus, -1, order))
        heap = self if self.maps.shape[2] == cells else replace(self, maps=np.zeros((self.channels, self.k, cells), np.uint8))
        return replace(heap, **{name: _with_rows(getattr(heap, name), touched, column) for name, column in best.items()})

    def _maps_after(
        self, entries: Entries, touched: np.ndarray, slots: tuple[np.ndarray, np.ndarray, np.ndarray], order: np.ndarray
    ) -> np.ndarray:
        """The maps of some channels after an insertion: uint8 (touched, k, cells).

        Args:
            slots: row, slot and number, int (n,) each, of the new responses among old and new ones.
            order: int (touched, k): the slots of those that the heaps hold now; -1 for none.
        """
        row, slot, number = slots
        numbers = np.full((len(touched), int(slot.max()) + 1), -1)  # of the new responses; -1 for old ones
        numbers[row, slot] = number
        new = np.where(order < 0, -1, np.take_along_axis(numbers, np.maximum(order, 0), axis=1))
        maps = np.zeros((*order.shape, entries.maps.shape[1]), np.uint8)
        maps[new >= 0] = entries.maps[new[new >= 0]]
        if self.maps.shape[2]:
            at = np.nonzero((order >= 0) & (order < self.k) & (new < 0))
            maps[at] = self.maps[touched[at[0]], order[at]]
        return maps

    def fired(self, lowest: np.ndarray) -> Activations:
        """The heaps without the responses of 0 of channels that respond with nothing lower, as behind a ReLU: they did not fire.

        Args:
            lowest: float32 (channels,): the lowest of all responses of each channel.
        """
        idle = (self.scores == 0) & (lowest == 0)[:, np.newaxis]
        unfilled = Activations.empty(self.channels, self.k)
        columns = {name: np.where(idle, getattr(unfilled, name), getattr(self, name)) for name in _COLUMNS}
        return replace(self, **columns) if idle.any() else self

    def count_nans(self, nans: np.ndarray) -> Activations:
        """The heaps after some more NaN values: int (channels,)."""
        return replace(self, nans=self.nans + nans)

    def merge(self, other: Activations) -> Activations:
        """The heaps of both data sets together: associative and commutative, and an empty heap changes nothing.

        With `per_image` too the k entries of either are enough. What beats an entry among the best n of every image of
        either data set alone, does so, or is beaten for its image by n others that do, in both together: so whoever is
        among the first k of both is among the first k of their own.

        Raises: ValueError where channels, k, per_image or the sizes of maps differ.
        """
        if self.scores.shape != other.scores.shape or self.per_image != other.per_image:
            raise ValueError(
                f"heaps of {self.scores.shape} and {other.scores.shape} (channels, k), of {self.per_image} and "
                f"{other.per_image} responses an image, cannot be merged."
            )
        channels, slots = np.nonzero(other.examples != UNFILLED)
        columns = {name: getattr(other, name)[channels, slots] for name in (*_COLUMNS, "maps")}
        return self.insert(Entries(channels, **columns)).count_nans(other.nans)


_COLUMNS = tuple(field.name for field in fields(Entries) if field.name not in ("channels", "maps"))


def unclipped_or_score(unclipped: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The values that responses are ranked by: those before an upper clamp, or the scores where there is none."""
    return np.where(np.isnan(unclipped), scores, unclipped)


def _occurrence(values: np.ndarray) -> np.ndarray:
    """The number of equal values before each value in its row: int (rows, n)."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    position = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    starts = np.concatenate([np.ones((len(values), 1), bool), ordered[:, 1:] != ordered[:, :-1]], axis=1)
    first = np.maximum.accumulate(np.where(starts, position, 0), axis=1)
    occurrence = np.empty(values.shape, np.int64)
    np.put_along_axis(occurrence, order, position - first, axis=1)
    return occurrence


def _with_rows(array: np.ndarray, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    array = array.copy()
    array[rows] = values
    return array
