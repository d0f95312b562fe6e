"""Parametrizations become pictures, and transforms move them, both with the right gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.ascent.parametrization import PARAMETRIZATIONS, fast_size, fourier, pixels
from pipeline.ascent.transforms import STILL, Transforms, inner

SEED = tf.constant([0, 1])


def looking(transforms: Any, picture: Any, height: Any, width: Any) -> Any:
    """A function of the step; compiled once."""
    see = tf.function(lambda seed: transforms.apply(tf.constant(picture), height, width, seed), autograph=False)
    return lambda step: see(tf.constant([0, step])).numpy()


def logits(picture: Any) -> Any:
    return np.log(picture / (1 - picture))


@pytest.mark.parametrize("size", [(16, 16), (15, 20), (20, 15)], ids=str)
@pytest.mark.parametrize("kind", sorted(PARAMETRIZATIONS))
def test_zeros_are_grey_and_noise_has_the_given_contrast(kind: Any, size: Any) -> None:
    parametrization = PARAMETRIZATIONS[kind](*size, decorrelated=False)
    values = tf.stack([parametrization.noise((0, number), 0.5) for number in range(200)])
    picture = parametrization.render(values).numpy()
    assert picture.shape == (200, *size, 3)
    np.testing.assert_allclose(logits(picture).std(), 0.5, rtol=0.03)
    np.testing.assert_allclose(parametrization.render(tf.zeros((1, *parametrization.shape))), 0.5)


@pytest.mark.parametrize("size", [(8, 6), (7, 9)], ids=str)
def test_the_gradient_of_the_fourier_parametrization_agrees_with_finite_differences(size: Any) -> None:
    parametrization = fourier(*size)
    values = tf.random.stateless_normal((2, *parametrization.shape), (1, 2))
    upstream = tf.random.stateless_normal((2, *size, 3), (3, 4))
    with tf.GradientTape() as tape:
        tape.watch(values)
        total = tf.reduce_sum(parametrization.render(values) * upstream)
    gradient = tape.gradient(total, values).numpy()
    random = np.random.default_rng(0)
    for _ in range(5):
        along = random.normal(size=values.shape).astype(np.float32)
        above, below = (tf.reduce_sum(parametrization.render(values + step * along) * upstream) for step in (1e-2, -1e-2))
        np.testing.assert_allclose((above - below) / 2e-2, (gradient * along).sum(), rtol=1e-2, atol=1e-2)


def test_frequencies_have_the_energy_that_the_decay_gives_them() -> None:
    for decay in (0.5, 1.0, 2.0):
        parametrization = fourier(64, 64, decorrelated=False, decay=decay)
        planes = logits(
            parametrization.render(tf.stack([parametrization.noise((0, number), 0.1) for number in range(20)])).numpy()
        )
        energy = np.sqrt((np.abs(np.fft.fft2(planes, axes=(1, 2))) ** 2).mean(axis=(0, 3)))
        np.testing.assert_allclose(energy[0, 4] / energy[0, 16], 4**decay, rtol=0.25)


@pytest.mark.parametrize(("size", "fast"), [(248, 250), (142, 144), (106, 108), (13, 15), (224, 224)])
def test_pictures_grow_at_both_ends_to_a_size_with_a_fast_fourier_transform(size: Any, fast: Any) -> None:
    assert fast_size(size) == fast


def test_decorrelated_noise_has_the_colours_of_photographs() -> None:
    parametrization = pixels(64, 64)
    colours = logits(parametrization.render(parametrization.noise((0, 0), 0.1)[tf.newaxis]).numpy()).reshape(-1, 3)
    red, green, _ = np.corrcoef(colours.T)
    assert red[1] == pytest.approx(0.90, abs=0.02)
    assert red[2] == pytest.approx(0.79, abs=0.02)
    assert green[2] == pytest.approx(0.91, abs=0.02)


def test_without_transforms_the_network_sees_the_centre_of_the_picture() -> None:
    picture = tf.random.stateless_uniform((2, 14, 13, 3), (0, 0))
    np.testing.assert_array_equal(STILL.apply(picture, 10, 11, SEED), picture[:, 2:12, 1:12])
    np.testing.assert_array_equal(inner(picture, 10, 11), picture[:, 2:12, 1:12])


def test_jitter_moves_the_whole_batch_by_whole_pixels_and_brings_in_the_margin() -> None:
    transforms = Transforms(pad=0.25, jitter=0.25)
    picture = tf.random.stateless_uniform((2, 8 + 2 * transforms.margin(8), 16 + 2 * transforms.margin(16), 3), (0, 0)).numpy()
    see, seen = looking(transforms, picture, 8, 16), {}
    for step in range(60):
        moved = see(step)
        positions = [
            (y, x) for y in range(5) for x in range(9) if np.allclose(picture[:, y : y + 8, x : x + 16], moved, atol=1e-5)
        ]
        assert len(positions) == 1
        seen[positions[0]] = step
    assert len(seen) > 15 and {y for y, _ in seen} == set(range(5)) and {x for _, x in seen} >= set(range(1, 8))
    np.testing.assert_array_equal(see(7), see(7))


@pytest.mark.parametrize("transforms", [Transforms(scale=0.3), Transforms(rotate=30)], ids=["scale", "rotate"])
def test_rotation_and_scale_are_about_the_centre_and_stay_in_their_range(transforms: Any) -> None:
    y, x = np.mgrid[:41, :41] / 100
    look = looking(transforms, np.stack([y, x, 0 * x], axis=-1)[np.newaxis].astype(np.float32), 41, 41)
    factors, angles = [], []
    for step in range(40):
        seen = look(step)[0]
        np.testing.assert_allclose(seen[20, 20], [0.2, 0.2, 0], atol=1e-4)
        down, across = (seen[24, 20] - seen[20, 20])[:2] / 0.04, (seen[20, 24] - seen[20, 20])[:2] / 0.04
        np.testing.assert_allclose([down @ across, down @ down], [0, across @ across], atol=1e-2)
        factors.append(np.hypot(*down))
        angles.append(np.degrees(np.arctan2(across[0], across[1])))
    if transforms.scale:
        assert 1 / 1.3 - 0.01 <= min(factors) < 0.85 and 1.15 < max(factors) <= 1.31
        np.testing.assert_allclose(angles, 0, atol=0.5)
    else:
        assert -30.5 <= min(angles) < -15 and 15 < max(angles) <= 30.5
        np.testing.assert_allclose(factors, 1, atol=0.01)


def test_outside_the_picture_is_grey() -> None:
    seen = looking(Transforms(jitter=1.0), np.zeros((1, 8, 8, 3), np.float32), 8, 8)(3)
    assert {0.0, 0.5} == set(np.unique(seen))


def test_a_moved_picture_and_its_gradient_are_those_of_tensorflow() -> None:
    transforms = Transforms(pad=0.1, jitter=0.2, scale=0.2, rotate=20)
    picture = tf.random.stateless_uniform((2, 14, 17, 3), (0, 0))
    upstream = tf.random.stateless_normal((2, 12, 15, 3), (0, 1))
    for step in range(3):
        seed = tf.constant([0, step])
        across_and_down = tf.reshape(transforms._transform(14, 17, 12, 15, seed), (1, 6))

        def see(picture: Any, seed: Any = seed) -> Any:
            return transforms.apply(picture, 12, 15, seed)

        def reference(picture: Any, transforms: Any = tf.concat([across_and_down, tf.zeros((1, 2))], axis=1)) -> Any:
            return tf.raw_ops.ImageProjectiveTransformV3(
                images=picture,
                transforms=transforms,
                output_shape=[12, 15],
                fill_value=0.5,
                interpolation="BILINEAR",
                fill_mode="CONSTANT",
            )

        results = []
        for function in (see, reference):
            with tf.GradientTape() as tape:
                tape.watch(picture)
                seen = function(picture)
            results.append((seen, tape.gradient(seen, picture, output_gradients=upstream)))
        np.testing.assert_allclose(results[0][0], results[1][0], atol=1e-4)
        np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-3)
