"""Regularizers: the denoisers agree with scikit-image's; the octaves of a gradient become equally strong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from skimage.restoration import _denoise as skimage_denoise
from skimage.restoration import denoise_bilateral, denoise_tv_bregman

from pipeline.ascent.regularizers import TV_WEIGHT, bilateral, laplacian_normalised, tv_bregman


@pytest.fixture(scope="module")
def noisy() -> Any:
    """A ramp with an edge and some noise: float32 (40, 50, 3), from 0 to 1."""
    random = np.random.default_rng(2)
    ramp = np.linspace(0.2, 0.5, 50)[None, :, None] + np.float32([0.0, 0.1, 0.2])
    ramp = np.repeat(ramp, 40, axis=0)
    ramp[:, 25:] += 0.3
    return np.clip(ramp + random.normal(0, 0.05, ramp.shape), 0, 1).astype(np.float32)


@pytest.fixture
def corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    """scikit-image with its table of distances as large as the window: its own is a row and a column too large."""

    def table(win_size: Any, sigma: Any, *, dtype: Any = float) -> Any:
        y, x = np.mgrid[:win_size, :win_size] - win_size // 2
        return np.exp(-0.5 * (y**2 + x**2) / sigma**2).astype(dtype).ravel()

    monkeypatch.setattr(skimage_denoise, "_compute_spatial_lut", table)


@pytest.mark.parametrize("sigma", [0.304, 0.44, 1.0])
def test_the_bilateral_filter_is_that_of_scikit_image_with_a_corrected_table_of_distances(
    noisy: Any, corrected: Any, sigma: Any
) -> None:
    expected = denoise_bilateral(
        noisy, win_size=5, sigma_color=sigma, sigma_spatial=sigma, bins=100_000, mode="symmetric", channel_axis=-1
    )
    smoothed = bilateral(tf.constant(noisy[None]), tf.constant(sigma), sigma)[0].numpy()
    assert np.abs(smoothed - noisy).max() > 0.002
    np.testing.assert_allclose(smoothed, expected, atol=3e-5)


def test_smoothing_moves_nothing() -> None:
    dot = np.zeros((1, 21, 21, 3), np.float32)
    dot[0, 10, 10] = 1
    smoothed = bilateral(tf.constant(dot), tf.constant(0.8), 0.8).numpy()[0, :, :, 0]
    np.testing.assert_allclose(smoothed, smoothed[::-1, ::-1], atol=1e-7)
    assert smoothed.argmax() == 10 * 21 + 10 and 0 < smoothed[10, 11] < smoothed[10, 10]


def test_no_sigma_is_no_filter(noisy: Any) -> None:
    np.testing.assert_array_equal(bilateral(tf.constant(noisy[None]), tf.constant(0.0), 0.0)[0], noisy)


def test_less_total_variation_keeps_the_edge(noisy: Any) -> None:
    smoothed = tv_bregman(noisy)
    np.testing.assert_array_equal(smoothed, denoise_tv_bregman(noisy, weight=TV_WEIGHT, channel_axis=-1).astype(np.float32))

    def variation(picture: Any) -> Any:
        return np.abs(np.diff(picture, axis=0)).sum() + np.abs(np.diff(picture, axis=1)).sum()

    assert variation(smoothed) < 0.5 * variation(noisy)
    assert smoothed[:, 30:].mean() - smoothed[:, :20].mean() > 0.15


@pytest.mark.parametrize("shape", [(64, 64), (61, 47)])
def test_weak_octaves_become_as_strong_as_the_others(shape: Any) -> None:
    y, x = np.mgrid[: shape[0], : shape[1]]
    coarse, fine = np.sin(2 * np.pi * x / 32), np.sin(2 * np.pi * y / 3)
    gradient = np.repeat((coarse + 0.1 * fine)[None, :, :, None], 3, axis=3).astype(np.float32)

    def share(picture: Any) -> Any:
        return [abs((picture[0, :, :, 0] * wave).mean() / (wave**2).mean()) for wave in (coarse, fine)]

    same = laplacian_normalised(tf.constant(gradient), 0).numpy()
    np.testing.assert_array_equal(same, gradient)
    coarse_share, fine_share = share(laplacian_normalised(tf.constant(gradient), 1).numpy())
    assert share(gradient)[1] / share(gradient)[0] < 0.11 and 0.4 < fine_share / coarse_share < 0.8


def test_zeros_stay_zeros() -> None:
    assert not laplacian_normalised(tf.zeros((1, 32, 32, 3)), 3).numpy().any()
