"""The ascent: it climbs, the same way each time, and comes to a stop where there is no way on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from pipeline.ascent.loop import STARTS, Climb, climb
from pipeline.ascent.measure import check_reach, compile_measure
from pipeline.ascent.optimizer import MOST_MISSES, Ascent, State, Way
from pipeline.ascent.parametrization import CANVASES, fourier, pixels, plain
from pipeline.ascent.transforms import Shake
from pipeline.compiled.gradients import OPENED, replaced_gradients
from pipeline.dream import channel, layer, logit
from pipeline.errors import UnusableModel

SHAKEN = Way(shake=Shake(pad=0.1, jitter=0.1, scale=0.1, rotate=5))


def start(canvas, count, contrast=0.1):
    return State.start(tf.stack([canvas.noise((0, place), contrast) for place in range(count)]))


def ascent(network, objectives, way=SHAKEN, kind=fourier):
    rim = way.shake.rim(12)
    return Ascent.compile(network, kind(12 + 2 * rim, 12 + 2 * rim), objectives, way)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("kind", sorted(CANVASES))
def test_every_picture_of_a_batch_climbs_its_own_objective(smooth, kind, optimiser):
    objectives = [channel("second", 0), channel("second", 3), -1 * channel("second", 0)]
    compiled = ascent(smooth, objectives, replace(SHAKEN, optimiser=optimiser), CANVASES[kind])
    state = start(compiled.canvas, 3)
    measure = compile_measure(smooth, objectives)
    before, _, _ = measure(compiled.pictures(state), objectives)
    after, _, _ = measure(compiled.pictures(compiled.climb(state, objectives, 40)[0]), objectives)
    assert (after > before + 0.05 * abs(before)).all()


def test_the_same_seed_gives_the_same_bits_and_another_does_not(smooth):
    objectives = [logit(0), logit(2)]
    runs = []
    for seed in (0, 0, 1):
        compiled = ascent(smooth, objectives, replace(SHAKEN, seed=seed))
        runs.append(compiled.climb(start(compiled.canvas, 2), objectives, 12))
    for first, second in zip(tf.nest.flatten(runs[0]), tf.nest.flatten(runs[1]), strict=True):
        np.testing.assert_array_equal(first, second)
    assert (runs[0][1] != runs[2][1]).any()
    # A picture that stands still is seen in another way at each step.
    _, curve = compiled.climb(start(compiled.canvas, 2)._replace(share=tf.zeros(2)), objectives, 6)
    assert len(set(curve[:, 0].tolist())) == 6


def test_however_the_steps_are_cut_into_calls_the_bits_are_the_same(smooth):
    objectives = [channel("first", 1)] * 2
    compiled = ascent(smooth, objectives)
    state = start(compiled.canvas, 2)
    whole, curve = compiled.climb(state, objectives, 12)
    curves = []
    for steps in (1, 4, 7):
        state, part = compiled.climb(State(*map(np.asarray, state)), objectives, steps)
        curves.append(part)
    np.testing.assert_array_equal(np.concatenate(curves), curve)
    for one, other in zip(whole, state, strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_picture_of_a_batch_whose_halves_differ_in_length_climbs_as_it_would_alone(smooth):
    objectives = [channel("second", number) for number in (3, 0, 4)]
    together, alone = ascent(smooth, objectives), ascent(smooth, objectives[:1])
    begin = start(together.canvas, 3)
    state, curve = together.climb(begin, objectives, 8)
    for place, objective in enumerate(objectives):
        single, own = alone.climb(State.start(begin.values[place : place + 1]), [objective], 8)
        np.testing.assert_allclose(curve[:, place], own[:, 0], rtol=1e-4)
        np.testing.assert_allclose(state.values[place], single.values[0], atol=1e-3)


def test_variants_of_one_channel_keep_apart_in_either_half_of_a_batch(smooth):
    """Three groups of three, in halves of one and of two groups: wherever a group stands, it climbs the same way."""
    objectives = [channel("first", number) for number in (1, 2, 0) for _ in range(3)]
    compiled = ascent(smooth, objectives, Way(group=3, diversity=3.0), pixels)
    values = start(compiled.canvas, 9).values
    state, _ = compiled.climb(State.start(values), objectives, 4)
    turned, _ = compiled.climb(State.start(tf.roll(values, 3, 0)), objectives[-3:] + objectives[:-3], 4)
    np.testing.assert_allclose(turned.values, tf.roll(state.values, 3, 0), atol=1e-3)


def test_the_values_are_those_of_the_objectives_before_each_step(smooth):
    objectives = [layer("first")]
    compiled = ascent(smooth, objectives, Way(), pixels)
    state = start(compiled.canvas, 1)
    picture = 255 * compiled.canvas.paint(state.values)
    maps = smooth.trace(smooth.preprocess(picture), ["first"])["first"]
    _, curve = compiled.climb(state, objectives, 3)
    np.testing.assert_allclose(curve[0, 0], tf.reduce_mean(maps**2), rtol=1e-5)
    assert curve.shape == (3, 1) and (np.diff(curve[:, 0]) > 0).all()


@pytest.mark.parametrize(
    ("penalty", "size"),
    [
        ("tv", lambda picture: float(tf.image.total_variation(tf.constant(picture))[0])),
        ("l2", lambda picture: float(np.var(picture))),
    ],
)
def test_a_penalty_makes_less_of_what_it_is_on_and_more_of_it_still_less(smooth, penalty, size):
    sizes = []
    for weight in (0.0, 0.5, 5.0):
        compiled = ascent(smooth, [channel("second", 0)], Way(**{penalty: weight}), pixels)
        state, _ = compiled.climb(start(compiled.canvas, 1), [channel("second", 0)], 60)
        sizes.append(size(compiled.canvas.paint(state.good).numpy()))
    assert sizes[0] > 1.1 * sizes[1] > 1.2 * sizes[2]


def test_diversity_drives_the_variants_of_one_channel_apart(smooth):
    objectives = [channel("first", 1)] * 3

    def difference(diversity):
        compiled = ascent(smooth, objectives, Way(group=3, diversity=diversity), pixels)
        state, _ = compiled.climb(start(compiled.canvas, 3), objectives, 30)
        maps = smooth.trace(smooth.preprocess(compiled.pictures(state)), ["first"])["first"].numpy().reshape(3, -1, 4)
        grams = np.einsum("npc,npd->ncd", maps, maps).reshape(3, -1)
        grams /= np.linalg.norm(grams, axis=1, keepdims=True)
        return 1 - (grams @ grams.T)[np.triu_indices(3, 1)].mean()

    assert difference(3.0) > 10 * difference(0.0)


def test_at_nan_the_step_is_halved_then_the_picture_stops_and_the_last_good_one_is_kept(cliff, tmp_path):
    red, dark = channel("light", 0), -1 * channel("light", 0)
    compiled = ascent(cliff, [red, dark], Way(rate=0.3), pixels)
    climbed = climb(compiled, [red, dark], ["red", "dark"], Climb(60, 0, 0.1), tmp_path / "none", lambda steps, loss: None)
    assert climbed.stopped.tolist() == [True, False] and not climbed.dead.any()
    assert climbed.state.misses[0] == MOST_MISSES and climbed.state.misses[1] == 0
    lost = np.isnan(climbed.losses[:, 0])
    assert lost.sum() == MOST_MISSES and not np.isnan(climbed.losses[:, 1]).any()
    # It came as near to the edge as the shortest step goes, and stands there.
    assert np.nanmax(climbed.losses[:, 0]) == pytest.approx(0.6, abs=2e-3)
    pictures = compiled.pictures(climbed.state)
    assert pictures[0, ..., 0].mean() / 255 == pytest.approx(0.6, abs=5e-3)
    assert pictures[1, ..., 0].mean() < 60


def test_a_picture_that_is_nan_from_the_start_stops_too(cliff):
    compiled = ascent(cliff, [channel("light", 1)], Way(), plain)
    state, curve = compiled.climb(State.start(tf.fill((1, 12, 12, 3), 0.9)), [channel("light", 1)], 30)
    assert np.isnan(curve).all() and state.share[0] == 0
    assert (compiled.pictures(state) == 230).all()


def test_a_sleeping_channel_is_woken_and_a_dead_one_is_told_after_several_starts(sleepy, tmp_path):
    objectives = [channel("eyes", number) for number in range(3)]
    compiled = ascent(sleepy, objectives, Way(rate=0.3), pixels)
    quiet, _ = compiled.climb(start(compiled.canvas, 3), objectives, 1)
    assert quiet.asleep.numpy().tolist() == [0, 1, 1]  # the plain start wakes only the first
    climbed = climb(compiled, objectives, ["a", "b", "c"], Climb(30, 0, 0.1), tmp_path / "none", lambda steps, loss: None)
    assert climbed.dead.tolist() == [False, False, True]
    assert climbed.starts[0] == 1 and 1 < climbed.starts[1] <= STARTS and climbed.starts[2] == STARTS
    assert climbed.losses[-1, 1] > 1 and climbed.losses[-1, 2] == 0


@pytest.mark.parametrize("rectifier", [tf.nn.relu, tf.nn.relu6])
def test_only_rectifiers_that_stop_all_of_an_image_are_opened(rectifier):
    @tf.function(autograph=False)
    def slope(images):
        with replaced_gradients(OPENED):
            return tf.gradients(rectifier(rectifier(images) - [[2.0]]), images)[0]

    # The first rectifier stops one value of each image; the second all of the first image, and one value of the second.
    images = tf.constant([[-1.0, 0.5, 1.0], [-1.0, 0.5, 3.0]])
    assert slope(images).numpy().tolist() == [[0, 1, 1], [0, 0, 1]]


def test_a_climb_that_was_stopped_goes_on_from_its_snapshot_to_the_same_bits(smooth, tmp_path):
    objectives, keys = [channel("second", 0), channel("second", 1)], ["a", "b"]
    compiled = ascent(smooth, objectives)
    plan = Climb(24, 5, 0.1, every=0.0)
    whole = climb(compiled, objectives, keys, plan, tmp_path / "whole.npz", lambda steps, loss: None)

    class Stopped(Exception):
        pass

    def stop(steps, loss):
        if steps > 10:
            raise Stopped

    snapshot = tmp_path / "stopped.npz"
    with pytest.raises(Stopped):
        climb(compiled, objectives, keys, plan, snapshot, stop)
    told = []
    again = climb(compiled, objectives, keys, plan, snapshot, lambda steps, loss: told.append(steps))
    assert told[0] > 1 and told[-1] == 24  # it did not begin anew
    np.testing.assert_array_equal(again.losses, whole.losses)
    for one, other in zip(again.state, whole.state, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_torn_snapshot_is_as_good_as_none(smooth, tmp_path):
    objectives = [channel("second", 0)]
    compiled = ascent(smooth, objectives)
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 half a file")
    plan = Climb(3, 5, 0.1)
    one, other = (climb(compiled, objectives, ["a"], plan, tmp_path / name, lambda *_: None) for name in ("torn.npz", "none"))
    np.testing.assert_array_equal(one.losses, other.losses)


def test_layers_that_no_gradient_reaches_are_named(sleepy, smooth):
    check_reach(smooth, ["first", "second", "logits"])
    with pytest.raises(UnusableModel, match=r"no gradient reaches floor or cut in sleepy"):
        check_reach(sleepy, ["eyes", "floor", "cut"])
    with pytest.raises(UnusableModel, match="no gradient reaches cut in sleepy"):
        ascent(sleepy, [channel("cut", 0)])
