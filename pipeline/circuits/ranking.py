"""Ranking: of the weights and contributions of all earlier channels, which ones a channel is made from and is used by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

MADE_FROM, USED_BY = "made from", "used by"
_MOST_CELLS = 28  # of a kernel's side in the index; larger ones are averaged


@dataclass(frozen=True, eq=False)
class Circuit:
    """The shares of an earlier layer's channels in the channels of a layer.

    channels: int64 (n,): of the layer, ascending. top_k: how many others are listed for a channel.
    contributions: float64 (n, others): gradient times activation, the mean over each channel's winners; NaN without any.
    norms, sums: float64 (n, others): the root of the sum of a kernel's squares, and its sum.
    made_from: the kernels of pairs of positions, (channel, other), that are listed. used_by: for each other, its share and the
        position of those channels that it has the largest shares of, with the kernels, the largest first.
    """

    channels: np.ndarray
    top_k: int
    contributions: np.ndarray
    norms: np.ndarray
    sums: np.ndarray
    made_from: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    used_by: dict[int, list[tuple[float, int, np.ndarray]]] = field(default_factory=dict)

    @classmethod
    def of(cls, channels: np.ndarray, top_k: int, contributions: np.ndarray) -> Circuit:
        """Before any weights are known."""
        norms, sums = np.zeros((2, *contributions.shape))
        return cls(channels, top_k, contributions, norms, sums)

    def add(self, first: int, weights: np.ndarray) -> None:
        """The weights of some consecutive channels, from position `first` on: float32 (some, h, w, others)."""
        rows = slice(first, first + len(weights))
        self.norms[rows] = np.sqrt(np.square(weights, dtype=np.float64).sum(axis=(1, 2)))
        self.sums[rows] = weights.sum(axis=(1, 2), dtype=np.float64)
        shares = _shares(self.norms[rows])
        least = np.zeros(self.norms.shape[1])
        for other, users in self.used_by.items():
            least[other] = users[-1][0] if len(users) == self.top_k else 0
        for index, kernels in enumerate(weights):
            window = _window(kernels)
            for other in self._strongest(first + index):
                self.made_from[first + index, other] = _stored(kernels[(*window, other)])
            for other in np.flatnonzero(shares[index] > least).tolist():
                users = self.used_by.setdefault(other, [])
                users.append((float(shares[index, other]), first + index, _stored(kernels[(*window, other)])))
                users.sort(key=lambda user: (-user[0], user[1]))
                del users[self.top_k :]
                least[other] = users[-1][0] if len(users) == self.top_k else 0

    def agreement(self) -> np.ndarray:
        """The rank correlation (Spearman) of the weights' sizes and the contributions' of all others: float64 (n,).

        NaN where fewer than three others have weights, or nothing contributes.
        """
        from scipy.stats import rankdata  # half a second of a start that no command but this stage needs

        size = np.abs(self.contributions)
        usable = (np.count_nonzero(self.norms, axis=1) >= 3) & np.isfinite(size).all(axis=1) & (size > 0).any(axis=1)
        ranks = [rankdata(values, axis=1) for values in (self.norms, np.where(np.isfinite(size), size, 0))]
        first, second = (values - values.mean(axis=1, keepdims=True) for values in ranks)
        scale = np.sqrt(np.square(first).sum(axis=1) * np.square(second).sum(axis=1))
        correlation = (first * second).sum(axis=1) / np.where(scale > 0, scale, 1)
        return np.where(usable & (scale > 0), correlation, np.nan)

    def rows(self, layer: str, other_layer: str) -> Iterator[dict[str, Any]]:
        """The rows of index/circuits.parquet: what each channel is made from, then what each earlier channel is used by."""
        agreement, shares = self.agreement(), _shares(self.norms)
        by_weight, by_contribution = _ranks(self.norms), _ranks(np.nan_to_num(np.abs(self.contributions), nan=-1.0))
        by_share = _ranks(shares.T).T

        def row(index: int, other: int, kernel: np.ndarray) -> dict[str, Any]:
            known = np.isfinite(self.contributions[index, other])
            return {
                "weight": float(self.sums[index, other]),
                "norm": float(self.norms[index, other]),
                "share": float(shares[index, other]),
                "contribution": float(self.contributions[index, other]) if known else None,
                "contribution_rank": int(by_contribution[index, other]) if known else None,
                "agreement": None if np.isnan(agreement[index]) else float(agreement[index]),
                "kernel": kernel.ravel().tolist(),
                "kernel_shape": list(kernel.shape),
            }

        for index in range(len(self.channels)):
            for other in sorted(self._strongest(index), key=lambda other: int(by_weight[index, other])):
                ends = {"layer": layer, "channel": int(self.channels[index]), "other_layer": other_layer, "other_channel": other}
                yield {
                    "side": MADE_FROM,
                    **ends,
                    "rank": int(by_weight[index, other]),
                    **row(index, other, self.made_from[index, other]),
                }
        for other, users in sorted(self.used_by.items()):
            for _, index, kernel in users:
                ends = {"layer": other_layer, "channel": other, "other_layer": layer, "other_channel": int(self.channels[index])}
                yield {"side": USED_BY, **ends, "rank": int(by_share[index, other]), **row(index, other, kernel)}

    def _strongest(self, index: int) -> list[int]:
        """The other channels with the largest weights to a channel, and those that contribute most to its winners."""
        norms, size = self.norms[index], np.nan_to_num(np.abs(self.contributions[index]))
        best = np.argsort(-norms, kind="stable")[: self.top_k]
        adding = np.argsort(-size, kind="stable")[: self.top_k]
        return [int(other) for other in np.union1d(best, adding[size[adding] > 0]) if norms[other] > 0]


def _shares(norms: np.ndarray) -> np.ndarray:
    """The share of each other channel in the sum of a channel's squared weights: float64 (n, others)."""
    total = np.square(norms).sum(axis=1, keepdims=True)
    return np.square(norms) / np.where(total > 0, total, 1)


def _ranks(values: np.ndarray) -> np.ndarray:
    """The place of each number in its row, the largest first, counted from 0; of equals the first: int64 of the same shape."""
    order = np.argsort(-values, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(values.shape[1]), values.shape), axis=1)
    return ranks


def _window(kernels: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns of the map in which a channel weighs anything: float32 (h, w, others)."""
    seen = kernels.any(axis=2)
    lines = np.flatnonzero(np.any(seen, axis=1)), np.flatnonzero(np.any(seen, axis=0))
    rows, cols = (slice(int(occupied[0]), int(occupied[-1]) + 1) if len(occupied) else slice(0, 1) for occupied in lines)
    return rows, cols


def _stored(kernel: np.ndarray) -> np.ndarray:
    if max(kernel.shape) <= _MOST_CELLS:
        return kernel.astype(np.float32).copy()
    size = [min(side, _MOST_CELLS) for side in kernel.shape]
    averaged: np.ndarray = cv2.resize(np.ascontiguousarray(kernel, np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    return averaged
