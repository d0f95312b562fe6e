"""The ascent: objectives rise, to the same bits each time, and pictures stop where nothing is finite."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.ascent.checkpoint import Checkpoint
from pipeline.ascent.loop import Loop, Trajectory
from pipeline.ascent.measure import check_gradients, compile_measure
from pipeline.ascent.objectives import channel, layer, logit
from pipeline.ascent.optimizer import MAX_FAILURES, Ascent, AscentConfig, State
from pipeline.ascent.parametrization import PARAMETRIZATIONS, fourier, pixels, plain
from pipeline.ascent.starts import MAX_STARTS, Noise, find_starts
from pipeline.ascent.transforms import Transforms
from pipeline.compiled.gradients import OPENED, replaced_gradients
from pipeline.errors import UnusableModel

MOVED = AscentConfig(transforms=Transforms(pad=0.1, jitter=0.1, scale=0.1, rotate=5))


def start(parametrization: Any, count: Any, contrast: Any = 0.1) -> Any:
    return State.start(tf.stack([parametrization.noise((0, number), contrast) for number in range(count)]))


def make(compiled: Any, objectives: Any, steps: Any, checkpoint: Any, report: Any = lambda steps, loss: None) -> Any:
    """All steps of a batch, from its noises or a checkpoint: the trajectory, and the noises tried."""
    checkpoint = Checkpoint(checkpoint, 0.0)
    trajectory = Trajectory.load(checkpoint)
    if trajectory is None:
        state, starts = find_starts(compiled, objectives, list("abc")[: len(objectives)], Noise(0, 0.1))
        trajectory = Trajectory(state, notes=[starts])
    Loop(checkpoint, report).ascend(partial(compiled.run, objectives=objectives), trajectory, steps)
    return trajectory


def ascent(network: Any, objectives: Any, config: Any = MOVED, kind: Any = fourier) -> Any:
    margin = config.transforms.margin(12)
    return Ascent.compile(network, kind(12 + 2 * margin, 12 + 2 * margin), objectives, config)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("kind", sorted(PARAMETRIZATIONS))
def test_every_picture_of_a_batch_raises_its_own_objective(smooth: Any, kind: Any, optimiser: Any) -> None:
    objectives = [channel("second", 0), channel("second", 3), -1 * channel("second", 0)]
    compiled = ascent(smooth, objectives, replace(MOVED, optimiser=optimiser), PARAMETRIZATIONS[kind])
    state = start(compiled.parametrization, 3)
    measure = compile_measure(smooth, objectives)
    before, _, _ = measure(compiled.pictures(state.good), objectives)
    after, _, _ = measure(compiled.pictures(compiled.run(state, objectives, 40)[0].good), objectives)
    assert (after > before + 0.05 * abs(before)).all()


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(smooth: Any) -> None:
    objectives = [logit(0), logit(2)]
    runs = []
    for seed in (0, 0, 1):
        compiled = ascent(smooth, objectives, replace(MOVED, seed=seed))
        runs.append(compiled.run(start(compiled.parametrization, 2), objectives, 12))
    for first, second in zip(tf.nest.flatten(runs[0]), tf.nest.flatten(runs[1]), strict=True):
        np.testing.assert_array_equal(first, second)
    assert (runs[0][1] != runs[2][1]).any()
    # A picture that does not change is seen transformed in another way at each step.
    _, curve = compiled.run(start(compiled.parametrization, 2)._replace(rate_scale=tf.zeros(2)), objectives, 6)
    assert len(set(curve[:, 0].tolist())) == 6


def test_what_is_not_the_network_is_traced_once_for_both_halves_of_a_batch_and_for_all_layers(smooth: Any) -> None:
    """XLA compiles each trace, which takes a second."""
    side, traced = 12 + 2 * MOVED.transforms.margin(12), []
    frequencies = fourier(side, side)

    def render(values: Any) -> Any:
        traced.append(values.shape)
        return frequencies.render(values)

    for name in ("first", "second"):
        Ascent.compile(smooth, replace(frequencies, render=render), [channel(name, 0)] * 4, MOVED)
    assert len(traced) == 1, traced


def test_any_division_of_the_steps_among_calls_gives_the_same_bits(smooth: Any) -> None:
    objectives = [channel("first", 1)] * 2
    compiled = ascent(smooth, objectives)
    state = start(compiled.parametrization, 2)
    whole, curve = compiled.run(state, objectives, 12)
    curves = []
    for steps in (1, 4, 7):
        state, part = compiled.run(State(*map(np.asarray, state)), objectives, steps)
        curves.append(part)
    np.testing.assert_array_equal(np.concatenate(curves), curve)
    for at_once, divided in zip(whole, state, strict=True):
        np.testing.assert_array_equal(at_once, divided)


def test_a_picture_of_a_batch_with_unequal_halves_becomes_what_it_would_be_alone(smooth: Any) -> None:
    objectives = [channel("second", number) for number in (3, 0, 4)]
    together, alone = ascent(smooth, objectives), ascent(smooth, objectives[:1])
    begin = start(together.parametrization, 3)
    state, curve = together.run(begin, objectives, 8)
    for number, objective in enumerate(objectives):
        single, own = alone.run(State.start(begin.values[number : number + 1]), [objective], 8)
        np.testing.assert_allclose(curve[:, number], own[:, 0], rtol=1e-4)
        np.testing.assert_allclose(state.values[number], single.values[0], atol=1e-3)


def test_variants_of_one_channel_differ_the_same_way_in_either_half_of_a_batch(smooth: Any) -> None:
    """Three groups of three, in halves of one and of two groups: wherever a group stands, it becomes the same."""
    objectives = [channel("first", number) for number in (1, 2, 0) for _ in range(3)]
    compiled = ascent(smooth, objectives, AscentConfig(group=3, diversity=3.0), pixels)
    values = start(compiled.parametrization, 9).values
    state, _ = compiled.run(State.start(values), objectives, 4)
    turned, _ = compiled.run(State.start(tf.roll(values, 3, 0)), objectives[-3:] + objectives[:-3], 4)
    np.testing.assert_allclose(turned.values, tf.roll(state.values, 3, 0), atol=1e-3)


def test_the_values_are_those_of_the_objectives_before_each_step(smooth: Any) -> None:
    objectives = [layer("first")]
    compiled = ascent(smooth, objectives, AscentConfig(), pixels)
    state = start(compiled.parametrization, 1)
    picture = 255 * compiled.parametrization.render(state.values)
    maps = smooth.trace(smooth.preprocess(picture), ["first"])["first"]
    _, curve = compiled.run(state, objectives, 3)
    np.testing.assert_allclose(curve[0, 0], tf.reduce_mean(maps**2), rtol=1e-5)
    assert curve.shape == (3, 1) and (np.diff(curve[:, 0]) > 0).all()


@pytest.mark.parametrize(
    ("penalty", "size"),
    [
        ("tv", lambda picture: float(tf.image.total_variation(tf.constant(picture))[0])),
        ("l2", lambda picture: float(np.var(picture))),
    ],
)
def test_a_larger_penalty_leaves_less_of_what_it_penalises(smooth: Any, penalty: Any, size: Any) -> None:
    sizes = []
    for weight in (0.0, 0.5, 5.0):
        compiled = ascent(smooth, [channel("second", 0)], AscentConfig(**{penalty: weight}), pixels)
        state, _ = compiled.run(start(compiled.parametrization, 1), [channel("second", 0)], 60)
        sizes.append(size(compiled.parametrization.render(state.good).numpy()))
    assert sizes[0] > 1.1 * sizes[1] > 1.2 * sizes[2]


def test_diversity_makes_the_variants_of_one_channel_differ(smooth: Any) -> None:
    objectives = [channel("first", 1)] * 3

    def difference(diversity: Any) -> Any:
        compiled = ascent(smooth, objectives, AscentConfig(group=3, diversity=diversity), pixels)
        state, _ = compiled.run(start(compiled.parametrization, 3), objectives, 30)
        maps = smooth.trace(smooth.preprocess(compiled.pictures(state.good)), ["first"])["first"].numpy().reshape(3, -1, 4)
        grams = np.einsum("npc,npd->ncd", maps, maps).reshape(3, -1)
        grams /= np.linalg.norm(grams, axis=1, keepdims=True)
        return 1 - (grams @ grams.T)[np.triu_indices(3, 1)].mean()

    assert difference(3.0) > 10 * difference(0.0)


def test_at_nan_the_step_is_halved_then_the_picture_stops_and_the_last_good_one_is_kept(cliff: Any, tmp_path: Path) -> None:
    red, dark = channel("light", 0), -1 * channel("light", 0)
    compiled = ascent(cliff, [red, dark], AscentConfig(rate=0.3), pixels)
    trajectory = make(compiled, [red, dark], 60, tmp_path / "none")
    losses = np.concatenate(trajectory.losses)
    assert trajectory.stopped.tolist() == [True, False] and (np.asarray(trajectory.state.inactive) < 60).all()
    assert trajectory.state.failures[0] == MAX_FAILURES and trajectory.state.failures[1] == 0
    assert np.isnan(losses[:, 0]).sum() == MAX_FAILURES and not np.isnan(losses[:, 1]).any()
    # It came as near to the edge as the shortest step goes, and stays there.
    assert np.nanmax(losses[:, 0]) == pytest.approx(0.6, abs=2e-3)
    pictures = compiled.pictures(trajectory.state.good)
    assert pictures[0, ..., 0].mean() / 255 == pytest.approx(0.6, abs=5e-3)
    assert pictures[1, ..., 0].mean() < 60


def test_a_picture_that_is_nan_from_the_start_stops_too(cliff: Any) -> None:
    compiled = ascent(cliff, [channel("light", 1)], AscentConfig(), plain)
    state, curve = compiled.run(State.start(tf.fill((1, 12, 12, 3), 0.9)), [channel("light", 1)], 30)
    assert np.isnan(curve).all() and state.rate_scale[0] == 0
    assert (compiled.pictures(state.good) == 230).all()


def test_a_silent_channel_gets_a_start_with_a_gradient_and_a_dead_one_is_given_up_after_several(
    silent: Any, tmp_path: Path
) -> None:
    objectives = [channel("eyes", number) for number in range(3)]
    compiled = ascent(silent, objectives, AscentConfig(rate=0.3), pixels)
    plain, _ = compiled.run(start(compiled.parametrization, 3), objectives, 1)
    assert plain.inactive.numpy().tolist() == [0, 1, 1]  # plain noise fires only the first
    trajectory = make(compiled, objectives, 30, tmp_path / "none")
    starts, losses = trajectory.notes[0], np.concatenate(trajectory.losses)
    assert (np.asarray(trajectory.state.inactive) >= 30).tolist() == [False, False, True]
    assert starts[0] == 1 and 1 < starts[1] <= MAX_STARTS and starts[2] == MAX_STARTS
    assert losses[-1, 1] > 1 and losses[-1, 2] == 0


@pytest.mark.parametrize("relu", [tf.nn.relu, tf.nn.relu6])
def test_only_relus_that_stop_all_of_an_image_are_opened(relu: Any) -> None:
    @tf.function(autograph=False)
    def slope(images: Any) -> Any:
        with replaced_gradients(OPENED):
            return tf.gradients(relu(relu(images) - [[2.0]]), images)[0]

    # The first ReLU stops one value of each image; the second all of the first image, and one value of the second.
    images = tf.constant([[-1.0, 0.5, 1.0], [-1.0, 0.5, 3.0]])
    assert slope(images).numpy().tolist() == [[0, 1, 1], [0, 0, 1]]


def test_an_ascent_that_was_stopped_goes_on_from_its_checkpoint_to_the_same_bits(smooth: Any, tmp_path: Path) -> None:
    objectives = [channel("second", 0), channel("second", 1)]
    compiled = ascent(smooth, objectives)
    whole = make(compiled, objectives, 24, tmp_path / "whole.npz")

    def stop(steps: Any, loss: Any) -> None:
        if steps > 10:
            raise KeyboardInterrupt

    checkpoint, reports = tmp_path / "stopped.npz", []
    with pytest.raises(KeyboardInterrupt):
        make(compiled, objectives, 24, checkpoint, stop)
    again = make(compiled, objectives, 24, checkpoint, lambda steps, loss: reports.append(steps))
    assert reports[0] > 1 and reports[-1] == 24  # it did not start anew
    np.testing.assert_array_equal(np.concatenate(again.losses), np.concatenate(whole.losses))
    for resumed, uninterrupted in zip(again.state, whole.state, strict=True):
        np.testing.assert_array_equal(resumed, uninterrupted)


def test_a_torn_checkpoint_counts_as_none(smooth: Any, tmp_path: Path) -> None:
    objectives = [channel("second", 0)]
    compiled = ascent(smooth, objectives)
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 half a file")
    torn, none = (make(compiled, objectives, 3, tmp_path / name) for name in ("torn.npz", "none"))
    np.testing.assert_array_equal(np.concatenate(torn.losses), np.concatenate(none.losses))


def test_layers_that_no_gradient_reaches_are_named(silent: Any, smooth: Any) -> None:
    check_gradients(smooth, ["first", "second", "logits"])
    with pytest.raises(UnusableModel, match=r"no gradient reaches floor or cut in silent"):
        check_gradients(silent, ["eyes", "floor", "cut"])
    with pytest.raises(UnusableModel, match="no gradient reaches cut in silent"):
        ascent(silent, [channel("cut", 0)])


def test_a_class_whose_gradients_are_too_small_for_half_precision_is_raised_as_in_single() -> None:
    """A last map of 224 x 224 and 1,000 classes: a mean over the map and small weights leave less than float16 holds."""
    import keras

    from pipeline.dream.tiles import Segment, TileConfig, TiledAscent
    from pipeline.dream.tiles import start as start_of
    from pipeline.models.keras.model import keras_network

    def build(policy: str) -> Any:
        x = inputs = keras.Input((224, 224, 3))
        x = keras.layers.Conv2D(4, 3, padding="same", name="last", dtype=policy)(x)
        x = keras.layers.GlobalAveragePooling2D(dtype=policy)(keras.layers.ReLU(dtype=policy)(x))
        return keras.Model(inputs, keras.layers.Dense(1000, name="classes", dtype=policy)(x))

    half, whole = build("mixed_float16"), build("float32")
    random = np.random.default_rng(0)
    half.get_layer("last").set_weights([random.normal(0, 0.3, (3, 3, 3, 4)), np.full(4, 0.3)])
    half.get_layer("classes").set_weights([random.normal(0, 2e-4, (4, 1000)), np.zeros(1000)])
    whole.set_weights(half.get_weights())
    picture = random.uniform(0.3, 0.7, (224, 224, 3)).astype(np.float32)
    patterns, dreams = [], []
    for model in (half, whole):
        network = keras_network(model, "net", None, "unit")
        compiled = Ascent.compile(network, plain(224, 224), [logit(7)], AscentConfig("sgd", rate=1.0))
        begin = start(compiled.parametrization, 1)
        patterns.append(compiled.run(begin, [logit(7)], 1)[0].values - begin.values)
        tiled = TiledAscent.compile(network, logit(7), TileConfig(), 1)
        dreams.append(tiled.run(start_of(picture), logit(7), Segment(0, 1), 1)[0].values - picture)
    for moves in (patterns, dreams):
        flat = [np.ravel(move) for move in moves]
        assert flat[0].any() and np.corrcoef(*flat)[0, 1] > 0.99
