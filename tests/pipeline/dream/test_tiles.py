"""Tiles: a picture of any size changes as it would in one piece, to the same bits each time."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.ascent.objectives import layer, logit
from pipeline.ascent.optimizer import MAX_FAILURES
from pipeline.ascent.regularizers import bilateral, laplacian_normalised, normalised
from pipeline.dream.tiles import Segment, TileConfig, TiledAscent, compile_tiled_measure, start
from pipeline.errors import UnusableModel
from pipeline.models.keras.model import keras_network

TEN_STEPS = Segment(0, 10)


@pytest.fixture(scope="module")
def pointwise() -> Any:
    """12x12 RGB -> `same`: each pixel's red times 3, and its red plus its blue; no pixel sees another."""
    import keras

    inputs = keras.Input((12, 12, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1, use_bias=False, name="same")(inputs))
    model.get_layer("same").set_weights([np.float32([[3, 1], [0, 0], [0, 1]]).reshape(1, 1, 3, 2)])
    return keras_network(model, "pointwise", None, "unit")


@pytest.fixture(scope="module")
def picture() -> Any:
    """A function: height, width -> a picture, float32 (height, width, 3)."""
    return lambda height, width: np.random.default_rng(5).uniform(0.3, 0.7, (height, width, 3)).astype(np.float32)


@functools.cache
def compiled(network: Any, objective: Any, config: Any, batch: Any) -> Any:
    return TiledAscent.compile(network, objective, config, batch)


def ascend(
    network: Any,
    objective: Any,
    picture: Any,
    config: Any = TileConfig(),
    batch: Any = 2,
    steps: Any = (10,),
    segment: Any = TEN_STEPS,
) -> Any:
    ascent = compiled(network, objective, config, batch)
    state, losses = start(picture), []
    for number in steps:
        state, of_call = ascent.run(state, objective, segment, number)
        losses.append(of_call[:, 0])
    return state, np.concatenate(losses)


@pytest.mark.parametrize("size", [(12, 12), (24, 36), (31, 20), (13, 50)])
def test_every_pixel_changes_once_by_its_own_gradient(pointwise: Any, picture: Any, size: Any) -> None:
    before = picture(*size)
    red, blue = before[..., 0], before[..., 2]
    # The mean square of a tile's 288 numbers; what is divided by the root mean square need not be divided by 288.
    gradient = np.stack([3 * 3 * red + (red + blue), 0 * red, red + blue], axis=-1)
    expected = before + 0.01 * gradient / np.sqrt((gradient**2).mean())
    for seed in (0, 1):
        state, _ = ascend(pointwise, layer("same"), before, TileConfig(0.01, seed=seed), batch=3, steps=(1,))
        np.testing.assert_allclose(state.values[0], expected, atol=1e-6)


def test_the_loss_is_the_mean_over_the_tiles(smooth: Any, picture: Any) -> None:
    whole = picture(24, 24)
    objective = logit(1) + 0.5 * layer("second")
    _, losses = ascend(smooth, objective, whole, TileConfig(shift=0.0), batch=3, steps=(1,))
    value = compile_tiled_measure(smooth, objective, 3)(255 * whole, objective)
    tiles = np.stack([whole[y : y + 12, x : x + 12] for y in (0, 12) for x in (0, 12)])
    maps = smooth.trace(smooth.preprocess(255 * tiles), ["second", "logits"])
    expected = maps["logits"].numpy()[:, 1].mean() + 0.5 * (maps["second"].numpy() ** 2).mean()
    np.testing.assert_allclose([losses[0], value], expected, rtol=1e-5)


def test_the_objective_rises(smooth: Any, picture: Any) -> None:
    _, losses = ascend(
        smooth, logit(2), picture(31, 20), TileConfig(levels=2, sigma=0.44), steps=(30,), segment=Segment(0, 30, 0.4, 0.3)
    )
    assert losses[-5:].mean() > 1.2 * losses[:5].mean()


@pytest.mark.parametrize("config", [TileConfig(seed=3), TileConfig(levels=2, sigma=0.5, seed=3)], ids=["plain", "smoothed"])
def test_any_division_of_the_steps_among_calls_gives_the_same_bits(smooth: Any, picture: Any, config: Any) -> None:
    segment = Segment(0, 10, 0.5, 0.3)
    whole, losses = ascend(smooth, layer("first"), picture(20, 31), config, segment=segment)
    cut, same = ascend(smooth, layer("first"), picture(20, 31), config, steps=(1, 2, 7), segment=segment)
    np.testing.assert_array_equal(whole.values, cut.values)
    np.testing.assert_array_equal(losses, same)


def test_the_seed_decides_and_the_number_of_tiles_at_once_does_not(smooth: Any, picture: Any) -> None:
    first, _ = ascend(smooth, layer("first"), picture(20, 31), TileConfig(seed=3), batch=1)
    more, _ = ascend(smooth, layer("first"), picture(20, 31), TileConfig(seed=3), batch=4)
    other, _ = ascend(smooth, layer("first"), picture(20, 31), TileConfig(seed=4), batch=4)
    np.testing.assert_allclose(first.values, more.values, atol=1e-4)
    assert np.abs(other.values - more.values).max() > 1e-2


def test_the_grid_moves_at_every_step(smooth: Any, picture: Any) -> None:
    """A picture that does not change is cut into other tiles each time."""
    ascent = compiled(smooth, layer("first"), TileConfig(seed=3), 4)
    _, losses = ascent.run(start(picture(20, 31))._replace(rate_scale=tf.zeros(1)), layer("first"), TEN_STEPS, 6)
    assert len(set(losses[:, 0].tolist())) > 3


def test_the_filter_goes_from_its_first_sigma_to_its_last(pointwise: Any, picture: Any) -> None:
    ascent = compiled(pointwise, layer("same"), TileConfig(sigma=0.5), 2)
    begin = start(picture(20, 31))._replace(step=tf.constant(7), rate_scale=tf.zeros(1))
    state, _ = ascent.run(begin, layer("same"), Segment(7, 4, 0.5, 0.3), 3)
    expected = begin.values
    for sigma in (0.5, 0.45, 0.4):
        expected = bilateral(expected, tf.constant(sigma), 0.5)
    np.testing.assert_allclose(state.values, expected, atol=1e-6)
    assert np.abs(state.values - begin.values).max() > 1e-3


def test_gradients_are_normalised_by_their_levels_and_pictures_stay_between_black_and_white(pointwise: Any, picture: Any) -> None:
    before = picture(24, 36) + np.float32(0.25)
    state, _ = ascend(pointwise, layer("same"), before, TileConfig(0.05, levels=2), batch=3, steps=(1,))
    red, blue = before[..., 0], before[..., 2]
    gradient = np.stack([9 * red + (red + blue), 0 * red, red + blue], axis=-1)[np.newaxis]
    step = 0.05 * normalised(laplacian_normalised(tf.constant(gradient), 2))
    np.testing.assert_allclose(state.values, np.clip(before + step, 0, 1), atol=1e-5)
    assert state.values.numpy().max() == 1


def test_above_the_largest_loss_nothing_changes(smooth: Any, picture: Any) -> None:
    before = picture(24, 24)
    _, losses = ascend(smooth, layer("second"), before)
    limit = float(np.sort(losses)[4])
    above = int(np.argmax(losses > limit))
    state, fewer = ascend(smooth, layer("second"), before, segment=Segment(0, 10, max_loss=limit))
    np.testing.assert_array_equal(fewer, losses[: above + 1])
    unlimited, _ = ascend(smooth, layer("second"), before, steps=(above,)) if above else (start(before), None)
    np.testing.assert_array_equal(state.values, unlimited.values)


def test_nan_halves_the_step_and_then_stops_with_the_last_good_picture(cliff: Any, picture: Any) -> None:
    height, width, _ = cliff.input_shape
    before = picture(2 * height, 2 * width)
    state, losses = ascend(cliff, layer("light"), before, TileConfig(0.02), steps=(200,))
    assert int(state.failures[0]) == MAX_FAILURES and np.isnan(losses).sum() == MAX_FAILURES and len(losses) < 200
    good = state.good.numpy()
    assert np.isfinite(good).all() and 0.55 < good[..., 0].mean() < 0.65


def test_a_layer_that_no_gradient_reaches_is_named(silent: Any) -> None:
    with pytest.raises(UnusableModel, match="no gradient reaches cut"):
        TiledAscent.compile(silent, layer("cut"), TileConfig(), 1)
