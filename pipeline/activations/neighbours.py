"""The columns of index/neighbours.parquet: for every channel, the channels whose responses correlate most with its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.activations.correlation import FEWEST, Standardized, correlations
from pipeline.activations.distribution import Distribution
from pipeline.activations.part import Part

NEAREST = 5  # channels of the same layer, and as many of all others
_AT_A_TIME = 4_000_000  # correlations in memory


def neighbour_columns(part: Part, channels: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
    """The columns of index/neighbours.parquet, channel by channel: those of its own layer first, then those of others.

    The correlations (Pearson's) are over the examples that `Distribution` samples by their numbers: the same ones for every
    layer and in any sharding; those of two channels over the examples to which both have finite responses. They are rounded,
    so that the last bits do not decide between equals: the earlier channel does.

    Args:
        channels: the numbers of the channels, by layer.
    """
    standardized = {layer: member.settled().standardized() for layer, member in part.of(Distribution).items()}
    names = list(standardized)
    together = Standardized.beside(list(standardized.values()))
    owners = np.repeat(np.arange(len(names)), [of_layer.values.shape[1] for of_layer in standardized.values()])
    numbers = np.concatenate([channels[layer] for layer in names]) if names else np.zeros(0, np.int64)
    columns: dict[str, list[Any]] = {
        name: [] for name in ("layer", "channel", "rank", "other_layer", "other_channel", "correlation")
    }
    step = max(1, _AT_A_TIME // max(len(owners), 1))
    for first in range(0, len(owners) if len(together) >= FEWEST else 0, step):
        rows = np.arange(first, min(first + step, len(owners)))
        of_rows = correlations(together.channels(rows), together)
        of_rows[np.arange(len(rows)), rows] = np.nan
        of_rows = np.where(np.isnan(of_rows), -np.inf, of_rows)
        for row, values in zip(rows, of_rows, strict=True):
            same_layer = owners == owners[row]
            for group in (same_layer, ~same_layer):
                nearest = _nearest(np.where(group, values, -np.inf))
                columns["layer"] += [names[owners[row]]] * len(nearest)
                columns["channel"] += [numbers[row]] * len(nearest)
                columns["rank"] += range(len(nearest))
                columns["other_layer"] += [names[owner] for owner in owners[nearest]]
                columns["other_channel"] += numbers[nearest].tolist()
                columns["correlation"] += values[nearest].tolist()
    return columns


def _nearest(values: np.ndarray) -> np.ndarray:
    """The positions of the NEAREST largest values, largest first, the earlier first among equals; fewer where they are -inf."""
    kept = min(NEAREST, len(values))
    last = max(np.partition(values, -kept)[-kept], np.finfo(np.float64).min)
    candidates = np.flatnonzero(values >= last)
    return candidates[np.argsort(-values[candidates], kind="stable")][:kept]
