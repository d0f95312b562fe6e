"""Correlations (Pearson's) of channels' responses to the same images, each pair over the images to which both are finite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEWEST = 3  # images that a correlation takes
_LEAST = 1e-12  # of a channel's squares, those that must remain where it is looked at over some of its images


@dataclass(frozen=True, eq=False)
class Standardized:
    """Channels' responses to the same images, less their mean, each channel of length 1.

    values: float64 (images, channels): 0 for a response that is not finite, and for a channel that does not vary.
    finite: bool (images, channels); None where all are.
    """

    values: np.ndarray
    finite: np.ndarray | None = None

    @classmethod
    def of(cls, responses: np.ndarray) -> Standardized:
        """Of responses, float (images, channels)."""
        finite = np.isfinite(responses)
        clean = bool(finite.all())
        values = np.where(finite, responses, 0).astype(np.float64)
        values -= values.sum(axis=0) / np.maximum(finite.sum(axis=0), 1)
        values = values if clean else np.where(finite, values, 0)
        norms = np.sqrt((values**2).sum(axis=0))
        varied = norms > 1e-6 * np.abs(responses).max(axis=0, initial=0, where=finite)
        return cls(np.where(varied, values / np.where(varied, norms, 1), 0), None if clean else finite)

    @classmethod
    def beside(cls, several: Sequence[Standardized]) -> Standardized:
        """The channels of several, of the same images, one after the other."""
        if not several:
            return cls(np.zeros((0, 0)))
        values = np.concatenate([of.values for of in several], axis=1)
        if all(of.finite is None for of in several):
            return cls(values)
        return cls(values, np.concatenate([of._known for of in several], axis=1))

    def __len__(self) -> int:
        """The number of images."""
        return len(self.values)

    @property
    def varied(self) -> np.ndarray:
        """Which channels vary: bool (channels,)."""
        return np.any(self.values != 0, axis=0)

    def channels(self, which: slice | np.ndarray) -> Standardized:
        """Some of the channels."""
        return Standardized(self.values[:, which], None if self.finite is None else self.finite[:, which])

    @property
    def _known(self) -> np.ndarray:
        return np.ones(self.values.shape, bool) if self.finite is None else self.finite


def correlations(first: Standardized, second: Standardized) -> np.ndarray:
    """The correlation of every channel of the first with every one of the second, over the images to which both are finite.

    Rounded to nine places, so that the last bits do not decide between equals.

    Returns: float64 (channels of the first, channels of the second); NaN where one does not vary over these images.
    """
    products = first.values.T @ second.values
    defined = np.logical_and.outer(first.varied, second.varied)
    if first.finite is not None or second.finite is not None:
        known, others = first._known.astype(np.float64), second._known.astype(np.float64)
        images = known.T @ others
        sums, other_sums = first.values.T @ others, known.T @ second.values
        shared = np.maximum(images, 1)
        squares = (first.values**2).T @ others - sums**2 / shared
        other_squares = known.T @ second.values**2 - other_sums**2 / shared
        defined &= (images >= FEWEST) & (squares > _LEAST) & (other_squares > _LEAST)
        products = (products - sums * other_sums / shared) / np.sqrt(np.where(defined, squares * other_squares, 1))
    return np.where(defined, products.round(9).clip(-1, 1), np.nan)
