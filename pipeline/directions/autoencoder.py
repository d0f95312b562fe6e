"""Sparse autoencoders: dictionaries of directions of which only a few respond to any one vector, trained with Keras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.ascent.checkpoint import Checkpoint
from pipeline.directions.fitting import SetPlan, check_sample
from pipeline.errors import WrongSpec
from pipeline.store.direction_sets import DirectionSet

_BATCH = 1024  # vectors in a step
_RATE = 1e-3
_UNUSED_FOR = 100  # steps after which an atom that has not responded counts as dead
_REVIVAL = 1 / 32  # weight of the loss by which dead atoms learn what the others leave
_BANDWIDTH = 0.1  # of the estimate of a jump's gradient, in standard deviations of a channel
_SPARSITY = 0.3  # weight of the loss that holds the number of responses at what is asked
_WARM_UP = 0.1  # the share of the steps over which that weight, and the rate, rise


@dataclass(frozen=True)
class Training:
    """sparsity: how many atoms respond to a vector: exactly, at most, for topk; on average for jumprelu. steps: of Adam."""

    sparsity: int
    steps: int


class _Autoencoder(keras.Model):  # type: ignore[misc]
    """z = activation((x - centre) · encoder + bias); x is restored as z · decoder + centre, the decoder's rows of length 1.

    A TopK autoencoder as of Gao et al. 2024 ("Scaling and evaluating sparse autoencoders"), with their loss for dead atoms; or
    a JumpReLU one as of Rajamanoharan et al. 2024 ("Jumping ahead"), whose loss holds the mean number of responses.
    """

    def __init__(self, start: dict[str, np.ndarray], keep: int | None, sparsity: int) -> None:
        super().__init__(name="autoencoder")
        self.keep, self.sparsity = keep, sparsity
        self.parts = {name: self.add_weight(shape=value.shape, name=name) for name, value in start.items()}
        for name, value in start.items():
            self.parts[name].assign(value)

    def loss_of(self, x: tf.Tensor, idle: tf.Tensor, weight: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The loss of a batch, and which atoms responded in it: bool (atoms,).

        Args:
            idle: int32 (atoms,): for how many steps each has not responded. weight: of the loss of sparsity.
        """
        parts = {name: tf.convert_to_tensor(value) for name, value in self.parts.items()}
        before = (x - parts["centre"]) @ parts["encoder"] + parts["bias"]
        if self.keep is None:
            threshold = tf.exp(parts["log_threshold"])
            z = _jump(before, threshold)
            count = tf.reduce_mean(tf.reduce_sum(_step(before, threshold), axis=1))
            others = weight * tf.square(count / self.sparsity - 1)
        else:
            z = _largest(tf.nn.relu(before), self.keep)
            others = tf.zeros([])
        rest = x - parts["centre"] - z @ parts["decoder"]
        if self.keep is not None:
            dead = tf.cast(idle > _UNUSED_FOR, tf.float32)
            revived = _largest(tf.nn.relu(before) * dead, min(2 * self.keep, int(dead.shape[0])))
            missing = tf.reduce_mean(tf.square(tf.stop_gradient(rest) - revived @ parts["decoder"]))
            others = _REVIVAL * missing * tf.cast(tf.reduce_any(dead > 0), tf.float32)
        return tf.reduce_mean(tf.square(rest)) + others, tf.reduce_any(z > 0, axis=0)

    def lengths_to_one(self) -> None:
        """Scale the rows of the decoder to length 1."""
        decoder = self.parts["decoder"]
        decoder.assign(tf.math.l2_normalize(tf.convert_to_tensor(decoder), axis=1))


def _largest(values: tf.Tensor, keep: int) -> tf.Tensor:
    """The `keep` largest of each row as they are, zero elsewhere."""
    floor = tf.reduce_min(tf.math.top_k(values, keep, sorted=False)[0], axis=1, keepdims=True)
    return tf.where(values >= floor, values, 0.0)


@tf.custom_gradient
def _jump(z: tf.Tensor, threshold: tf.Tensor) -> Any:
    above = tf.cast(z > threshold, z.dtype)

    def gradient(by: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        near = tf.cast(tf.abs(z - threshold) < _BANDWIDTH / 2, z.dtype)
        return by * above, tf.reduce_sum(-threshold / _BANDWIDTH * near * by, axis=0)

    return z * above, gradient


@tf.custom_gradient
def _step(z: tf.Tensor, threshold: tf.Tensor) -> Any:
    def gradient(by: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        near = tf.cast(tf.abs(z - threshold) < _BANDWIDTH / 2, z.dtype)
        return tf.zeros_like(z), tf.reduce_sum(-near / _BANDWIDTH * by, axis=0)

    return tf.cast(z > threshold, z.dtype), gradient


def train_directions(
    asked: SetPlan,
    vectors: np.ndarray,
    training: Training,
    checkpoint: Checkpoint,
    progress: Callable[[int, float], None] = lambda steps, loss: None,
) -> DirectionSet:
    """Train a sparse autoencoder, `topk` or `jumprelu`, and give its atoms as directions, the most used first.

    The same seed gives the same bits on one machine; a training that was interrupted goes on from its checkpoint.

    Args:
        vectors: float32 (n, channels), finite.
        progress: is called with the steps made and the loss, the share of the variance that is not restored and more.

    Raises: WrongSpec, for a sample that is too small; StoreFailed.
    """
    check_sample(asked, vectors)
    if training.sparsity > asked.count:
        raise WrongSpec(f"directions.sparsity = {training.sparsity}, but {asked.name!r} has {asked.count} directions. Lower it.")
    keep = training.sparsity if asked.method == "topk" else None
    mean, random = vectors.mean(axis=0), np.random.default_rng([asked.seed, 0])
    scale = float(np.sqrt(((vectors - mean) ** 2).mean(dtype=np.float64))) or 1.0
    model = _Autoencoder(_start(asked, vectors.shape[1], keep, random), keep, training.sparsity)
    optimizer = keras.optimizers.Adam(_RATE)
    optimizer.build(model.trainable_variables)
    idle = tf.Variable(tf.zeros(asked.count, tf.int32), trainable=False)
    state = [*model.parts.values(), *optimizer.variables, idle]

    @tf.function(autograph=False)
    def step(batch: tf.Tensor, rise: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss, responded = model.loss_of(batch, idle, _SPARSITY * rise)
        gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
        optimizer.learning_rate.assign(_RATE * rise)
        optimizer.apply(gradients, model.trainable_variables)
        model.lengths_to_one()
        idle.assign(tf.where(responded, 0, idle + 1))
        return loss

    saved = checkpoint.load() or []
    done = int(saved[0]) if saved else 0
    for variable, value in zip(state, saved[1:], strict=False):
        variable.assign(value)
    while done < training.steps:
        # Each step's vectors and rate depend on its number alone, so a training may stop at any.
        picks = np.random.default_rng([asked.seed, 1, done]).integers(0, len(vectors), min(_BATCH, len(vectors)))
        rise = min(1.0, (1 + done) / max(1.0, _WARM_UP * training.steps))
        loss = float(step(tf.constant((vectors[picks] - mean) / scale), tf.constant(rise, tf.float32)))
        done += 1
        progress(done, loss)
        if checkpoint.due and done < training.steps:
            checkpoint.save([np.array(done), *(np.asarray(tf.convert_to_tensor(variable)) for variable in state)])
    parts = {name: np.asarray(tf.convert_to_tensor(value)) for name, value in model.parts.items()}
    return _as_set(asked, vectors, parts, (mean, scale, keep))


def _start(asked: SetPlan, channels: int, keep: int | None, random: np.random.Generator) -> dict[str, np.ndarray]:
    decoder = random.normal(size=(asked.count, channels)).astype(np.float32)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    start = {
        "encoder": decoder.T.copy(),
        "bias": np.zeros(asked.count, np.float32),
        "decoder": decoder,
        "centre": np.zeros(channels, np.float32),
    }
    return start if keep is not None else {**start, "log_threshold": np.full(asked.count, np.log(0.5), np.float32)}


def _as_set(
    asked: SetPlan, vectors: np.ndarray, parts: dict[str, np.ndarray], by: tuple[np.ndarray, float, int | None]
) -> DirectionSet:
    """The autoencoder in units of the layer's own activations, its atoms ordered by their summed squared responses."""
    mean, scale, keep = by
    centre = mean + scale * parts["centre"]
    threshold = scale * np.exp(parts["log_threshold"]) if keep is None else np.zeros(0)
    energy = np.zeros(asked.count)
    arrays = parts["encoder"], scale * parts["bias"] - centre @ parts["encoder"], parts["decoder"]
    unordered = _set(asked, arrays, centre, threshold, keep)
    for part in np.array_split(vectors, max(1, len(vectors) // 4096)):
        energy += (unordered.respond(part).astype(np.float64) ** 2).sum(axis=0)
    order = np.argsort(-energy, kind="stable")
    encoder, offset, decoder = arrays
    ordered = encoder[:, order], offset[order], decoder[order]
    return _set(asked, ordered, centre, threshold[order] if keep is None else threshold, keep)


def _set(
    asked: SetPlan, arrays: Sequence[np.ndarray], centre: np.ndarray, threshold: np.ndarray, keep: int | None
) -> DirectionSet:
    form = "jumprelu" if keep is None else "topk"
    every = (np.ascontiguousarray(array, np.float32) for array in (*arrays, centre, threshold))
    encoder, offset, decoder, mean, jump = every
    about: dict[str, Any] = {"threshold": jump, "keep": keep or 0, "network": asked.network}
    return DirectionSet(asked.layer, asked.name, asked.method, form, encoder, offset, decoder, mean, **about)
