"""The largest values of each channel's maps: enough of them for an exact quantile, and the floor below which none matters."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

QUANTILE = 0.995
LEAST = np.finfo(np.float32).min
_FEWEST_ROWS = 256


@dataclass(frozen=True, eq=False)
class TopValues:
    """Enough of the largest values of each channel's maps to know their quantile exactly.

    most: how many values of each channel there may be in all. count: how many there were.
    values: float32 (channels, kept), in any order.
    floor: float32 (channels,): only values above it matter from now on. It rises, and the quantile is never below it.
    waiting: what came since, filled up with the least number there is; put among `values` when it is as much, so that each
        value is ordered a few times.
    """

    most: int
    count: int
    values: np.ndarray
    floor: np.ndarray
    waiting: tuple[np.ndarray, ...] = ()

    @classmethod
    def empty(cls, most: int, channels: int) -> TopValues:
        """No values yet."""
        return cls(most, 0, np.zeros((channels, 0), np.float32), np.full(channels, LEAST))

    def update(self, values: np.ndarray, channels: np.ndarray, count: int) -> TopValues:
        """The same with more values.

        Args:
            values: float32 (n,): at least those above the floor, or above a floor there was before. What is not finite counts
                as the least there is.
            channels: int (n,): their channels.
            count: how many values of each channel these were taken from.
        """
        above = (values > self.floor[channels]) & np.isfinite(values)
        return self._grown(_by_channel(values[above], channels[above], len(self.floor)), count)

    def update_all(self, values: np.ndarray) -> TopValues:
        """The same with more values, all there are: float32 (n, channels)."""
        grown, rows = self, max(self._kept, _FEWEST_ROWS)  # at a time: the floor of some spares the next
        for first in range(0, len(values), rows):
            grown = grown._with_rows(values[first : first + rows])
        return grown

    def _with_rows(self, values: np.ndarray) -> TopValues:
        if (self.floor == LEAST).all():
            return self._grown(np.where(np.isfinite(values), values, LEAST).T, len(values))
        above = np.flatnonzero(values > self.floor)
        return self.update(values.reshape(-1)[above], above % values.shape[1], len(values))

    def _grown(self, values: np.ndarray, count: int) -> TopValues:
        grown = replace(self, count=self.count + count, waiting=(*self.waiting, values))
        return grown.merged() if sum(waiting.shape[1] for waiting in grown.waiting) > self._kept else grown

    def merged(self) -> TopValues:
        """The same with nothing waiting."""
        together = np.concatenate([self.values, *self.waiting], axis=1)
        if together.shape[1] <= self._kept:
            return replace(self, values=together, waiting=())
        together = np.partition(together, together.shape[1] - self._kept, axis=1)[:, -self._kept :]
        return replace(self, values=together.copy(), floor=together[:, 0].copy(), waiting=())

    @property
    def _kept(self) -> int:
        return self.most - int((self.most - 1) * QUANTILE)

    def quantile(self) -> np.ndarray:
        """The QUANTILE of all values, linear between the two nearest, as NumPy has it: float32 (channels,)."""
        position = (self.count - 1) * QUANTILE
        above = self.count - 1 - int(position)
        values = self.merged().values
        missing = np.full((len(values), max(above + 1 - values.shape[1], 0)), LEAST)
        falling = -np.sort(-np.concatenate([values, missing], axis=1), axis=1)
        low, high = falling[:, above].astype(np.float64), falling[:, max(above - 1, 0)]
        return (low + (high - low) * (position % 1)).astype(np.float32)


def _by_channel(values: np.ndarray, channels: np.ndarray, count: int) -> np.ndarray:
    """The values of each channel side by side: (n,) to (channels, the most of a channel), filled up with the least."""
    narrow = channels.astype(np.uint16) if count <= 2**16 else channels  # for 16 bits NumPy has a sort of linear time
    order = np.argsort(narrow, kind="stable")
    counts = np.bincount(channels, minlength=count)
    places = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    packed = np.full((count, counts.max(initial=0)), LEAST)
    packed[channels[order], places] = values[order]
    return packed
