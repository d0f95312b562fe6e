"""Placement: how a tensor of tokens becomes maps (batch, rows, columns, channels), by operations that only move numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import tensorflow as tf

from pipeline.models.tokens.positions import EXTRA, Positions


@dataclass(frozen=True, eq=False)
class Placement:
    """How the tokens of a tensor become a map.

    order: the tensor's axes behind the batch: first those along which the tokens lie, then those of the channels.
    rows: tokens of an image in the tensor. channels: numbers of a token.
    chosen: the indices of the tokens that are on the map, in reading order.
    shape: (rows, columns, channels) of the map.
    """

    order: tuple[int, ...]
    rows: int
    channels: int
    chosen: np.ndarray
    shape: tuple[int, int, int]

    def __call__(self, tensor: tf.Tensor) -> tf.Tensor:
        """(batch, …) as the network computes it -> (batch, rows, columns, channels); windows may multiply the first axis."""
        if self.order != tuple(range(1, len(self.order) + 1)):
            tensor = tf.transpose(tensor, (0, *self.order))
        tensor = tf.reshape(tensor, (-1, self.rows, self.channels))
        first = int(self.chosen[0])
        if len(self.chosen) == self.rows and (np.diff(self.chosen) == 1).all():
            pass
        elif (np.diff(self.chosen) == 1).all():
            tensor = tf.slice(tensor, (0, first, 0), (-1, len(self.chosen), -1))
        else:
            tensor = tf.gather(tensor, self.chosen, axis=1)
        return tf.reshape(tensor, (-1, *self.shape))


@dataclass(frozen=True)
class Placements:
    """The placements of a tensor's tokens of the image, and of its extra tokens; or the problem, if it has no map."""

    tokens: Placement | None = None
    extra: Placement | None = None
    problem: str = ""


def placements(positions: Positions, shape: Sequence[int], images: int) -> Placements:
    """The placements of a tensor's tokens.

    Args:
        positions: of its numbers.
        shape: of the tensor.
        images: how many it holds.
    """
    if shape[0] % images:
        return Placements(problem=f"gives {shape[0]} rows for {images} images")
    if positions.lost == "unknown":
        return Placements(problem="where they lie on the image cannot be followed: say it in model.tokens")
    if positions.lost or (not positions.on_image and not (positions.ids == EXTRA).any()):
        return Placements(problem="none of its rows belongs to a single part of the image")
    if positions.ids.shape[-1] > 1 and len(positions.axes) == len(shape):
        pixels, positions = positions, positions.without(-1 % len(shape), kept=True)
        if pixels.grid == tuple(shape[1:]) and 1 in positions.grid:
            return Placements(problem="one number for each position, and no axis of channels")
    extra_alone = not positions.on_image and len(shape) == 3
    axes = [1] if extra_alone else [axis for axis in positions.axes if axis]
    channel_axes = [axis for axis in range(1, len(shape)) if axis not in axes]
    if not channel_axes:
        return Placements(problem="it has no axis of channels")
    windows = shape[0] // images  # of each image, along the first axis
    sizes = [shape[axis] if axis in (0, *axes) else 1 for axis in range(len(shape))]
    ids = np.broadcast_to(positions.ids, sizes)
    by_image = ids.reshape(images, -1)
    offset = np.arange(images)[:, np.newaxis] * positions.area
    first = by_image[0]
    if not (np.where(by_image > 0, by_image - offset, by_image) == first).all():
        return Placements(problem="its first axis does not hold the images")
    rows = windows * prod(shape[axis] for axis in axes)
    channels = prod(shape[axis] for axis in channel_axes)
    order = (*axes, *channel_axes)
    extra = np.flatnonzero(first == EXTRA)
    of_extra = Placement(order, rows, channels, extra, (1, len(extra), channels)) if len(extra) else None
    cells = first[first > 0] - 1
    if not len(cells):
        return Placements(extra=of_extra)
    if len(set(cells.tolist())) < len(cells):
        return Placements(problem="several of its tokens belong to the same part of the image")
    grid = _thinned(cells, positions.grid)
    if grid is None:
        return Placements(
            problem=f"its {len(cells)} tokens are only some of the {positions.grid[0]} x {positions.grid[1]} parts of the image"
        )
    chosen = np.flatnonzero(first > 0)[np.argsort(cells)]
    return Placements(Placement(order, rows, channels, chosen, (*grid, channels)), of_extra)


def _thinned(cells: np.ndarray, grid: tuple[int, int]) -> tuple[int, int] | None:
    """The grid of some cells: the whole grid, or every n-th row and m-th column of it; None for any other choice of cells."""
    sizes = []
    for coordinates, size in zip(np.divmod(cells, grid[1]), grid, strict=True):
        lines = np.unique(coordinates)
        step = int(lines[1] - lines[0]) if len(lines) > 1 else size
        if lines[0] >= step or lines[-1] + step < size or (np.diff(lines) != step).any():
            return None
        sizes.append(len(lines))
    return (sizes[0], sizes[1]) if sizes[0] * sizes[1] == len(cells) else None
