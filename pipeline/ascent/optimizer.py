"""The ascent: a batch of pictures, each climbing its own objective, many steps in one compiled function."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf

from pipeline.ascent.objectives import Arguments, Form, Objective, evaluate, stack
from pipeline.ascent.parametrization import Canvas, fused
from pipeline.ascent.transforms import AT_REST, Shake, inner
from pipeline.compiled.freezing import Pass, freeze
from pipeline.compiled.gradients import OPENED, replaced_gradients
from pipeline.errors import UnusableModel
from pipeline.models.network import Network

MOST_MISSES = 12  # halvings after which a picture stops: its steps are then a four-thousandth of what they were

_FIRST, _SECOND = 0.9, 0.999  # how much of their past Adam's moments keep (Kingma and Ba, 2015)
_TINY = 1e-8


@dataclass(frozen=True)
class Way:
    """How pictures climb.

    optimiser: "adam"; or "sgd", steps of one length along the gradient.
    rate: the length of a step, in the canvas's own units, where a start has a deviation below 1.
    shake: how the picture is moved before each step.
    tv, l2: pull of the penalties, next to that of the objective, which counts 1: for total variation, and for
        the squared distance from grey.
    group, diversity: so many pictures in a row are to differ, and how much that counts (0: not at all).
    seed: of the shakes.
    opened: let gradients pass rectifiers that stop them all, to wake a picture that has none.
    """

    optimiser: Literal["adam", "sgd"] = "adam"
    rate: float = 0.1
    shake: Shake = AT_REST
    tv: float = 0.0
    l2: float = 0.0
    group: int = 1
    diversity: float = 0.0
    seed: int = 0
    opened: bool = False


class State(NamedTuple):
    """Where a batch of pictures stands; saved and loaded, it goes on to the same bits.

    step: int32 (): steps made.
    values: float32 (batch, *canvas.shape).
    good: the last values at which objective and gradient were finite numbers.
    first, second: Adam's moments.
    share: float32 (batch,): of the rate; every miss halves it, and 0 is a picture that has stopped.
    misses: int32 (batch,): steps that met NaN or infinity.
    asleep: int32 (batch,): steps in a row without any gradient.
    """

    step: Any
    values: Any
    good: Any
    first: Any
    second: Any
    share: Any
    misses: Any
    asleep: Any

    @classmethod
    def start(cls, values: tf.Tensor) -> State:
        """The state of pictures that have not moved."""
        batch = values.shape[0]
        zeros, none = tf.zeros_like(values), tf.zeros(batch, tf.int32)
        return cls(tf.zeros((), tf.int32), values, values, zeros, zeros, tf.ones(batch), none, none)


@dataclass(frozen=True)
class Ascent:
    """A compiled ascent: of one network, of objectives of one form, of one size of batch."""

    network: Network
    canvas: Canvas
    form: Form
    way: Way
    run: Pass

    @classmethod
    def compile(cls, network: Network, canvas: Canvas, objectives: Sequence[Objective], way: Way) -> Ascent:
        """Trace and freeze; nothing runs yet.

        Args:
            canvas: as large as the network's input with the rim of `way.shake`.
            objectives: a batch, one a picture; any others of their form and number may climb too.

        Raises: UnusableModel, naming the layer that no gradient reaches.
        """
        form, arguments = objectives[0].form, stack(objectives)
        inputs = (State.start(tf.zeros((len(objectives), *canvas.shape))), arguments, np.int32(0))
        specs = [tf.TensorSpec(value.shape, value.dtype) for value in tf.nest.flatten(inputs)]

        def climb(*tensors: tf.Tensor) -> tuple[State, tf.Tensor]:
            return _climb(network, canvas, form, way, *tf.nest.pack_sequence_as(inputs, list(tensors)))

        return cls(network, canvas, form, way, freeze(climb, *specs))

    def climb(self, state: State, objectives: Sequence[Objective], steps: int) -> tuple[State, np.ndarray]:
        """Some more steps; nothing comes to the host between them.

        Args:
            objectives: one a picture, of the ascent's form.

        Returns: the new state, and the value of each objective before each step: float32 (steps, batch).
        """
        state, values = self.run(*state, *tf.nest.flatten(stack(objectives)), steps)
        return state, values.numpy()

    def pictures(self, state: State) -> np.ndarray:
        """What the network sees of the last good pictures: uint8 RGB (batch, height, width, 3)."""
        height, width, _ = self.network.input_shape
        painted = inner(self.canvas.paint(tf.convert_to_tensor(state.good)), height, width)
        return tf.cast(tf.round(255.0 * tf.clip_by_value(painted, 0.0, 1.0)), tf.uint8).numpy()


def _climb(
    network: Network, canvas: Canvas, form: Form, way: Way, start: State, arguments: Arguments, steps: tf.Tensor
) -> tuple[State, tf.Tensor]:
    first, pieces = start.step, pieces_of(start.share.shape[0], way.group)
    wanted = [part_of(arguments, piece) for piece in pieces]

    def step(states: tuple[State, ...], curve: tf.TensorArray) -> tuple[tuple[State, ...], tf.TensorArray]:
        slopes = [_slope(network, canvas, form, way, *each) for each in zip(states, wanted, strict=True)]
        move = fused(lambda state, slope: moved(state, slope, way))
        values = tf.concat([slope.values for slope in slopes], axis=0)
        return tuple(map(move, states, slopes)), curve.write(states[0].step - first, values)

    curve = tf.TensorArray(tf.float32, size=steps, element_shape=start.share.shape)
    last = first + steps
    begun = tuple(part_of(start, piece) for piece in pieces), curve
    states, curve = tf.while_loop(lambda states, _: states[0].step < last, step, begun, parallel_iterations=1)
    joined = (parts[0] if parts[0].shape.rank == 0 else tf.concat(parts, axis=0) for parts in zip(*states, strict=True))
    return State(*joined), curve.stack()


def pieces_of(batch: int, group: int = 1) -> list[slice]:
    """The batch in two halves, which keep groups whole, or in one where there is a GPU.

    Halves need nothing of each other, so the cores that one of them leaves idle, in what few threads can share, go on
    with the other.
    """
    middle = batch // group // 2 * group
    alone = middle == 0 or bool(tf.config.list_physical_devices("GPU"))
    return [slice(batch)] if alone else [slice(middle), slice(middle, batch)]


def part_of(values: Any, piece: slice) -> Any:
    """A piece of all that has a batch."""
    return tf.nest.map_structure(lambda one: one[piece] if one.shape.rank else one, values)


class Slope(NamedTuple):
    """What one look at a batch of pictures tells.

    values: float32 (batch,): of the objectives. still: bool (batch,): they have no gradient at all.
    ascent: float32 (batch, *canvas.shape): the direction in which each picture's own values are to change.
    """

    values: tf.Tensor
    still: tf.Tensor
    ascent: tf.Tensor


def _slope(network: Network, canvas: Canvas, form: Form, way: Way, state: State, arguments: Arguments) -> Slope:
    height, width, _ = network.input_shape
    picture = fused(canvas.paint)(state.values)
    seen = way.shake.see(picture, height, width, tf.stack([tf.constant(way.seed, tf.int32), state.step]))
    layers = list(dict.fromkeys(layer for _, layer in form))
    with replaced_gradients(OPENED) if way.opened else nullcontext():
        maps = network.trace(network.preprocess(255.0 * seen), layers)
    values = evaluate(form, maps, arguments)
    (pull,) = tf.gradients(apart(values, maps[layers[0]], way), picture)
    if pull is None:
        raise unreachable(layers, network)
    still, pull = fused(lambda pull, picture: weighed(pull, picture, way))(pull, picture)
    return Slope(values, still, tf.gradients(picture, state.values, grad_ys=pull)[0])


def weighed(pull: tf.Tensor, picture: tf.Tensor, way: Way) -> tuple[tf.Tensor, tf.Tensor]:
    """Whether there is no pull at all, bool (batch,); and the pull, of mean square 1, with that of the penalties."""
    still = tf.reduce_all(tf.equal(pull, 0.0), axis=[1, 2, 3])
    pull = normalised(pull)  # before the penalties join, so that their strength means the same in every network
    if way.tv:
        pull -= way.tv * tf.gradients(tf.image.total_variation(picture), picture)[0]
    if way.l2:
        pull -= way.l2 * (picture - 0.5)
    return still, pull


def apart(values: tf.Tensor, maps: tf.Tensor, way: Way) -> tf.Tensor:
    """The objectives less what the pictures of a group have in common.

    That is the mean cosine between the Gram matrices of their maps (Olah et al., 2017), as a share of the objective.
    """
    if way.group == 1 or not way.diversity:
        return values
    flat = tf.reshape(maps, (maps.shape[0], -1, maps.shape[-1]))
    gram = tf.reshape(tf.matmul(flat, flat, transpose_a=True), (-1, way.group, maps.shape[-1] ** 2))
    gram = tf.math.l2_normalize(gram, axis=2, epsilon=1e-20)
    alike = tf.matmul(gram, gram, transpose_b=True)
    others = (tf.reduce_sum(alike, axis=2) - tf.linalg.diag_part(alike)) / (way.group - 1)
    return values - way.diversity * tf.stop_gradient(tf.abs(values)) * tf.reshape(others, (-1,))


def moved(state: State, slope: Slope, way: Way) -> State:
    """The state after one step; where anything is not a finite number, back to the last good values at half the rate."""
    axes = list(range(1, slope.ascent.shape.rank))
    fine = tf.math.is_finite(slope.values) & tf.reduce_all(tf.math.is_finite(slope.ascent), axis=axes)
    misses = state.misses + tf.cast(~fine, tf.int32)
    share = tf.where(fine, state.share, state.share / 2)
    share = tf.where(misses < MOST_MISSES, share, 0.0)
    asleep = tf.where(fine & slope.still, state.asleep + 1, 0)
    ascent = tf.where(like(fine, slope.ascent), slope.ascent, 0.0)
    good = tf.where(like(fine, slope.ascent), state.values, state.good)
    first, second = state.first, state.second
    if way.optimiser == "adam":
        first = _FIRST * first + (1 - _FIRST) * ascent
        second = _SECOND * second + (1 - _SECOND) * tf.square(ascent)
        age = tf.cast(state.step + 1, tf.float32)
        move = first / (tf.sqrt(second) + _TINY) * (tf.sqrt(1 - _SECOND**age) / (1 - _FIRST**age))
    else:
        move = normalised(ascent)
    length = like(way.rate * tf.where(fine, share, 0.0), move)
    return State(state.step + 1, good + length * move, good, first, second, share, misses, asleep)


def unreachable(layers: Sequence[str], network: Network) -> UnusableModel:
    """The error for layers from which no gradient comes back to the image."""
    return UnusableModel(
        f"no gradient reaches {' or '.join(layers)} in {network.name}: an operation before it has none. Leave the layer out."
    )


def normalised(gradient: tf.Tensor) -> tf.Tensor:
    """Each of a batch divided by its root mean square; zeros stay zeros. float32, any shape after the batch."""
    axes = list(range(1, gradient.shape.rank))
    # By the largest first: the squares of very large or small gradients are no float32.
    gradient = tf.math.divide_no_nan(gradient, tf.reduce_max(tf.abs(gradient), axis=axes, keepdims=True))
    return tf.math.divide_no_nan(gradient, tf.sqrt(tf.reduce_mean(tf.square(gradient), axis=axes, keepdims=True)))


def like(values: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """(batch,) with as many axes as another tensor."""
    return tf.reshape(values, (-1, *[1] * (other.shape.rank - 1)))
