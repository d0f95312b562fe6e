"""Parametrizations: the values that an ascent changes, and how they become a picture.

The parametrization decides what an ascent finds. Single pixels give fine-grained noise; frequencies, each with about
the energy that it has in photographs, give textures and shapes (Olah, Mordvintsev and Schubert, "Feature
Visualization", Distill 2017). Colours are mixed from axes that are uncorrelated in photographs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import tensorflow as tf

# The principal axes of colour (columns: bright, blue against red, green against the two), each as long as its
# standard deviation: of RGB in 0..1 over 400 photographs of 400 ImageNet classes, all scaled to 256 x 256.
# (The eigenvectors of the covariance, times the roots of its eigenvalues.)
_AXES = np.array([[0.25099, -0.09029, -0.02529], [0.25938, 0.00007, 0.05130], [0.26245, 0.08628, -0.02651]])

_KEPT = 64  # functions whose compiled form waits for the next ascent


@dataclass(frozen=True)
class Parametrization:
    """How values become pictures.

    height, width: of a picture, in pixels.
    shape: of the values of one picture.
    render: values, float32 (batch, *shape) -> RGB, or other bands, from 0 to 1, float32 (batch, height, width, bands). In the
        graph.
    """

    height: int
    width: int
    shape: tuple[int, ...]
    render: Callable[[tf.Tensor], tf.Tensor]

    def noise(self, seed: tuple[int, int], contrast: float) -> tf.Tensor:
        """The values of a random picture: float32 of `shape`; the same seed gives the same bits.

        Args:
            contrast: the standard deviation of its brightness, before the sigmoid.
        """
        return contrast * tf.random.stateless_normal(self.shape, seed)


@lru_cache(_KEPT)
def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors that XLA compiles to one loop, which reads and writes each number once.

    Apart from the network, a step of an ascent consists of many small operations on large tensors. Unfused, they would
    take as long as a small network. Compiling takes longer than many steps: the same function, for tensors of the same
    shapes, is traced and compiled once for both halves of a batch, and for the ascents of all layers.
    """
    return tf.function(function, autograph=False, jit_compile=True)


@lru_cache(_KEPT)
def pixels(height: int, width: int, decorrelated: bool = True, bands: int = 3) -> Parametrization:
    """One value a pixel and band; colours alone can be decorrelated."""
    return Parametrization(height, width, (height, width, bands), lambda values: _coloured(values, decorrelated))


@lru_cache(_KEPT)
def fourier(height: int, width: int, decorrelated: bool = True, bands: int = 3, decay: float = 1.0) -> Parametrization:
    """One complex value a frequency and band, scaled by 1 / frequency ** decay, as photographs are (decay 1)."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    scale = 1 / np.maximum(frequency, 1 / max(height, width)) ** decay
    # Unit noise becomes a picture of unit deviation. The inner columns of the half plane stand for two frequencies each;
    # the outer ones hold both, so half of the noise in them cancels.
    twice = np.full(scale.shape, 2.0)
    twice[:, 0] = 1.0
    if width % 2 == 0:
        twice[:, -1] = 1.0
    scale *= height * width / np.sqrt(((twice * scale) ** 2).sum())
    scale, twice = scale.astype(np.float32), (twice / (height * width)).astype(np.float32)

    @tf.custom_gradient
    def planes(spectrum: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        # TensorFlow's own gradient gives the same numbers and takes four times as long.
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return tf.signal.rfft2d(upstream) * twice

        return tf.signal.irfft2d(spectrum, [height, width]), gradient

    def render(values: tf.Tensor) -> tf.Tensor:
        spectrum = tf.complex(values[:, 0] * scale, values[:, 1] * scale)
        return _coloured(tf.transpose(planes(spectrum), (0, 2, 3, 1)), decorrelated)

    return Parametrization(height, width, (2, bands, height, width // 2 + 1), render)


def fast_size(size: int) -> int:
    """The size, or the next one with as many pixels more at both ends, with a fast Fourier transform: no prime factor above 7."""
    rest = size
    for prime in (2, 3, 5, 7):
        while rest % prime == 0:
            rest //= prime
    return size if rest == 1 else fast_size(size + 2)


@lru_cache(_KEPT)
def plain(height: int, width: int) -> Parametrization:
    """The pixels themselves, RGB from 0 to 1, for ascents that start from a picture; its noise is not a picture."""
    return Parametrization(height, width, (height, width, 3), lambda values: values)


# Those that a spec can name.
PARAMETRIZATIONS: dict[str, Callable[..., Parametrization]] = {"fourier": fourier, "pixels": pixels}


def _coloured(values: tf.Tensor, decorrelated: bool) -> tf.Tensor:
    """Any values (batch, h, w, bands) to pixels from 0 to 1; zeros are grey."""
    if decorrelated and values.shape[3] == 3:
        mix = (_AXES / np.linalg.norm(_AXES[:, 0])).astype(np.float32)
        values = tf.tensordot(values, tf.constant(mix.T), 1)
    return tf.sigmoid(values)
