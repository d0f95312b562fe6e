"""Claims: which concept a measure names each channel by, how far ahead of the next it is, and what chance would name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.store.tables import INDEX

_NULL = 1000  # channels whose images are permuted, at least, for what chance gives


@dataclass(frozen=True, eq=False)
class Agreement:
    """How well every concept agrees with every channel of a layer, by one measure.

    source: where the concepts come from: "labels", "embeddings" or "masks".
    concepts: their names.
    values: float64 (concepts, channels), higher for better; NaN where it is not known.
    by_chance: float64 (n,): the value of the best concept of channels whose images were permuted.
    least: the smallest value that a name may have, whatever chance gives.
    """

    source: str
    measure: str
    concepts: Sequence[str]
    values: np.ndarray
    by_chance: np.ndarray
    least: float = -np.inf


@dataclass(frozen=True)
class ClaimRule:
    """top_k: concepts that are listed for each channel. chance: up to which share of permuted channels a name is a name."""

    top_k: int
    chance: float


def permutations_of(images: int, channels: int) -> list[np.ndarray]:
    """Orders of the images that leave none in its place, as many as a layer of so many channels needs; always the same."""
    random = np.random.default_rng(images)
    orders = []
    for _ in range(min(20, -(-_NULL // max(channels, 1)))):
        order = random.permutation(images)
        partner = np.empty(images, np.int64)
        partner[order] = np.roll(order, 1)
        orders.append(partner)
    return orders


def best_of(values: np.ndarray) -> np.ndarray:
    """The value of the best concept of each channel: (concepts, channels) to (n,), without channels that have none."""
    known = np.where(np.isnan(values), -np.inf, values).max(axis=0, initial=-np.inf)
    return known[np.isfinite(known)]


def claim_columns(layer: str, channels: np.ndarray, agreements: Iterable[Agreement], rule: ClaimRule) -> dict[str, list[Any]]:
    """The columns of index/concepts.parquet for one layer: by channel, then agreement, the best concept first.

    Args:
        channels: int64 (channels,): their numbers in the network.
    """
    agreements = [agreement for agreement in agreements if len(agreement.concepts)]
    # Rounded, so that the last bits do not decide between equals: the earlier concept does.
    rounded = [np.where(np.isnan(one.values), -np.inf, one.values).round(9) for one in agreements]
    orders = [np.argsort(-values, axis=0, kind="stable")[: max(rule.top_k, 2)] for values in rounded]
    columns: dict[str, list[Any]] = {name: [] for name in INDEX["concepts"].names}
    for position, number in enumerate(channels.tolist()):
        for agreement, order, rounds in zip(agreements, orders, rounded, strict=True):
            listed = [concept for concept in order[:, position] if np.isfinite(rounds[concept, position])]
            values = [float(agreement.values[concept, position]) for concept in listed]
            for rank, concept in enumerate(listed[: rule.top_k]):
                chance = float((agreement.by_chance >= values[rank]).mean()) if len(agreement.by_chance) else None
                margin = values[0] - values[1] if rank == 0 and len(values) > 1 else None
                sure = chance is not None and chance <= rule.chance and values[rank] >= agreement.least
                row = {
                    "layer": layer,
                    "channel": number,
                    "concept": agreement.concepts[concept],
                    "source": agreement.source,
                    "measure": agreement.measure,
                    "value": values[rank],
                    "rank": rank,
                    "margin": margin,
                    "chance": chance,
                    "named": rank == 0 and margin != 0 and sure,
                }
                for name, value in row.items():
                    columns[name].append(value)
    return columns
