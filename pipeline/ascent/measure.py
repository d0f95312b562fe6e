"""Measures the network's response to finished pictures, and checks that layers have gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import tensorflow as tf

from pipeline.ascent.objectives import Objective, evaluate, layers_of, pick, stack
from pipeline.ascent.optimizer import unreachable
from pipeline.compiled.compile import compile_pass
from pipeline.compiled.devices import visible_gpus
from pipeline.compiled.gradients import deterministic_gradients
from pipeline.compiled.tf_private import deterministic_operations
from pipeline.models.network import Network

Measure = Callable[[np.ndarray, Sequence[Objective]], tuple[np.ndarray, np.ndarray, np.ndarray]]


def compile_measure(network: Network, objectives: Sequence[Objective]) -> Measure:
    """Compile the pass that measures a batch of pictures, for other objectives of the same form and number too.

    Returns: a callable of uint8 pictures (batch, h, w, 3) and their objectives, giving float32 (batch,) three times:
        the objectives' values, and the largest and the smallest value in the channel's map; if the objective
        measures several channels, both are the objective's value.
    """
    form, arguments = objectives[0].form, stack(objectives)

    def finish(maps: dict[str, tf.Tensor], *tensors: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        tensors_of_call = tf.nest.pack_sequence_as(arguments, list(tensors))
        values = evaluate(form, maps, tensors_of_call)
        (term, _), *others = form
        channels = None if others else term.channels(tensors_of_call.numbers[0])
        if channels is None:
            return values, values, values
        (of_layer,) = maps.values()
        high, low = tf.reduce_max(of_layer, axis=[1, 2]), tf.reduce_min(of_layer, axis=[1, 2])
        return values, pick(high, channels), pick(low, channels)

    specs = [tf.TensorSpec(value.shape, value.dtype) for value in tf.nest.flatten(arguments)]
    run = compile_pass(network, list(layers_of(form)), len(objectives), finish, specs)

    def measure(pictures: np.ndarray, objectives: Sequence[Objective]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values, high, low = (tensor.numpy() for tensor in run(pictures, *tf.nest.flatten(stack(objectives))))
        return values, high, low

    return measure


def check_gradients(network: Network, layers: Sequence[str]) -> None:
    """Raises: UnusableModel, naming the layers from which no gradient comes back to the image."""
    unreached: list[str] = []

    def trace(images: tf.Tensor) -> None:
        for name, maps in network.trace(images, layers).items():
            if deterministic_gradients(maps, images)[0] is None:
                unreached.append(name)

    tf.function(trace, autograph=False).get_concrete_function(tf.TensorSpec((1, *network.input_shape), tf.float32))
    if unreached:
        raise unreachable(unreached, network)


@contextmanager
def deterministic() -> Iterator[None]:
    """A GPU computes the same bits each time while the block runs, as a CPU always does.

    cuDNN's algorithms are settled before TensorFlow's first operation, by `prepare_devices`. This is for all other operations,
    which look at it when they run. It would slow a scan: with it, tf.data calls Python functions one after the other.
    """
    with deterministic_operations() if visible_gpus() else nullcontext():
        yield
