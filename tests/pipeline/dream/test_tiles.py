"""Tiles: a picture of any size climbs as it would in one piece, and the same way each time."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf

from pipeline.ascent.objectives import stack
from pipeline.ascent.optimizer import MOST_MISSES, normalised
from pipeline.ascent.regularizers import bilateral, laplacian_normalised
from pipeline.dream import layer, logit
from pipeline.dream.tiles import Stretch, Tiled, TiledWay, compile_look, start
from pipeline.errors import UnusableModel
from pipeline.models.keras.model import keras_network

STRETCH = Stretch(0, 10)


@pytest.fixture(scope="module")
def pointwise():
    """12x12 RGB -> `same`: each pixel's red times 3, and its red plus its blue; no pixel sees another."""
    import keras

    inputs = keras.Input((12, 12, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1, use_bias=False, name="same")(inputs))
    model.get_layer("same").set_weights([np.float32([[3, 1], [0, 0], [0, 1]]).reshape(1, 1, 3, 2)])
    return keras_network(model, "pointwise", None, "unit")


@pytest.fixture(scope="module")
def picture():
    """A function: height, width -> a picture, float32 (height, width, 3)."""
    return lambda height, width: np.random.default_rng(5).uniform(0.3, 0.7, (height, width, 3)).astype(np.float32)


@functools.cache
def compiled(network, objective, way, batch):
    return Tiled.compile(network, objective, way, batch)


def climb(network, objective, picture, way=TiledWay(), batch=2, steps=(10,), stretch=STRETCH):
    tiled = compiled(network, objective, way, batch)
    state, losses = start(picture), []
    for number in steps:
        state, some = tiled.climb(state, objective, stretch, number)
        losses.append(some)
    return state, np.concatenate(losses)


@pytest.mark.parametrize("size", [(12, 12), (24, 36), (31, 20), (13, 50)])
def test_every_pixel_is_moved_once_by_its_own_gradient(pointwise, picture, size):
    before = picture(*size)
    red, blue = before[..., 0], before[..., 2]
    # The mean square of a tile's 288 numbers; what is divided by the root mean square need not be divided by 288.
    gradient = np.stack([3 * 3 * red + (red + blue), 0 * red, red + blue], axis=-1)
    expected = before + 0.01 * gradient / np.sqrt((gradient**2).mean())
    for seed in (0, 1):
        state, _ = climb(pointwise, layer("same"), before, TiledWay(0.01, seed=seed), batch=3, steps=(1,))
        np.testing.assert_allclose(state.values[0], expected, atol=1e-6)


def test_the_loss_is_the_mean_over_the_tiles(smooth, picture):
    whole = picture(24, 24)
    objective = logit(1) + 0.5 * layer("second")
    _, losses = climb(smooth, objective, whole, TiledWay(shift=0.0), batch=3, steps=(1,))
    look = compile_look(smooth, objective, 3)
    value = look(whole[np.newaxis], *tf.nest.flatten(stack([objective] * 3)))
    tiles = np.stack([whole[y : y + 12, x : x + 12] for y in (0, 12) for x in (0, 12)])
    maps = smooth.trace(smooth.preprocess(255 * tiles), ["second", "logits"])
    expected = maps["logits"].numpy()[:, 1].mean() + 0.5 * (maps["second"].numpy() ** 2).mean()
    np.testing.assert_allclose([losses[0], value], expected, rtol=1e-5)


def test_a_picture_climbs(smooth, picture):
    _, losses = climb(
        smooth, logit(2), picture(31, 20), TiledWay(levels=2, sigma=0.44), steps=(30,), stretch=Stretch(0, 30, 0.4, 0.3)
    )
    assert losses[-5:].mean() > 1.2 * losses[:5].mean()


@pytest.mark.parametrize("way", [TiledWay(seed=3), TiledWay(levels=2, sigma=0.5, seed=3)], ids=["plain", "smoothed"])
def test_how_steps_are_cut_into_calls_changes_no_bit(smooth, picture, way):
    stretch = Stretch(0, 10, 0.5, 0.3)
    whole, losses = climb(smooth, layer("first"), picture(20, 31), way, stretch=stretch)
    cut, same = climb(smooth, layer("first"), picture(20, 31), way, steps=(1, 2, 7), stretch=stretch)
    np.testing.assert_array_equal(whole.values, cut.values)
    np.testing.assert_array_equal(losses, same)


def test_the_seed_decides_and_the_number_of_tiles_at_once_does_not(smooth, picture):
    first, _ = climb(smooth, layer("first"), picture(20, 31), TiledWay(seed=3), batch=1)
    more, _ = climb(smooth, layer("first"), picture(20, 31), TiledWay(seed=3), batch=4)
    other, _ = climb(smooth, layer("first"), picture(20, 31), TiledWay(seed=4), batch=4)
    np.testing.assert_allclose(first.values, more.values, atol=1e-4)
    assert np.abs(other.values - more.values).max() > 1e-2


def test_the_grid_lies_elsewhere_at_every_step(smooth, picture):
    """A picture that stands still is cut into other tiles each time."""
    tiled = compiled(smooth, layer("first"), TiledWay(seed=3), 4)
    _, losses = tiled.climb(start(picture(20, 31))._replace(share=tf.zeros(1)), layer("first"), STRETCH, 6)
    assert len(set(losses.tolist())) > 3


def test_the_filter_goes_from_its_first_sigma_to_its_last(pointwise, picture):
    tiled = compiled(pointwise, layer("same"), TiledWay(sigma=0.5), 2)
    begin = start(picture(20, 31))._replace(step=tf.constant(7), share=tf.zeros(1))
    state, _ = tiled.climb(begin, layer("same"), Stretch(7, 4, 0.5, 0.3), 3)
    expected = begin.values
    for sigma in (0.5, 0.45, 0.4):
        expected = bilateral(expected, tf.constant(sigma), 0.5)
    np.testing.assert_allclose(state.values, expected, atol=1e-6)
    assert np.abs(state.values - begin.values).max() > 1e-3


def test_gradients_are_normalised_by_their_levels_and_pictures_stay_between_black_and_white(pointwise, picture):
    before = picture(24, 36) + np.float32(0.25)
    state, _ = climb(pointwise, layer("same"), before, TiledWay(0.05, levels=2), batch=3, steps=(1,))
    red, blue = before[..., 0], before[..., 2]
    gradient = np.stack([9 * red + (red + blue), 0 * red, red + blue], axis=-1)[np.newaxis]
    step = 0.05 * normalised(laplacian_normalised(tf.constant(gradient), 2))
    np.testing.assert_allclose(state.values, np.clip(before + step, 0, 1), atol=1e-5)
    assert state.values.numpy().max() == 1


def test_above_the_largest_loss_nothing_moves(smooth, picture):
    before = picture(24, 24)
    _, losses = climb(smooth, layer("second"), before)
    limit = float(np.sort(losses)[4])
    above = int(np.argmax(losses > limit))
    state, some = climb(smooth, layer("second"), before, stretch=Stretch(0, 10, max_loss=limit))
    np.testing.assert_array_equal(some, losses[: above + 1])
    unlimited, _ = climb(smooth, layer("second"), before, steps=(above,)) if above else (start(before), None)
    np.testing.assert_array_equal(state.values, unlimited.values)


def test_nan_halves_the_step_and_then_stops_with_the_last_good_picture(cliff, picture):
    height, width, _ = cliff.input_shape
    before = picture(2 * height, 2 * width)
    state, losses = climb(cliff, layer("light"), before, TiledWay(0.02), steps=(200,))
    assert int(state.misses[0]) == MOST_MISSES and np.isnan(losses).sum() == MOST_MISSES and len(losses) < 200
    good = state.good.numpy()
    assert np.isfinite(good).all() and 0.55 < good[..., 0].mean() < 0.65


def test_a_layer_that_no_gradient_reaches_is_named(sleepy):
    with pytest.raises(UnusableModel, match="no gradient reaches cut"):
        Tiled.compile(sleepy, layer("cut"), TiledWay(), 1)
