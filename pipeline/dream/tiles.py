"""Tiles: the ascent of one picture of any size, seen by the network a tile at a time, in one compiled function.

The picture is taken as endless: it goes on with itself beyond its borders. A grid of cells, moved by chance before
each step, covers it once. Each cell is the middle of a tile of the network's input size, and takes its part of that
tile's gradient; what lies around it is there to be seen only. So memory for the network is that of one batch of tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from pipeline.ascent.objectives import Arguments, Form, Objective, evaluate, stack
from pipeline.ascent.optimizer import MOST_MISSES, Slope, State, Way, moved, part_of, pieces_of, unreachable
from pipeline.ascent.regularizers import bilateral, laplacian_normalised
from pipeline.compiled.freezing import Pass, freeze
from pipeline.models.network import Network


@dataclass(frozen=True)
class TiledWay:
    """How a picture climbs by tiles.

    rate: root mean square of a step, the whole range of a colour being 1.
    shift: how far the grid moves at most, as a share of a tile's side.
    levels: of the Laplacian pyramid by which gradients are normalised; 0: none.
    sigma: the largest of the bilateral filter after each step; 0: none.
    seed: of the shifts.
    """

    rate: float = 0.01
    shift: float = 1.0
    levels: int = 0
    sigma: float = 0.0
    seed: int = 0


class Stretch(NamedTuple):
    """The part of an ascent that is made at one size.

    first: the number of its first step. steps: in all. start_sigma, end_sigma: of the filter, from its first step on.
    max_loss: of the objective; above it the picture stays as it is.
    """

    first: int
    steps: int
    start_sigma: float = 0.0
    end_sigma: float = 0.0
    max_loss: float = float("inf")


@dataclass(frozen=True)
class Tiled:
    """A compiled ascent by tiles: of one network, of objectives of one form, for pictures of any size."""

    batch: int
    run: Pass

    @classmethod
    def compile(cls, network: Network, objective: Objective, way: TiledWay, batch: int) -> Tiled:
        """Trace and freeze; nothing runs yet.

        Args:
            objective: any other of its form may climb too.
            batch: tiles that go through the network at once.

        Raises: UnusableModel, naming the layers that no gradient reaches.
        """
        inputs = (start(np.zeros((1, 1, 3), np.float32)), stack([objective] * batch), Stretch(0, 1), np.int32(0))
        specs = [_spec(value) for value in tf.nest.flatten(inputs)]

        def climb(*tensors: tf.Tensor) -> tuple[State, tf.Tensor]:
            return _climb(network, objective.form, way, *tf.nest.pack_sequence_as(inputs, list(tensors)))

        return cls(batch, freeze(climb, *specs))

    def climb(self, state: State, objective: Objective, stretch: Stretch, steps: int) -> tuple[State, np.ndarray]:
        """Some more steps; nothing comes to the host between them.

        Returns: the new state, and the objective before each step that was made, the mean over tiles: float32 (steps,).
            There are fewer where `stretch.max_loss` was passed, which the last one shows, or NaN stopped the picture.
        """
        arguments = tf.nest.flatten(stack([objective] * self.batch))
        state, losses = self.run(*state, *arguments, *stretch, steps)
        return state, losses.numpy()


def compile_look(network: Network, objective: Objective, batch: int) -> Any:
    """The pass that only looks: a picture, float32 (1, height, width, 3) from 0 to 1, and `stack` of a batch -> its value."""
    arguments = stack([objective] * batch)
    specs = [tf.TensorSpec((1, None, None, 3), tf.float32), *map(_spec, tf.nest.flatten(arguments))]

    def look(picture: tf.Tensor, *tensors: tf.Tensor) -> tf.Tensor:
        given = tf.nest.pack_sequence_as(arguments, list(tensors))
        grid = Grid.over(picture, network, tf.zeros(2, tf.int32))

        def step(number: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            places, counts = grid.places(number, batch)
            values = evaluate(objective.form, _traced(network, objective.form, grid.tiles(picture, places)), given)
            return number + batch, total + _counted(values, counts)

        _, total = tf.while_loop(lambda number, _: number < grid.count, step, (0, tf.zeros(())), parallel_iterations=1)
        return total / tf.cast(grid.count, tf.float32)

    return freeze(look, *specs)


def start(picture: np.ndarray) -> State:
    """The state of a picture, float32 (height, width, 3) from 0 to 1, that has not moved."""
    values = tf.constant(picture[np.newaxis], tf.float32)
    # Steps of one length have no moments; what stands for them is as small as can be.
    moments, none = tf.zeros((1, 1, 1, 1)), tf.zeros(1, tf.int32)
    return State(tf.zeros((), tf.int32), values, values, moments, moments, tf.ones(1), none, none)


def _spec(value: Any) -> tf.TensorSpec:
    value = tf.convert_to_tensor(value)
    return tf.TensorSpec((1, None, None, 3) if value.shape.rank == 4 and value.shape[-1] == 3 else value.shape, value.dtype)


def _climb(
    network: Network, form: Form, way: TiledWay, begin: State, arguments: Arguments, stretch: Stretch, steps: tf.Tensor
) -> tuple[State, tf.Tensor]:
    last = begin.step + steps
    stepping = Way("sgd", way.rate)

    def goes_on(state: State, curve: tf.TensorArray, above: tf.Tensor) -> tf.Tensor:
        return (state.step < last) & (above == 0) & (state.misses[0] < MOST_MISSES)

    def step(state: State, curve: tf.TensorArray, _: tf.Tensor) -> tuple[State, tf.TensorArray, tf.Tensor]:
        slope = _slope(network, form, way, state, arguments)
        # A number, for "not above" is made "at most" by TensorFlow's optimiser, which is otherwise with NaN.
        above = tf.cast(slope.values[0] > stretch.max_loss, tf.int32)
        stays = state._replace(step=state.step + 1)
        after = tf.cond(above == 1, lambda: stays, lambda: moved(state, slope, stepping))
        share = tf.cast(state.step - stretch.first, tf.float32) / tf.cast(stretch.steps, tf.float32)
        sigma = stretch.start_sigma + (stretch.end_sigma - stretch.start_sigma) * share
        values = bilateral(tf.clip_by_value(after.values, 0.0, 1.0), sigma, way.sigma)
        return after._replace(values=values), curve.write(state.step - begin.step, slope.values[0]), above

    curve = tf.TensorArray(tf.float32, size=0, dynamic_size=True, element_shape=())
    state, curve, _ = tf.while_loop(goes_on, step, (begin, curve, 0), parallel_iterations=1)
    return state, curve.stack()


def _slope(network: Network, form: Form, way: TiledWay, state: State, arguments: Arguments) -> Slope:
    """The objective's mean over the tiles of a picture, and its gradient, put together from the cells."""
    batch = arguments.weights.shape[0]
    height, width, _ = network.input_shape
    picture = state.values
    chance = tf.random.stateless_uniform((2,), tf.stack([tf.constant(way.seed, tf.int32), state.step]))
    grid = Grid.over(picture, network, tf.cast(chance * way.shift * tf.constant([height, width], tf.float32), tf.int32))

    def step(number: tf.Tensor, total: tf.Tensor, cells: tf.TensorArray) -> tuple[tf.Tensor, tf.Tensor, tf.TensorArray]:
        places, counts = grid.places(number, batch)
        tiles = grid.tiles(picture, places)
        found = [_looked(network, form, tiles[piece], part_of(arguments, piece)) for piece in pieces_of(batch)]
        values, pull = (tf.concat(parts, axis=0) for parts in zip(*found, strict=True))
        return number + batch, total + _counted(values, counts), cells.write(number // batch, grid.middles(pull))

    cells = tf.TensorArray(tf.float32, size=-(-grid.count // batch), element_shape=(batch, None, None, 3))
    looped = tf.while_loop(lambda number, *_: number < grid.count, step, (0, tf.zeros(()), cells), parallel_iterations=1)
    gradient = grid.joined(looped[2].concat())
    value = looped[1] / tf.cast(grid.count, tf.float32)
    still = tf.reduce_all(tf.equal(gradient, 0.0), axis=[1, 2, 3])
    return Slope(value[tf.newaxis], still, laplacian_normalised(gradient, way.levels))


def _looked(network: Network, form: Form, tiles: tf.Tensor, arguments: Arguments) -> tuple[tf.Tensor, tf.Tensor]:
    """The objective's value for each tile, (batch,), and its gradient, as large as the tiles."""
    values = evaluate(form, _traced(network, form, tiles), arguments)
    (pull,) = tf.gradients(values, tiles)
    if pull is None:
        raise unreachable(list(dict.fromkeys(layer for _, layer in form)), network)
    return values, pull


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
        """As few cells as cover a picture, none larger than the network's input."""
        tile = network.input_shape[:2]
        size = tf.shape(picture)[1:3]
        cells = -(-size // tf.constant(tile))
        return cls(size, cells, -(-size // cells), shift, tile)

    @property
    def count(self) -> tf.Tensor:
        """How many cells there are: int32 ()."""
        return self.cells[0] * self.cells[1]

    def places(self, first: tf.Tensor, batch: int) -> tuple[tf.Tensor, tf.Tensor]:
        """The numbers of the next cells, and which of them are not there twice: int32 and bool (batch,)."""
        numbers = first + tf.range(batch)
        return tf.minimum(numbers, self.count - 1), numbers < self.count

    def tiles(self, picture: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
        """(1, h, w, 3) -> the tiles around some cells: (batch, tile height, tile width, 3)."""
        tiles = []
        for place in tf.unstack(places):
            at = tf.stack([place // self.cells[1], place % self.cells[1]])
            corner = self.shift + at * self.cell - (tf.constant(self.tile) - self.cell) // 2
            rows = tf.math.floormod(corner[0] + tf.range(self.tile[0]), self.size[0])
            cols = tf.math.floormod(corner[1] + tf.range(self.tile[1]), self.size[1])
            tiles.append(tf.gather(tf.gather(picture[0], rows, axis=0), cols, axis=1))
        return tf.ensure_shape(tf.stack(tiles), (len(tiles), *self.tile, 3))

    def middles(self, tiles: tf.Tensor) -> tf.Tensor:
        """The cells within tiles: (batch, cell height, cell width, 3)."""
        top, left = tf.unstack((tf.constant(self.tile) - self.cell) // 2)
        return tiles[:, top : top + self.cell[0], left : left + self.cell[1]]

    def joined(self, cells: tf.Tensor) -> tf.Tensor:
        """All cells, and perhaps more, in the order of their numbers -> (1, h, w, 3)."""
        shape = tf.concat([self.cells, self.cell, [3]], 0)
        rows = tf.transpose(tf.reshape(cells[: self.count], shape), (0, 2, 1, 3, 4))
        whole = tf.reshape(rows, tf.concat([self.cells * self.cell, [3]], 0))
        return tf.roll(whole[: self.size[0], : self.size[1]], self.shift, [0, 1])[tf.newaxis]


def _traced(network: Network, form: Form, tiles: tf.Tensor) -> dict[str, tf.Tensor]:
    return network.trace(network.preprocess(255.0 * tiles), list(dict.fromkeys(layer for _, layer in form)))


def _counted(values: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.where(counts, values, 0.0))
