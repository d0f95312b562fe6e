"""The optimiser: a batch of pictures, each raising its own objective, many steps in one compiled function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf

from pipeline.ascent.objectives import Arguments, Form, Objective, evaluate, layers_of, stack
from pipeline.ascent.parametrization import Parametrization, fused
from pipeline.ascent.regularizers import diversity_penalty, normalised, penalised, per_picture
from pipeline.ascent.transforms import STILL, Transforms, inner
from pipeline.compiled.devices import visible_gpus
from pipeline.compiled.freezing import Pass, freeze
from pipeline.compiled.gradients import OPENED, deterministic_gradients, gradient_of, replaced_gradients
from pipeline.errors import UnusableModel
from pipeline.models.network import Network

MAX_FAILURES = 12  # halvings of the rate after which a picture stops; its steps are then 1/4096 as long

_FIRST, _SECOND = 0.9, 0.999  # the decay rates of Adam's moments (Kingma and Ba, 2015)
_TINY = 1e-8


@dataclass(frozen=True)
class AscentConfig:
    """How pictures are optimised.

    optimiser: "adam"; or "sgd", steps of constant length along the gradient.
    rate: the length of a step, in the units of the parametrization, where a start has a standard deviation below 1.
    transforms: of the picture before each step.
    tv, l2: weights of the penalties on total variation and on the squared distance from grey; the objective's is 1.
    group, diversity: the number of successive pictures that should differ, and the weight of that penalty (0: none).
    seed: of the transforms.
    open_relus: let gradients pass ReLUs that would stop all of them, to find a start for an inactive objective.
    """

    optimiser: Literal["adam", "sgd"] = "adam"
    rate: float = 0.1
    transforms: Transforms = STILL
    tv: float = 0.0
    l2: float = 0.0
    group: int = 1
    diversity: float = 0.0
    seed: int = 0
    open_relus: bool = False


class State(NamedTuple):
    """The state of a batch of pictures; resuming from a saved state gives the same bits.

    step: int32 (): steps made.
    values: float32 (batch, *shape of the parametrization).
    good: the last values at which objective and gradient were finite.
    first, second: Adam's moments.
    rate_scale: float32 (batch,): factor of the rate; every failure halves it, and 0 means that the picture has stopped.
    failures: int32 (batch,): steps that met NaN or infinity.
    inactive: int32 (batch,): steps in a row without any gradient.
    """

    step: Any
    values: Any
    good: Any
    first: Any
    second: Any
    rate_scale: Any
    failures: Any
    inactive: Any

    @classmethod
    def start(cls, values: tf.Tensor) -> State:
        """The state of pictures before their first step."""
        batch = values.shape[0]
        zeros, none = tf.zeros_like(values), tf.zeros(batch, tf.int32)
        return cls(tf.zeros((), tf.int32), values, values, zeros, zeros, tf.ones(batch), none, none)


class Gradient(NamedTuple):
    """The objectives of a batch of pictures, and the direction in which they rise.

    values: float32 (batch,): of the objectives. inactive: bool (batch,): they have no gradient at all.
    ascent: float32 (batch, *shape of the parametrization): the direction in which each picture's own values are to change.
    """

    values: tf.Tensor
    inactive: tf.Tensor
    ascent: tf.Tensor


@dataclass(frozen=True)
class AscentGraph:
    """The graph of one step: of one network, of objectives of one form."""

    network: Network
    parametrization: Parametrization
    form: Form
    config: AscentConfig

    def gradient(self, state: State, arguments: Arguments) -> Gradient:
        """The objectives of pictures in some state, and how their values are to change.

        Raises: UnusableModel, naming the layer that no gradient reaches.
        """
        config, (height, width, _) = self.config, self.network.input_shape
        picture = fused(self.parametrization.render)(state.values)
        seed = tf.stack([tf.constant(config.seed, tf.int32), state.step])
        images = config.transforms.apply(picture, height, width, seed)
        layers = list(layers_of(self.form))
        with replaced_gradients(OPENED) if config.open_relus else nullcontext():
            maps = self.network.trace(self.network.preprocess(255.0 * images), layers)
        values = evaluate(self.form, maps, arguments)
        raised = values
        if config.group > 1 and config.diversity:
            raised = values - diversity_penalty(values, maps[layers[0]], config.group, config.diversity)
        on_picture = gradient_of(raised, picture)
        if on_picture is None:
            raise unreachable(layers, self.network)
        inactive, on_picture = _penalty(config.tv, config.l2)(on_picture, picture)
        return Gradient(values, inactive, deterministic_gradients(picture, state.values, grad_ys=on_picture)[0])


@dataclass(frozen=True)
class Ascent(AscentGraph):
    """A compiled ascent: of one network, of objectives of one form, of one size of batch."""

    compiled: Pass

    @classmethod
    def compile(
        cls, network: Network, parametrization: Parametrization, objectives: Sequence[Objective], config: AscentConfig
    ) -> Ascent:
        """Trace and freeze; nothing runs yet.

        Args:
            parametrization: of pictures as large as the network's input with the margin of `config.transforms`.
            objectives: a batch, one for each picture; `run` accepts any others of the same form and number.

        Raises: UnusableModel, naming the layer that no gradient reaches.
        """
        graph = AscentGraph(network, parametrization, objectives[0].form, config)
        inputs = (State.start(tf.zeros((len(objectives), *parametrization.shape))), stack(objectives), np.int32(0))
        specs = [tf.TensorSpec(value.shape, value.dtype) for value in tf.nest.flatten(inputs)]
        halves = microbatches(len(objectives), config.group)

        def steps(*tensors: tf.Tensor) -> tuple[State, tf.Tensor]:
            start, objective_batch, count = tf.nest.pack_sequence_as(inputs, list(tensors))
            parts = [slice_batch(objective_batch, half) for half in halves]

            def step(states: tuple[State, ...]) -> tuple[tuple[State, ...], tf.Tensor, tf.Tensor]:
                gradients = [graph.gradient(*each) for each in zip(states, parts, strict=True)]
                move = _move(config.optimiser, config.rate)
                values = tf.concat([gradient.values for gradient in gradients], axis=0)
                return tuple(map(move, states, gradients)), values, tf.constant(0)

            states, curve = iterate(tuple(slice_batch(start, half) for half in halves), count, step)
            joined = (parts[0] if parts[0].shape.rank == 0 else tf.concat(parts, axis=0) for parts in zip(*states, strict=True))
            return State(*joined), curve

        return cls(network, parametrization, graph.form, config, freeze(steps, *specs))

    def run(self, state: State, objectives: Sequence[Objective], steps: int) -> tuple[State, np.ndarray]:
        """Make steps, without copying anything to the host between them.

        Args:
            objectives: one a picture, of the ascent's form.

        Returns: the new state, and the value of each objective before each step: float32 (steps, batch).
        """
        state, values = self.compiled(*state, *tf.nest.flatten(stack(objectives)), steps)
        return state, values.numpy()

    def pictures(self, values: Any) -> np.ndarray:
        """The pictures of some values, without their margin: uint8 RGB (batch, height, width, 3)."""
        height, width, _ = self.network.input_shape
        rendered = inner(self.parametrization.render(tf.convert_to_tensor(values)), height, width)
        return tf.cast(tf.round(255.0 * tf.clip_by_value(rendered, 0.0, 1.0)), tf.uint8).numpy()


def iterate(
    states: tuple[State, ...],
    steps: tf.Tensor,
    step: Callable[[tuple[State, ...]], tuple[tuple[State, ...], tf.Tensor, tf.Tensor]],
) -> tuple[tuple[State, ...], tf.Tensor]:
    """The loop over steps, in the graph.

    Args:
        states: of the micro-batches of a batch.
        step: gives the states after a step, the objectives before it, float32 (batch,), and an int32 () that ends the loop
            where it is not 0.

    Returns: the last states, and the objectives before each step: float32 (steps made, batch).
    """
    first = states[0].step
    batch = sum(state.rate_scale.shape[0] for state in states)

    def body(
        states: tuple[State, ...], curve: tf.TensorArray, _: tf.Tensor
    ) -> tuple[tuple[State, ...], tf.TensorArray, tf.Tensor]:
        after, values, ends = step(states)
        return after, curve.write(states[0].step - first, values), ends

    curve = tf.TensorArray(tf.float32, size=0, dynamic_size=True, element_shape=(batch,))
    states, curve, _ = tf.while_loop(
        lambda states, _, ended: (states[0].step < first + steps) & (ended == 0),
        body,
        (states, curve, tf.constant(0)),
        parallel_iterations=1,
    )
    return states, curve.stack()


def updated(state: State, gradient: Gradient, config: AscentConfig) -> State:
    """The state after one step; if anything is not finite, the last good values with half the rate."""
    axes = list(range(1, gradient.ascent.shape.rank))
    fine = tf.math.is_finite(gradient.values) & tf.reduce_all(tf.math.is_finite(gradient.ascent), axis=axes)
    failures = state.failures + tf.cast(~fine, tf.int32)
    rate_scale = tf.where(fine, state.rate_scale, state.rate_scale / 2)
    rate_scale = tf.where(failures < MAX_FAILURES, rate_scale, 0.0)
    inactive = tf.where(fine & gradient.inactive, state.inactive + 1, 0)
    ascent = tf.where(per_picture(fine, gradient.ascent), gradient.ascent, 0.0)
    good = tf.where(per_picture(fine, gradient.ascent), state.values, state.good)
    first, second = state.first, state.second
    if config.optimiser == "adam":
        first = _FIRST * first + (1 - _FIRST) * ascent
        second = _SECOND * second + (1 - _SECOND) * tf.square(ascent)
        age = tf.cast(state.step + 1, tf.float32)
        move = first / (tf.sqrt(second) + _TINY) * (tf.sqrt(1 - _SECOND**age) / (1 - _FIRST**age))
    else:
        move = normalised(ascent)
    length = per_picture(config.rate * tf.where(fine, rate_scale, 0.0), move)
    return State(state.step + 1, good + length * move, good, first, second, rate_scale, failures, inactive)


@lru_cache
def _penalty(tv: float, l2: float) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    return fused(lambda gradient, picture: penalised(gradient, picture, tv, l2))


@lru_cache
def _move(optimiser: Literal["adam", "sgd"], rate: float) -> Callable[[State, Gradient], State]:
    return fused(lambda state, gradient: updated(state, gradient, AscentConfig(optimiser, rate)))


def microbatches(batch: int, group: int = 1) -> list[slice]:
    """The batch in two halves that do not split groups; undivided on a GPU.

    The halves do not depend on each other: while one is in an operation that uses few threads, the remaining cores work
    on the other.
    """
    middle = batch // group // 2 * group
    whole = middle == 0 or bool(visible_gpus())
    return [slice(batch)] if whole else [slice(middle), slice(middle, batch)]


def slice_batch(values: Any, part: slice) -> Any:
    """A slice of every tensor that has a batch axis; scalars are unchanged."""
    return tf.nest.map_structure(lambda value: value[part] if value.shape.rank else value, values)


def unreachable(layers: Sequence[str], network: Network) -> UnusableModel:
    """The error for layers from which no gradient comes back to the image."""
    return UnusableModel(
        f"no gradient reaches {' or '.join(layers)} in {network.name}: an operation before it has none. Leave the layer out."
    )
