"""Convolutions as GPU libraries compute them, in NumPy and float32: rounding leaks out of a unit's window."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import scipy.fft

# F(4 x 4, 3 x 3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, at the points 0, 1, -1, 2, -2.
_INPUT = np.float32(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_KERNEL = np.float32(
    [[1 / 4, 0, 0], [-1 / 6] * 3, [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
)
_OUTPUT = np.float32([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])

Convolution = Callable[[np.ndarray, np.ndarray], np.ndarray]


def winograd(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """images (n, h, w, c) * kernel (3, 3, c, f), stride 1, padding "same": float32 (n, h, w, f), in tiles of 4 x 4 outputs."""
    count, height, width, _ = images.shape
    rows, cols = -(-height // 4), -(-width // 4)
    padded = np.pad(images, ((0, 0), (1, 4 * rows + 1 - height), (1, 4 * cols + 1 - width), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (6, 6), axis=(1, 2))[:, ::4, ::4]
    tiles = _INPUT @ windows @ _INPUT.T  # (n, rows, cols, c, 6, 6)
    weights = _KERNEL @ kernel.transpose(2, 3, 0, 1) @ _KERNEL.T  # (c, f, 6, 6)
    products = np.moveaxis(tiles, (4, 5), (0, 1)) @ np.moveaxis(weights, (2, 3), (0, 1))[:, :, None, None]
    outputs = _OUTPUT @ np.moveaxis(products, (0, 1), (4, 5)) @ _OUTPUT.T  # (n, rows, cols, f, 4, 4)
    return outputs.transpose(0, 1, 4, 2, 5, 3).reshape(count, 4 * rows, 4 * cols, -1)[:, :height, :width]


def fft(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """images (n, h, w, c) * kernel (k, k, c, f), stride 1, padding "same": float32 (n, h, w, f), through one transform of all."""
    _, height, width, _ = images.shape
    size = len(kernel)
    shape = [scipy.fft.next_fast_len(side + size - 1, real=True) for side in (height, width)]
    spectrum = scipy.fft.rfft2(images, shape, axes=(1, 2))[..., None] * scipy.fft.rfft2(kernel[::-1, ::-1], shape, axes=(0, 1))
    whole = scipy.fft.irfft2(spectrum.sum(axis=3), shape, axes=(1, 2))
    return whole[:, size // 2 : size // 2 + height, size // 2 : size // 2 + width]


def direct(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The same, each output from its own window alone."""
    reach = len(kernel) // 2
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], axis=(1, 2))
    return np.einsum("nhwcij,ijcf->nhwf", windows, kernel)


def stack(
    convolve: Convolution, channels: Sequence[int], stride: int = 1, dilation: int = 1
) -> Callable[[np.ndarray], np.ndarray]:
    """Convolutions of 3 x 3 with bias and ReLU, of as many channels each: float32 batch -> map of the last.

    Args:
        stride: of every layer; the convolution is computed whole and every n-th row and column kept.
        dilation: of every layer; as cuDNN and TensorFlow do, each residue of rows and columns is convolved on its own.
    """
    rng = np.random.default_rng(3)
    weights = []
    for fan, filters in itertools.pairwise([3, *channels]):
        kernel = rng.normal(0, np.sqrt(2 / (9 * fan)), (3, 3, fan, filters))
        weights.append((kernel.astype(np.float32), rng.normal(0, 0.1, filters).astype(np.float32)))

    def forward(images: np.ndarray) -> np.ndarray:
        maps = images
        for kernel, bias in weights:
            whole = np.empty((*maps.shape[:3], kernel.shape[3]), np.float32)
            for row, col in np.ndindex(dilation, dilation):
                whole[:, row::dilation, col::dilation] = convolve(maps[:, row::dilation, col::dilation], kernel)
            maps = np.maximum(whole + bias, 0)[:, ::stride, ::stride]
        return maps

    return forward
