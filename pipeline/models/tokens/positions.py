"""Positions: where on the image the numbers of a tensor lie, as an array of the tensor's own axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

NOWHERE, EXTRA = 0, -1  # a padded number; a token that is put beside those of the image, such as the class token


@dataclass(frozen=True, eq=False)
class Positions:
    """Where the numbers of a tensor lie.

    ids: int64, of as many axes as the tensor, of length 1 along those that do not matter. 1 + (image * rows + row) * columns
        + column for a number that lies on the image; NOWHERE or EXTRA for any other.
    grid: rows and columns that the image is divided into; (1, 1) for numbers of the whole image.
    root: the operation by which the image was so divided.
    keys: of attention, the positions of what is looked at, along the last axis; `ids` are of those that look.
    heads: of what attention gives, the axis of the heads, and the operation that gave it.
    lost: why nothing is known: "mixed", where numbers of all positions were weighed by place, or "unknown"; else "".
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
        """Whether the tensor has numbers of single positions of the image."""
        return self.area > 1 and not self.lost and bool((self.ids > 0).any())

    def without(self, axis: int, kept: bool = False) -> Positions:
        """The positions of what is weighed up along an axis: those of a coarser grid, down to the whole image.

        Args:
            kept: whether the axis stays, with the length 1.
        """
        whole = self if self.ids.shape[axis] == 1 else self._coarser(axis)
        keys = None if self.keys is None or self.keys.ids.shape[axis] > 1 else self.keys.without(axis, kept)
        return replace(whole, ids=whole.ids if kept else whole.ids.squeeze(axis), keys=keys, heads=None)

    def along(self, change: Callable[[np.ndarray], np.ndarray]) -> Positions:
        """The same positions of a tensor whose axes are changed, which has no axis of heads that is known."""
        return replace(self, ids=change(self.ids), keys=None if self.keys is None else self.keys.along(change), heads=None)

    def _coarser(self, axis: int) -> Positions:
        """The finest coarser grid in which all numbers along an axis lie at one position."""
        rows, columns = self.grid
        placed = self.ids > 0
        image, row, column = np.unravel_index(np.where(placed, self.ids - 1, 0), (self._images, rows, columns))
        fold, count = [], []
        for coordinate, size in ((row, rows), (column, columns)):
            low = np.where(placed, coordinate, size).min(axis=axis, keepdims=True)
            high = np.where(placed, coordinate, -1).max(axis=axis, keepdims=True)
            least = max(1, int((high - low).max()) + 1)
            factor = next(n for n in range(least, size + 1) if n == size or (low // n == high // n)[high >= 0].all())
            fold.append(factor)
            count.append(-(-size // factor))
        coarse = 1 + (image * count[0] + row // fold[0]) * count[1] + column // fold[1]
        ids = np.where(placed, coarse, NOWHERE).max(axis=axis, keepdims=True)
        extra = (self.ids == EXTRA).all(axis=axis, keepdims=True)
        return replace(self, ids=compressed(np.where(extra, EXTRA, ids)), grid=(count[0], count[1]))

    @property
    def _images(self) -> int:
        return max(1, -(-int(self.ids.max()) // self.area))


def of_maps(shape: tuple[int, ...], spatial: tuple[int, int], root: str) -> Positions:
    """The positions of maps of a shape, the images along the first axis.

    Args:
        spatial: the axes of height and width.
    """
    rows, columns = (shape[axis] for axis in spatial)
    sizes = [1] * len(shape)
    sizes[0], sizes[spatial[0]], sizes[spatial[1]] = shape[0], rows, columns
    return Positions(1 + np.arange(shape[0] * rows * columns, dtype=np.int64).reshape(sizes), (rows, columns), root)


def lost_at(rank: int, root: str, why: str) -> Positions:
    """A tensor that depends on the image, of whose positions nothing is known."""
    return Positions(np.ones([1] * rank, np.int64), (1, 1), root, lost=why)


def compressed(ids: np.ndarray) -> np.ndarray:
    """Positions with the axes along which nothing changes shortened to 1."""
    for axis, size in enumerate(ids.shape):
        if size > 1:
            first = ids.take([0], axis)
            if (ids == first).all():
                ids = first
    return ids


def combined(positions: list[Positions], rank: int) -> Positions:
    """The positions of tensors that are broadcast against each other: those of the finest grid among them."""
    order = sorted(positions, key=lambda known: (bool(known.lost), -known.area, -known.ids.size))
    finest = order[0]
    keyed = [known for known in positions if known.keys is not None]
    if keyed and not finest.lost:
        finest = next((known for known in order if known.keys is not None), finest)
    if finest.on_image and finest.keys is None:
        for other in order[1:]:
            if other.grid == finest.grid and not other.lost and other.keys is None:
                finest = _filled(finest, other)
    return finest.along(lambda ids: _ranked(ids, rank))


def _filled(first: Positions, second: Positions) -> Positions:
    """Positions of one tensor, and where it says nothing those of another."""
    rank = max(first.ids.ndim, second.ids.ndim)
    ids, more = _ranked(first.ids, rank), _ranked(second.ids, rank)
    return replace(first, ids=np.where(ids > 0, ids, more))


def _ranked(ids: np.ndarray, rank: int) -> np.ndarray:
    return ids.reshape((1,) * (rank - ids.ndim) + ids.shape)


def is_map_like(positions: Positions, images: int, spatial: tuple[int, int]) -> bool:
    """Whether rows of the image follow one axis and columns the other, but for what pads them."""
    ids = positions.ids
    if ids.ndim != 4 or any(size > 1 for axis, size in enumerate(ids.shape) if axis not in (0, *spatial)):
        return False
    if ids.shape[0] not in (1, images):
        return False
    columns = positions.grid[1]
    plane = ids[0].max(axis=({1, 2, 3} - set(spatial)).pop() - 1)
    placed = plane > 0
    row, column = np.divmod(np.where(placed, plane - 1, 0) % positions.area, columns)
    return all(_is_even(np.where(placed, value, -1), axis) for value, axis in ((row, 1), (column, 0)))


def _is_even(values: np.ndarray, axis: int) -> bool:
    """Whether all numbers from zero up along an axis are one."""
    low = np.where(values < 0, np.iinfo(np.int64).max, values).min(axis=axis)
    high = values.max(axis=axis)
    return bool(((low == high) | (high < 0)).all())
