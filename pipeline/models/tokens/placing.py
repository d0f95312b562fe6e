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
    """Where the rows of a tensor go.

    order: the axes that are positions, behind the batch, and then those that are channels.
    rows: positions of one image in the tensor. channels: numbers of each.
    chosen: of the rows, those of the map in reading order.
    shape: (rows, columns, channels) of the map.
    """

    order: tuple[int, ...]
    rows: int
    channels: int
    chosen: np.ndarray
    shape: tuple[int, int, int]

    def __call__(self, tensor: tf.Tensor) -> tf.Tensor:
        """(batch, …) in the network's own order, several rows of it perhaps for an image -> (batch, rows, columns, channels)."""
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
class Placed:
    """A tensor's tokens on the image, and those beside it; or why there is no map."""

    tokens: Placement | None = None
    extra: Placement | None = None
    problem: str = ""


def placed(positions: Positions, shape: Sequence[int], images: int) -> Placed:
    """Where the tokens of a tensor lie.

    Args:
        shape: of the tensor. images: those in it.
    """
    if shape[0] % images:
        return Placed(problem=f"gives {shape[0]} rows for {images} images")
    if positions.lost == "unknown":
        return Placed(problem="where they lie cannot be followed: say it in model.tokens")
    if positions.lost or (not positions.on_image and not (positions.ids == EXTRA).any()):
        return Placed(problem="no row of it is of a single place of the image")
    if positions.ids.shape[-1] > 1 and len(positions.axes) == len(shape):
        pixels, positions = positions, positions.without(-1 % len(shape), kept=True)
        if pixels.grid == tuple(shape[1:]) and 1 in positions.grid:
            return Placed(problem="a plane of single numbers, no tokens of several")
    beside_alone = not positions.on_image and len(shape) == 3
    axes = [1] if beside_alone else [axis for axis in positions.axes if axis]
    others = [axis for axis in range(1, len(shape)) if axis not in axes]
    if not others:
        return Placed(problem="no axis of it is of channels")
    windows = shape[0] // images
    sizes = [shape[axis] if axis in (0, *axes) else 1 for axis in range(len(shape))]
    ids = np.broadcast_to(positions.ids, sizes)
    by_image = ids.reshape(images, -1)
    shift = np.arange(images)[:, np.newaxis] * positions.area
    if not (np.where(by_image > 0, by_image - shift, by_image) == by_image[:1]).all():
        return Placed(problem="its first axis is not of images")
    rows = windows * prod(shape[axis] for axis in axes)
    channels = prod(shape[axis] for axis in others)
    order = (*axes, *others)
    extra = np.flatnonzero(by_image[0] == EXTRA)
    beside = Placement(order, rows, channels, extra, (1, len(extra), channels)) if len(extra) else None
    lying = by_image[0][by_image[0] > 0] - 1
    if not len(lying):
        return Placed(extra=beside)
    if len(set(lying.tolist())) < len(lying):
        return Placed(problem="several of its tokens lie at one place")
    grid = _thinned(lying, positions.grid)
    if grid is None:
        return Placed(
            problem=f"its {len(lying)} tokens are not all of the {positions.grid[0]} x {positions.grid[1]} of the image"
        )
    chosen = np.flatnonzero(by_image[0] > 0)[np.argsort(lying)]
    return Placed(Placement(order, rows, channels, chosen, (*grid, channels)), beside)


def _thinned(lying: np.ndarray, grid: tuple[int, int]) -> tuple[int, int] | None:
    """The grid of some positions: the whole one, or that of every n-th row and m-th column; None for any others."""
    sizes = []
    taken = np.divmod(lying, grid[1])
    for along, whole in zip(taken, grid, strict=True):
        lines = np.unique(along)
        step = int(lines[1] - lines[0]) if len(lines) > 1 else whole
        if lines[0] >= step or lines[-1] + step < whole or (np.diff(lines) != step).any():
            return None
        sizes.append(len(lines))
    return (sizes[0], sizes[1]) if sizes[0] * sizes[1] == len(lying) else None
