"""Baselines: the image in which nothing is to be seen, from which paths start and which stands where pixels are taken away."""

from __future__ import annotations

import numpy as np

from pipeline.attribution.methods.method import Baseline

_MOST_BANDS = 512  # that OpenCV blurs at a time
_BLUR = 1 / 22  # of the input's side: deviation of the Gaussian below which nothing is recognised


def baseline(image: np.ndarray, kind: Baseline, bands: int) -> np.ndarray:
    """An image without what is to be seen in it: (h, w, bands + others) of its type; the others stay.

    kind: "black", zeros; "mean", its mean colour everywhere; "blur", itself behind a Gaussian of 1/22 of its longer side.
    """
    pixels = image[..., :bands]
    empty = np.zeros_like(pixels) if kind == "black" else mean_colour(pixels) if kind == "mean" else blurred(pixels)
    return np.concatenate([empty, image[..., bands:]], axis=-1)


def mean_colour(image: np.ndarray) -> np.ndarray:
    """The mean of every band, everywhere: of the image's shape and type."""
    mean = image.mean(axis=(0, 1))
    return np.broadcast_to((mean.round() if image.dtype == np.uint8 else mean).astype(image.dtype), image.shape)


def blurred(image: np.ndarray) -> np.ndarray:
    """The image behind a Gaussian, of its shape and type."""
    import cv2

    parts = np.split(image, range(_MOST_BANDS, image.shape[2], _MOST_BANDS), axis=2)
    sigma = max(image.shape[:2]) * _BLUR
    return np.dstack([cv2.GaussianBlur(np.ascontiguousarray(part), (0, 0), sigma) for part in parts])
