"""Map cells: the squares between four neighbouring units, of which a few reach a threshold, and what lies within them.

A map that is interpolated to a grid is at no point above the largest of the four units around it. So of all maps only the
cells that have a corner above a floor leave the device, and only they are interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


def cells_above(maps: tf.Tensor, floor: tf.Tensor, clamp: tf.Tensor | None = None) -> tuple[tf.Tensor, ...]:
    """The cells of maps with a corner above their channel's floor.

    Args:
        maps: float32 (images, h, w, channels). floor: float32 (channels,).
        clamp: a lower clamp of the maps that is not in them yet, a scalar; no floor is below it but the least number there is.

    Returns: int64 (n,), the numbers of the cells' first corners among all units of the maps; and float32 (n,) each, the values
        there, to its right, below it, and below to the right. At the last row and column of a map, the unit itself stands for
        those beyond.
    """
    import tensorflow as tf

    _, height, width, channels = maps.shape
    above = maps > floor
    for axis in (1, 2):  # in bool, which is a quarter of the maps, and in which NaN does not spread
        above |= tf.gather(above, np.minimum(np.arange(maps.shape[axis]) + 1, maps.shape[axis] - 1), axis=axis)
    first = tf.where(tf.reshape(above, [-1]))[:, 0]
    unit = first // channels
    right = tf.where(unit % width < width - 1, np.int64(channels), np.int64(0))
    below = tf.where(unit // width % height < height - 1, np.int64(width * channels), np.int64(0))
    values = tf.reshape(maps, [-1])
    corners = [tf.gather(values, first + step) for step in (0, right, below, right + below)]
    return first, *(corners if clamp is None else [tf.maximum(corner, clamp) for corner in corners])


@dataclass(frozen=True, eq=False)
class Side:
    """How one side of a map lies on the grid: for each unit, the grid points between it and the next.

    counts, starts: int64 (units,): how many they are, and the first of them.
    weights: float32 (grid points,): how near each is to the next unit: 0 at its own, always below 1.
    """

    counts: np.ndarray
    starts: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray) -> Side:
        """The same as a matrix that interpolates, float32 (grid points, units), as `pipeline.geometry.interpolation` gives it."""
        points, units = matrix.shape
        first = (matrix > 0).argmax(axis=1)
        starts, ends = (np.searchsorted(first, np.arange(units), side) for side in ("left", "right"))
        following = matrix[np.arange(points), np.minimum(first + 1, units - 1)]
        return cls(ends - starts, starts, np.where(first + 1 < units, following, 0).astype(np.float32))

    def spread(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The grid points after each of n units: int64 (m,) twice, which of the n each is after, and its number."""
        counts = self.counts[units]
        owners = np.repeat(np.arange(len(units)), counts)
        return owners, np.arange(len(owners)) + np.repeat(self.starts[units] - (np.cumsum(counts) - counts), counts)


@dataclass(frozen=True, eq=False)
class MapCells:
    """Cells of one layer's maps of some images.

    shape: (height, width, channels) of the maps. first: int (n,); corners: float32 (4, n): see `cells_above`.
    """

    shape: tuple[int, int, int]
    first: np.ndarray
    corners: np.ndarray

    @property
    def nbytes(self) -> int:
        """The bytes of the arrays."""
        return self.first.nbytes + self.corners.nbytes

    @property
    def channels(self) -> np.ndarray:
        """The channel of each cell: int (n,)."""
        return self.first - self.first // self.shape[2] * self.shape[2]

    def reaching(self, thresholds: np.ndarray) -> MapCells:
        """Those that have a corner above their channel's threshold; thresholds: float32 (channels,)."""
        return self._where(self.corners.max(axis=0) > thresholds[self.channels])

    def on(self, sides: tuple[Side, Side]) -> MapCells:
        """Those that have a point of the grid in them."""
        if all(side.counts.all() for side in sides):
            return self
        rows, cols = self._positions()
        return self._where((sides[0].counts[rows] > 0) & (sides[1].counts[cols] > 0))

    def points(self, sides: tuple[Side, Side], thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The points of the grid where the maps are above their channels' thresholds: int (m,), image, grid point and channel.

        Along each axis, values are interpolated as a + (b - a) * weight: between equal values nothing is above them.
        """
        cells = self.reaching(thresholds)
        (rows, cols), channels = cells._positions(), cells.channels
        images, limits = cells.first // int(np.prod(self.shape)), thresholds[channels]
        owners, across = sides[1].spread(cols)
        weights = sides[1].weights[across]
        with np.errstate(invalid="ignore", over="ignore"):  # of infinite corners
            upper, lower = (
                (left + (right - left) * weights)
                for left, right in ((cells.corners[at][owners], cells.corners[at + 1][owners]) for at in (0, 2))
            )
            reach = np.maximum(upper, lower) > limits[owners]
            owners, across, upper, lower = owners[reach], across[reach], upper[reach], lower[reach]
            lines, down = sides[0].spread(rows[owners])
            upper, lower = upper[lines], lower[lines]
            above = upper + (lower - upper) * sides[0].weights[down] > limits[owners[lines]]
        lines, down = lines[above], down[above]
        owners = owners[lines]
        return images[owners], down * len(sides[1].weights) + across[lines], channels[owners]

    def _positions(self) -> tuple[np.ndarray, np.ndarray]:
        """The row and the column of each cell."""
        height, width, channels = self.shape
        lines = self.first // channels // width
        return lines - lines // height * height, self.first // channels - lines * width

    def _where(self, mask: np.ndarray) -> MapCells:
        return MapCells(self.shape, self.first[mask], self.corners[:, mask])
