"""One step of an ascent, held against what papers and hands work out; and how a batch is cut in two."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import tensorflow as tf

from pipeline.ascent.objectives import stack
from pipeline.ascent.optimizer import Slope, State, Way, apart, moved, normalised, part_of, pieces_of, weighed
from pipeline.compiled.gradients import OPENED, replaced_gradients
from pipeline.dream import channel

SHAPE = (3, 4, 2)  # of the values of one picture


def noise(count, seed, *shape):
    return np.random.default_rng(seed).normal(size=(count, *(shape or SHAPE))).astype(np.float32)


def slope(ascent, values=None, still=None):
    count = len(ascent)
    given = np.ones(count, np.float32) if values is None else np.float32(values)
    return Slope(tf.constant(given), tf.constant([False] * count if still is None else still), tf.constant(ascent))


@pytest.fixture
def on_cpu(monkeypatch):
    """No GPU, whatever this machine has."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])


def test_the_steps_of_adam_are_those_of_keras():
    import keras

    theirs = keras.Variable(noise(2, 0))
    optimiser = keras.optimizers.Adam(0.3, epsilon=1e-8)
    state = State.start(tf.constant(noise(2, 0)))
    for step in range(1, 6):
        ascent = step * noise(2, step)
        optimiser.apply([tf.constant(-ascent)], [theirs])
        state = moved(state, slope(ascent), Way(rate=0.3))
        np.testing.assert_allclose(state.values, theirs.numpy(), atol=1e-5)
    assert state.step == 5


def test_steps_of_one_length_go_along_the_gradient_whatever_its_strength():
    direction = noise(1, 1)
    unit = direction / np.sqrt((direction**2).mean())
    for strength in (1e-30, 1.0, 1e30):
        state = moved(State.start(tf.zeros((1, *SHAPE))), slope(strength * direction), Way("sgd", rate=0.2))
        np.testing.assert_allclose(state.values, 0.2 * unit, rtol=1e-5)
        np.testing.assert_allclose(normalised(tf.constant(strength * direction)), unit, rtol=1e-5)
    assert not normalised(tf.zeros((1, *SHAPE))).numpy().any()


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_what_is_not_finite_sends_a_picture_back_at_half_the_rate_and_leaves_the_others_alone(optimiser):
    way, ascent = Way(optimiser, rate=0.1), noise(3, 2)
    begin = moved(State.start(tf.constant(noise(3, 0))), slope(noise(3, 1)), way)
    alone = moved(begin, slope(ascent), way)
    infinite = ascent.copy()
    infinite[1, 0, 0, 0] = np.inf  # a value that is a number may still have a gradient that is none
    hit = moved(begin, slope(infinite, values=[np.nan, 1, 1]), way)
    np.testing.assert_array_equal(hit.values[:2], begin.good[:2])
    np.testing.assert_array_equal(hit.good[:2], begin.good[:2])
    np.testing.assert_array_equal(hit.share, [0.5, 0.5, 1])
    np.testing.assert_array_equal(hit.misses, [1, 1, 0])
    for name, one, other in zip(State._fields[1:], hit[1:], alone[1:], strict=True):
        assert np.isfinite(one).all(), name
        np.testing.assert_array_equal(one[2], other[2], err_msg=name)
    again = moved(hit, slope(ascent), way)  # the next step is of half the length
    np.testing.assert_allclose(again.values[0] - hit.values[0], (again.values[0] - begin.good[0]), rtol=1e-6)
    full = moved(hit._replace(share=tf.ones(3)), slope(ascent), way)
    np.testing.assert_allclose(2 * (again.values[:2] - hit.values[:2]), full.values[:2] - hit.values[:2], atol=1e-6)
    np.testing.assert_array_equal(again.misses, [1, 1, 0])


def test_steps_without_a_gradient_are_counted_in_a_row():
    state, counts = State.start(tf.zeros((1, *SHAPE))), []
    for still, value in ((True, 1), (True, 1), (True, np.nan), (True, 1), (False, 1)):
        state = moved(state, slope(0 * noise(1, 0), [value], [still]), Way())
        counts.append(int(state.asleep[0]))
    assert counts == [1, 2, 0, 1, 0]


def test_diversity_takes_away_how_alike_the_gram_matrices_of_a_group_are():
    maps, values = noise(6, 3, 4, 5, 3), np.float32([1, -2, 3, 0.5, 1, -1])
    flat = maps.reshape(6, 20, 3).astype(np.float64)
    grams = np.einsum("npc,npd->ncd", flat, flat).reshape(6, -1)
    grams /= np.linalg.norm(grams, axis=1, keepdims=True)
    expected = [
        values[one] - 0.5 * abs(values[one]) * np.mean([grams[one] @ grams[other] for other in group if other != one])
        for group in ((0, 1, 2), (3, 4, 5))
        for one in group
    ]
    way, given = Way(group=3, diversity=0.5), tf.constant(values)
    with tf.GradientTape() as tape:
        tape.watch(given)
        found = apart(given, tf.constant(maps), way)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(tape.gradient(found, given), np.ones(6))  # how much it counts is no part of the climb
    for none in (Way(group=3, diversity=0.0), Way(group=1, diversity=0.5)):
        assert apart(given, tf.constant(maps), none) is given


def test_penalties_pull_towards_grey_and_evenness_beside_a_pull_of_one_strength():
    pull, picture = tf.constant(100 * noise(2, 4, 5, 6, 3)), tf.constant(0.5 + 0.1 * noise(2, 5, 5, 6, 3))
    with tf.GradientTape() as tape:
        tape.watch(picture)
        variation = tf.image.total_variation(picture)
    rough = tape.gradient(variation, picture)
    for way, penalty in ((Way(l2=0.5), 0.5 * (picture - 0.5)), (Way(tv=0.25), 0.25 * rough), (Way(), 0.0)):
        still, found = tf.function(lambda pull, picture, way=way: weighed(pull, picture, way), autograph=False)(pull, picture)
        np.testing.assert_allclose(found, normalised(pull) - penalty, atol=1e-5)
        assert not still.numpy().any()


@pytest.mark.parametrize("rectifier", [tf.nn.relu, tf.nn.relu6], ids=["relu", "relu6"])
def test_opened_rectifiers_let_every_gradient_pass_and_others_do_not(rectifier):
    def look(x):
        with replaced_gradients(OPENED):
            opened = rectifier(x)
        return opened, tf.gradients(opened, x)[0], tf.gradients(rectifier(x), x)[0]

    values = tf.constant([-3.0, 2.0, 9.0])
    opened, through, plain = tf.function(look, autograph=False)(values)
    np.testing.assert_array_equal(opened, rectifier(values))
    np.testing.assert_array_equal(through, [1, 1, 1])
    assert plain[0] == 0 and plain[1] == 1


@pytest.mark.parametrize(
    ("batch", "group", "sizes"),
    [(9, 3, [3, 6]), (12, 3, [6, 6]), (3, 3, [3]), (5, 5, [5]), (1, 1, [1]), (2, 1, [1, 1]), (3, 1, [1, 2]), (16, 1, [8, 8])],
)
def test_a_batch_is_cut_in_two_between_groups_and_loses_nothing(on_cpu, batch, group, sizes):
    pieces = [list(range(batch))[piece] for piece in pieces_of(batch, group)]
    assert [len(piece) for piece in pieces] == sizes and [*chain(*pieces)] == [*range(batch)]
    assert all(piece[0] % group == 0 for piece in pieces)


def test_a_batch_stays_in_one_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one"] if kind == "GPU" else [])
    assert pieces_of(16) == [slice(16)]


def test_a_part_of_a_state_has_its_own_pictures_and_the_same_step():
    state = State.start(tf.constant(noise(3, 0)))._replace(step=tf.constant(7))
    arguments = tf.nest.map_structure(tf.constant, stack([channel("first", number) for number in range(3)]))
    some = part_of(state, slice(1, 3))
    assert some.step == 7
    for one, other in zip(some[1:], state[1:], strict=True):
        np.testing.assert_array_equal(one, other[1:])
    np.testing.assert_array_equal(part_of(arguments, slice(1)).numbers[0], [0])
