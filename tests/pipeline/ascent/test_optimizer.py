"""One step of an ascent against the formulas of papers; and how a batch is cut in two."""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.ascent.objectives import channel, stack
from pipeline.ascent.optimizer import AscentConfig, Gradient, State, microbatches, slice_batch, updated
from pipeline.ascent.regularizers import diversity_penalty, normalised, penalised
from pipeline.compiled.gradients import OPENED, replaced_gradients

SHAPE = (3, 4, 2)  # of the values of one picture


def noise(count: Any, seed: Any, *shape: Any) -> Any:
    return np.random.default_rng(seed).normal(size=(count, *(shape or SHAPE))).astype(np.float32)


def gradient(ascent: Any, values: Any = None, inactive: Any = None) -> Any:
    count = len(ascent)
    given = np.ones(count, np.float32) if values is None else np.float32(values)
    return Gradient(tf.constant(given), tf.constant([False] * count if inactive is None else inactive), tf.constant(ascent))


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU, whatever this machine has."""
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [])


def test_the_steps_of_adam_are_those_of_keras() -> None:
    import keras

    theirs = keras.Variable(noise(2, 0))
    optimiser = keras.optimizers.Adam(0.3, epsilon=1e-8)
    state = State.start(tf.constant(noise(2, 0)))
    for step in range(1, 6):
        ascent = step * noise(2, step)
        optimiser.apply([tf.constant(-ascent)], [theirs])
        state = updated(state, gradient(ascent), AscentConfig(rate=0.3))
        np.testing.assert_allclose(state.values, theirs.numpy(), atol=1e-5)
    assert state.step == 5


def test_sgd_steps_have_the_same_length_for_any_strength_of_the_gradient() -> None:
    direction = noise(1, 1)
    unit = direction / np.sqrt((direction**2).mean())
    for strength in (1e-30, 1.0, 1e30):
        state = updated(State.start(tf.zeros((1, *SHAPE))), gradient(strength * direction), AscentConfig("sgd", rate=0.2))
        np.testing.assert_allclose(state.values, 0.2 * unit, rtol=1e-5)
        np.testing.assert_allclose(normalised(tf.constant(strength * direction)), unit, rtol=1e-5)
    assert not normalised(tf.zeros((1, *SHAPE))).numpy().any()


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_a_picture_that_is_not_finite_goes_back_at_half_the_rate_and_the_others_are_not_touched(optimiser: Any) -> None:
    config, ascent = AscentConfig(optimiser, rate=0.1), noise(3, 2)
    begin = updated(State.start(tf.constant(noise(3, 0))), gradient(noise(3, 1)), config)
    alone = updated(begin, gradient(ascent), config)
    infinite = ascent.copy()
    infinite[1, 0, 0, 0] = np.inf  # a value that is a number may still have a gradient that is none
    hit = updated(begin, gradient(infinite, values=[np.nan, 1, 1]), config)
    np.testing.assert_array_equal(hit.values[:2], begin.good[:2])
    np.testing.assert_array_equal(hit.good[:2], begin.good[:2])
    np.testing.assert_array_equal(hit.rate_scale, [0.5, 0.5, 1])
    np.testing.assert_array_equal(hit.failures, [1, 1, 0])
    for name, of_batch, of_single in zip(State._fields[1:], hit[1:], alone[1:], strict=True):
        assert np.isfinite(of_batch).all(), name
        np.testing.assert_array_equal(of_batch[2], of_single[2], err_msg=name)
    again = updated(hit, gradient(ascent), config)  # the next step is of half the length
    np.testing.assert_allclose(again.values[0] - hit.values[0], (again.values[0] - begin.good[0]), rtol=1e-6)
    full = updated(hit._replace(rate_scale=tf.ones(3)), gradient(ascent), config)
    np.testing.assert_allclose(2 * (again.values[:2] - hit.values[:2]), full.values[:2] - hit.values[:2], atol=1e-6)
    np.testing.assert_array_equal(again.failures, [1, 1, 0])


def test_steps_without_a_gradient_are_counted_in_a_row() -> None:
    state, counts = State.start(tf.zeros((1, *SHAPE))), []
    for inactive, value in ((True, 1), (True, 1), (True, np.nan), (True, 1), (False, 1)):
        state = updated(state, gradient(0 * noise(1, 0), [value], [inactive]), AscentConfig())
        counts.append(int(state.inactive[0]))
    assert counts == [1, 2, 0, 1, 0]


def test_the_diversity_penalty_is_how_alike_the_gram_matrices_of_a_group_are() -> None:
    maps, values = noise(6, 3, 4, 5, 3), np.float32([1, -2, 3, 0.5, 1, -1])
    flat = maps.reshape(6, 20, 3).astype(np.float64)
    grams = np.einsum("npc,npd->ncd", flat, flat).reshape(6, -1)
    grams /= np.linalg.norm(grams, axis=1, keepdims=True)
    expected = [
        0.5 * abs(values[own]) * np.mean([grams[own] @ grams[other] for other in group if other != own])
        for group in ((0, 1, 2), (3, 4, 5))
        for own in group
    ]
    given = tf.constant(values)
    with tf.GradientTape() as tape:
        tape.watch(given)
        penalty = diversity_penalty(given, tf.constant(maps), 3, 0.5)
    np.testing.assert_allclose(penalty, expected, rtol=1e-5)
    assert tape.gradient(penalty, given) is None  # how strong the penalty is has no gradient


def test_penalties_pull_towards_grey_and_evenness_beside_a_normalised_gradient() -> None:
    upstream, picture = tf.constant(100 * noise(2, 4, 5, 6, 3)), tf.constant(0.5 + 0.1 * noise(2, 5, 5, 6, 3))
    with tf.GradientTape() as tape:
        tape.watch(picture)
        variation = tf.image.total_variation(picture)
    rough = tape.gradient(variation, picture)
    for tv, l2, penalty in ((0.0, 0.5, 0.5 * (picture - 0.5)), (0.25, 0.0, 0.25 * rough), (0.0, 0.0, 0.0)):
        inactive, total = tf.function(partial(penalised, tv=tv, l2=l2), autograph=False)(upstream, picture)
        np.testing.assert_allclose(total, normalised(upstream) - penalty, atol=1e-5)
        assert not inactive.numpy().any()


@pytest.mark.parametrize("relu", [tf.nn.relu, tf.nn.relu6], ids=["relu", "relu6"])
def test_opened_relus_let_every_gradient_pass_and_others_do_not(relu: Any) -> None:
    def look(x: Any) -> Any:
        with replaced_gradients(OPENED):
            opened = relu(x)
        return opened, tf.gradients(opened, x)[0], tf.gradients(relu(x), x)[0]

    values = tf.constant([-3.0, 2.0, 9.0])
    opened, through, plain = tf.function(look, autograph=False)(values)
    np.testing.assert_array_equal(opened, relu(values))
    np.testing.assert_array_equal(through, [1, 1, 1])
    assert plain[0] == 0 and plain[1] == 1


@pytest.mark.parametrize(
    ("batch", "group", "sizes"),
    [(9, 3, [3, 6]), (12, 3, [6, 6]), (3, 3, [3]), (5, 5, [5]), (1, 1, [1]), (2, 1, [1, 1]), (3, 1, [1, 2]), (16, 1, [8, 8])],
)
def test_a_batch_is_cut_in_two_between_groups_and_loses_nothing(on_cpu: Any, batch: Any, group: Any, sizes: Any) -> None:
    pieces = [list(range(batch))[piece] for piece in microbatches(batch, group)]
    assert [len(piece) for piece in pieces] == sizes and [*chain(*pieces)] == [*range(batch)]
    assert all(piece[0] % group == 0 for piece in pieces)


def test_a_batch_stays_in_one_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["gpu"] if kind == "GPU" else [])
    assert microbatches(16) == [slice(16)]


def test_a_part_of_a_state_has_its_own_pictures_and_the_same_step() -> None:
    state = State.start(tf.constant(noise(3, 0)))._replace(step=tf.constant(7))
    arguments = tf.nest.map_structure(tf.constant, stack([channel("first", number) for number in range(3)]))
    some = slice_batch(state, slice(1, 3))
    assert some.step == 7
    for sliced, full in zip(some[1:], state[1:], strict=True):
        np.testing.assert_array_equal(sliced, full[1:])
    np.testing.assert_array_equal(slice_batch(arguments, slice(1)).numbers[0], [0])
