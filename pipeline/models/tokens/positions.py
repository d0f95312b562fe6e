"""Positions: which part of the image each number of a tensor belongs to, as an array with the tensor's axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

PADDING, EXTRA = 0, -1  # ids of numbers that pad a tensor, and of tokens added to those of the image, such as the class token


@dataclass(frozen=True, eq=False)
class Positions:
    """The position of every number of a tensor.

    ids: int64, with as many axes as the tensor; an axis along which the position does not change has length 1. A number of a cell
        of the grid has the id 1 + (image * rows + row) * columns + column; any other is PADDING or EXTRA.
    grid: the rows and columns that the image is divided into; (1, 1) for numbers of the whole image.
    root: the name of the operation that divided the image into this grid.
    keys: in attention, the positions of the keys, along the last axis; `ids` are then those of the queries. Elsewhere None.
    heads: in the output of attention, the axis of the heads and the name of the operation that computed it. Elsewhere None.
    lost: "mixed", if each number is a sum over positions with weights for each; "unknown", if nothing is known; else "".
    """

    ids: np.ndarray
    grid: tuple[int, int]
    root: str
    keys: Positions | None = None
    heads: tuple[int, str] | None = None
    lost: str = ""

    @property
    def area(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which the positions differ."""
        return tuple(axis for axis, size in enumerate(self.ids.shape) if size > 1)

    @property
    def on_image(self) -> bool:
        """Whether any number of the tensor belongs to a single cell of a grid."""
        return self.area > 1 and not self.lost and bool((self.ids > 0).any())

    def without(self, axis: int, kept: bool = False) -> Positions:
        """The positions after a sum or mean along an axis: on a coarser grid, which may be the whole image.

        Args:
            axis: the axis that is summed.
            kept: whether it stays, with length 1.
        """
        whole = self if self.ids.shape[axis] == 1 else self._coarser(axis)
        keys = None if self.keys is None or self.keys.ids.shape[axis] > 1 else self.keys.without(axis, kept)
        return replace(whole, ids=whole.ids if kept else whole.ids.squeeze(axis), keys=keys, heads=None)

    def along(self, change: Callable[[np.ndarray], np.ndarray]) -> Positions:
        """These positions with their axes changed by `change`. The axis of the heads is forgotten."""
        return replace(self, ids=change(self.ids), keys=None if self.keys is None else self.keys.along(change), heads=None)

    def _coarser(self, axis: int) -> Positions:
        """The finest grid in which all numbers along an axis belong to the same cell."""
        rows, columns = self.grid
        in_grid = self.ids > 0
        image, row, column = np.unravel_index(np.where(in_grid, self.ids - 1, 0), (self._images, rows, columns))
        fold, count = [], []
        for coordinate, size in ((row, rows), (column, columns)):
            low = np.where(in_grid, coordinate, size).min(axis=axis, keepdims=True)
            high = np.where(in_grid, coordinate, -1).max(axis=axis, keepdims=True)
            least = max(1, int((high - low).max()) + 1)
            factor = next(n for n in range(least, size + 1) if n == size or (low // n == high // n)[high >= 0].all())
            fold.append(factor)
            count.append(-(-size // factor))
        coarse = 1 + (image * count[0] + row // fold[0]) * count[1] + column // fold[1]
        ids = np.where(in_grid, coarse, PADDING).max(axis=axis, keepdims=True)
        extra = (self.ids == EXTRA).all(axis=axis, keepdims=True)
        return replace(self, ids=compressed(np.where(extra, EXTRA, ids)), grid=(count[0], count[1]))

    @property
    def _images(self) -> int:
        return max(1, -(-int(self.ids.max()) // self.area))


def of_maps(shape: tuple[int, ...], spatial: tuple[int, int], root: str) -> Positions:
    """The positions of maps, a cell for each row and column.

    Args:
        shape: of the tensor, with the images along the first axis.
        spatial: the axes of height and width.
        root: the operation that made the maps.
    """
    rows, columns = (shape[axis] for axis in spatial)
    sizes = [1] * len(shape)
    sizes[0], sizes[spatial[0]], sizes[spatial[1]] = shape[0], rows, columns
    return Positions(1 + np.arange(shape[0] * rows * columns, dtype=np.int64).reshape(sizes), (rows, columns), root)


def lost_at(rank: int, root: str, why: str) -> Positions:
    """The positions of a tensor that depends on the image without belonging to parts of it, as far as is known."""
    return Positions(np.ones([1] * rank, np.int64), (1, 1), root, lost=why)


def compressed(ids: np.ndarray) -> np.ndarray:
    """Ids with each axis along which they do not change shortened to length 1."""
    for axis, size in enumerate(ids.shape):
        if size > 1:
            first = ids.take([0], axis)
            if (ids == first).all():
                ids = first
    return ids


def combined(positions: list[Positions], rank: int) -> Positions:
    """The positions of tensors that are broadcast against each other, such as in a sum: those of the finest grid among them.

    Attention keeps its keys. Cells that the finest leaves out, such as padding, come from others of the same grid.
    """
    by_fineness = sorted(positions, key=lambda known: (bool(known.lost), -known.area, -known.ids.size))
    finest = by_fineness[0]
    keyed = [known for known in positions if known.keys is not None]
    if keyed and not finest.lost:
        finest = next((known for known in by_fineness if known.keys is not None), finest)
    if finest.on_image and finest.keys is None:
        for other in by_fineness[1:]:
            if other.grid == finest.grid and not other.lost and other.keys is None:
                finest = _filled(finest, other)
    return finest.along(lambda ids: _ranked(ids, rank))


def _filled(first: Positions, second: Positions) -> Positions:
    """The first positions, with those of the second where the first have none."""
    rank = max(first.ids.ndim, second.ids.ndim)
    ids, more = _ranked(first.ids, rank), _ranked(second.ids, rank)
    return replace(first, ids=np.where(ids > 0, ids, more))


def _ranked(ids: np.ndarray, rank: int) -> np.ndarray:
    """Ids with axes of length 1 put before them, up to a rank."""
    return ids.reshape((1,) * (rank - ids.ndim) + ids.shape)


def is_map_like(positions: Positions, images: int, spatial: tuple[int, int]) -> bool:
    """Whether the image's rows lie along one spatial axis and its columns along the other, apart from padding."""
    ids = positions.ids
    if ids.ndim != 4 or any(size > 1 for axis, size in enumerate(ids.shape) if axis not in (0, *spatial)):
        return False
    if ids.shape[0] not in (1, images):
        return False
    columns = positions.grid[1]
    plane = ids[0].max(axis=({1, 2, 3} - set(spatial)).pop() - 1)
    in_grid = plane > 0
    row, column = np.divmod(np.where(in_grid, plane - 1, 0) % positions.area, columns)
    return all(_is_constant(np.where(in_grid, value, -1), axis) for value, axis in ((row, 1), (column, 0)))


def _is_constant(values: np.ndarray, axis: int) -> bool:
    """Whether all values along an axis are equal, apart from negative ones, which mark padding."""
    low = np.where(values < 0, np.iinfo(np.int64).max, values).min(axis=axis)
    high = values.max(axis=axis)
    return bool(((low == high) | (high < 0)).all())
