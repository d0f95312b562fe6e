"""Tiles: the ascent of one picture of any size, of which the network sees one tile at a time, in one compiled function.

The picture is continued beyond its edges by itself, as on a torus. A grid of cells, shifted at random before each step,
covers it once. Each cell is the centre of a tile of the network's input size, and takes its part of that tile's gradient;
the rest of the tile is context. So the network needs memory for one batch of tiles, however large the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from pipeline.ascent.objectives import Arguments, Form, Objective, evaluate, layers_of, stack
from pipeline.ascent.optimizer import (
    MAX_FAILURES,
    AscentConfig,
    Gradient,
    State,
    iterate,
    microbatches,
    slice_batch,
    unreachable,
    updated,
)
from pipeline.ascent.regularizers import bilateral, laplacian_normalised
from pipeline.compiled.freezing import Pass, freeze
from pipeline.compiled.gradients import gradient_of
from pipeline.models.network import Network


@dataclass(frozen=True)
class TileConfig:
    """How a picture is optimised by tiles.

    rate: root mean square of a step, where the range of a colour is 1.
    shift: the largest shift of the grid, as a share of a tile's side.
    levels: of the Laplacian pyramid that normalises gradients; 0: none.
    sigma: the largest sigma of the bilateral filter after each step; 0: no filter.
    seed: of the shifts.
    """

    rate: float = 0.01
    shift: float = 1.0
    levels: int = 0
    sigma: float = 0.0
    seed: int = 0


class Segment(NamedTuple):
    """The steps of one octave.

    first: the number of the first step. steps: how many. start_sigma, end_sigma: of the filter, from first to last step.
    max_loss: above this value of the objective, the picture does not change.
    """

    first: int
    steps: int
    start_sigma: float = 0.0
    end_sigma: float = 0.0
    max_loss: float = float("inf")


@dataclass(frozen=True)
class TiledAscent:
    """A compiled ascent by tiles: of one network, of objectives of one form, for pictures of any size."""

    batch: int
    compiled: Pass

    @classmethod
    def compile(cls, network: Network, objective: Objective, config: TileConfig, batch: int) -> TiledAscent:
        """Trace and freeze; nothing runs yet.

        Args:
            objective: `run` accepts any other of the same form.
            batch: tiles that go through the network at once.

        Raises: UnusableModel, naming the layers that no gradient reaches.
        """
        inputs = (start(np.zeros((1, 1, 3), np.float32)), stack([objective] * batch), Segment(0, 1), np.int32(0))
        specs = [_spec(value) for value in tf.nest.flatten(inputs)]
        form, of_step = objective.form, AscentConfig("sgd", config.rate)

        def steps(*tensors: tf.Tensor) -> tuple[State, tf.Tensor]:
            begin, arguments, segment, count = tf.nest.pack_sequence_as(inputs, list(tensors))

            def step(states: tuple[State, ...]) -> tuple[tuple[State, ...], tf.Tensor, tf.Tensor]:
                (state,) = states
                gradient = _gradient(network, form, config, state, arguments)
                # A number, because TensorFlow's optimiser turns "not above" into "at most", which differs for NaN.
                above = tf.cast(gradient.values[0] > segment.max_loss, tf.int32)
                unmoved = state._replace(step=state.step + 1)
                after = tf.cond(above == 1, lambda: unmoved, lambda: updated(state, gradient, of_step))
                share = tf.cast(state.step - segment.first, tf.float32) / tf.cast(segment.steps, tf.float32)
                sigma = segment.start_sigma + (segment.end_sigma - segment.start_sigma) * share
                values = bilateral(tf.clip_by_value(after.values, 0.0, 1.0), sigma, config.sigma)
                ends = above + tf.cast(after.failures[0] >= MAX_FAILURES, tf.int32)
                return (after._replace(values=values),), gradient.values, ends

            (state,), curve = iterate((begin,), count, step)
            return state, curve

        return cls(batch, freeze(steps, *specs))

    def run(self, state: State, objective: Objective, segment: Segment, steps: int) -> tuple[State, np.ndarray]:
        """Make steps, without copying anything to the host between them.

        Returns: the new state, and the objective before each step that was made, the mean over tiles: float32 (steps, 1).
            There are fewer if the last objective is above `segment.max_loss`, or if NaN stopped the picture.
        """
        arguments = tf.nest.flatten(stack([objective] * self.batch))
        state, losses = self.compiled(*state, *arguments, *segment, steps)
        return state, losses.numpy()


def compile_tiled_measure(network: Network, objective: Objective, batch: int) -> Callable[[np.ndarray, Objective], float]:
    """Compile the mean over tiles: a picture, uint8 (height, width, 3), and an objective of this form -> its value."""
    arguments = stack([objective] * batch)
    specs = [tf.TensorSpec((1, None, None, 3), tf.float32), *map(_spec, tf.nest.flatten(arguments))]

    def trace(picture: tf.Tensor, *tensors: tf.Tensor) -> tf.Tensor:
        tensors_of_call = tf.nest.pack_sequence_as(arguments, list(tensors))
        grid = Grid.over(picture, network, tf.zeros(2, tf.int32))

        def step(number: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            cells, counts = grid.next_cells(number, batch)
            values = evaluate(objective.form, _trace(network, objective.form, grid.tiles(picture, cells)), tensors_of_call)
            return number + batch, total + _sum(values, counts)

        _, total = tf.while_loop(lambda number, _: number < grid.count, step, (0, tf.zeros(())), parallel_iterations=1)
        return total / tf.cast(grid.count, tf.float32)

    run = freeze(trace, *specs)

    def measure(picture: np.ndarray, objective: Objective) -> float:
        pixels = tf.constant(picture[np.newaxis], tf.float32) / 255
        return float(run(pixels, *tf.nest.flatten(stack([objective] * batch))))

    return measure


def start(picture: np.ndarray) -> State:
    """The state of a picture, float32 (height, width, 3) from 0 to 1, before its first step."""
    values = tf.constant(picture[np.newaxis], tf.float32)
    # Steps of constant length have no moments; their tensors are as small as possible.
    moments, none = tf.zeros((1, 1, 1, 1)), tf.zeros(1, tf.int32)
    return State(tf.zeros((), tf.int32), values, values, moments, moments, tf.ones(1), none, none)


def _spec(value: Any) -> tf.TensorSpec:
    value = tf.convert_to_tensor(value)
    return tf.TensorSpec((1, None, None, 3) if value.shape.rank == 4 and value.shape[-1] == 3 else value.shape, value.dtype)


def _gradient(network: Network, form: Form, config: TileConfig, state: State, arguments: Arguments) -> Gradient:
    """The objective's mean over the tiles of a picture, and its gradient, assembled from the cells."""
    batch = arguments.weights.shape[0]
    height, width, _ = network.input_shape
    picture = state.values
    chance = tf.random.stateless_uniform((2,), tf.stack([tf.constant(config.seed, tf.int32), state.step]))
    grid = Grid.over(picture, network, tf.cast(chance * config.shift * tf.constant([height, width], tf.float32), tf.int32))

    def step(number: tf.Tensor, total: tf.Tensor, cells: tf.TensorArray) -> tuple[tf.Tensor, tf.Tensor, tf.TensorArray]:
        numbers, counts = grid.next_cells(number, batch)
        tiles = grid.tiles(picture, numbers)
        parts = [_tile_gradient(network, form, tiles[part], slice_batch(arguments, part)) for part in microbatches(batch)]
        values, gradients = (tf.concat(halves, axis=0) for halves in zip(*parts, strict=True))
        return number + batch, total + _sum(values, counts), cells.write(number // batch, grid.centres(gradients))

    cells = tf.TensorArray(tf.float32, size=-(-grid.count // batch), element_shape=(batch, None, None, 3))
    looped = tf.while_loop(lambda number, *_: number < grid.count, step, (0, tf.zeros(()), cells), parallel_iterations=1)
    gradient = grid.joined(looped[2].concat())
    value = looped[1] / tf.cast(grid.count, tf.float32)
    inactive = tf.reduce_all(tf.equal(gradient, 0.0), axis=[1, 2, 3])
    return Gradient(value[tf.newaxis], inactive, laplacian_normalised(gradient, config.levels))


def _tile_gradient(network: Network, form: Form, tiles: tf.Tensor, arguments: Arguments) -> tuple[tf.Tensor, tf.Tensor]:
    """The objective's value for each tile, (batch,), and its gradient, as large as the tiles."""
    values = evaluate(form, _trace(network, form, tiles), arguments)
    gradient = gradient_of(values, tiles)
    if gradient is None:
        raise unreachable(layers_of(form), network)
    return values, gradient


class Grid(NamedTuple):
    """The cells of a picture, all of one size: int32 tensors, and the size of a tile.

    size: (height, width) of the picture. cells: (rows, columns) of cells. cell: (height, width) of one.
    shift: (y, x) of the first.
    """

    size: tf.Tensor
    cells: tf.Tensor
    cell: tf.Tensor
    shift: tf.Tensor
    tile: tuple[int, int]

    @classmethod
    def over(cls, picture: tf.Tensor, network: Network, shift: tf.Tensor) -> Grid:
        """The fewest cells that cover a picture, none larger than the network's input."""
        tile = network.input_shape[:2]
        size = tf.shape(picture)[1:3]
        cells = -(-size // tf.constant(tile))
        return cls(size, cells, -(-size // cells), shift, tile)

    @property
    def count(self) -> tf.Tensor:
        """The number of cells: int32 ()."""
        return self.cells[0] * self.cells[1]

    def next_cells(self, first: tf.Tensor, batch: int) -> tuple[tf.Tensor, tf.Tensor]:
        """The numbers of the next cells, the last one repeated to fill a batch, and which count: int32 and bool (batch,)."""
        numbers = first + tf.range(batch)
        return tf.minimum(numbers, self.count - 1), numbers < self.count

    def tiles(self, picture: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        """(1, h, w, 3) -> the tiles around some cells: (batch, tile height, tile width, 3)."""
        tiles = []
        for number in tf.unstack(numbers):
            row_and_column = tf.stack([number // self.cells[1], number % self.cells[1]])
            corner = self.shift + row_and_column * self.cell - (tf.constant(self.tile) - self.cell) // 2
            rows = tf.math.floormod(corner[0] + tf.range(self.tile[0]), self.size[0])
            cols = tf.math.floormod(corner[1] + tf.range(self.tile[1]), self.size[1])
            tiles.append(tf.gather(tf.gather(picture[0], rows, axis=0), cols, axis=1))
        return tf.ensure_shape(tf.stack(tiles), (len(tiles), *self.tile, 3))

    def centres(self, tiles: tf.Tensor) -> tf.Tensor:
        """The cells within tiles: (batch, cell height, cell width, 3)."""
        top, left = tf.unstack((tf.constant(self.tile) - self.cell) // 2)
        return tiles[:, top : top + self.cell[0], left : left + self.cell[1]]

    def joined(self, cells: tf.Tensor) -> tf.Tensor:
        """All cells in the order of their numbers, repeated ones at the end -> (1, h, w, 3)."""
        shape = tf.concat([self.cells, self.cell, [3]], 0)
        rows = tf.transpose(tf.reshape(cells[: self.count], shape), (0, 2, 1, 3, 4))
        whole = tf.reshape(rows, tf.concat([self.cells * self.cell, [3]], 0))
        return tf.roll(whole[: self.size[0], : self.size[1]], self.shift, [0, 1])[tf.newaxis]


def _trace(network: Network, form: Form, tiles: tf.Tensor) -> dict[str, tf.Tensor]:
    return network.trace(network.preprocess(255.0 * tiles), list(layers_of(form)))


def _sum(values: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.where(counts, values, 0.0))
