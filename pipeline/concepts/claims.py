"""Claims: which concept a measure names each channel by, how far ahead of the next it is, and what chance would name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.concepts.embeddings import normalised
from pipeline.store.columns import columns_of
from pipeline.store.tables import INDEX

_NULL = 1000  # channels whose images are permuted, at least, for what chance gives
_WINNERS = 9  # of a channel, that a concept should fit; of few images, a tenth
_APPLY = 0.02  # of all concepts, those nearest to an image apply to it


@dataclass(frozen=True, eq=False)
class Agreement:
    """How well every concept agrees with every channel of a layer, by one measure.

    source: where the concepts come from: "labels", "embeddings" or "masks".
    concepts: their names.
    values: float64 (concepts, channels), higher for better; NaN where it is not known.
    by_chance: float64 (n,): the value of the best concept of channels whose images were permuted.
    fits: float64 (concepts, channels): of what a channel responds to most, the share to which the concept applies.
    least: the smallest value that a name may have, where the measure has its own; else `fits` decides.
    """

    source: str
    measure: str
    concepts: Sequence[str]
    values: np.ndarray
    by_chance: np.ndarray
    fits: np.ndarray
    least: float = -np.inf


@dataclass(frozen=True)
class ClaimRule:
    """The conditions under which a concept becomes a name.

    top_k: concepts that are listed for each channel. chance: up to which share of all names may be chance's.
    fits: to how much of what a channel responds to most a name applies, at least.
    """

    top_k: int
    chance: float
    fits: float


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

    None is a name yet: which are depends on all layers, see `decide_names`.

    Args:
        channels: int64 (channels,): their numbers in the network.
    """
    agreements = [agreement for agreement in agreements if len(agreement.concepts)]
    # Rounded, so that the last bits do not decide between equals: the earlier concept does.
    rounded = [np.where(np.isnan(agreement.values), -np.inf, agreement.values).round(9) for agreement in agreements]
    orders = [np.argsort(-values, axis=0, kind="stable")[: max(rule.top_k, 2)] for values in rounded]
    rows: list[dict[str, Any]] = []
    for position, number in enumerate(channels.tolist()):
        for agreement, order, rounds in zip(agreements, orders, rounded, strict=True):
            listed = [concept for concept in order[:, position] if np.isfinite(rounds[concept, position])]
            values = [float(agreement.values[concept, position]) for concept in listed]
            for rank, concept in enumerate(listed[: rule.top_k]):
                chance = float((agreement.by_chance >= values[rank]).mean()) if len(agreement.by_chance) else None
                margin = values[0] - values[1] if rank == 0 and len(values) > 1 else None
                fits = float(agreement.fits[concept, position])
                # Where a measure has a threshold of its own, such as the overlap of masks, that says enough.
                strong = values[rank] >= agreement.least if np.isfinite(agreement.least) else fits >= rule.fits
                able = rank == 0 and margin != 0 and strong
                row: dict[str, Any] = {
                    "layer": layer,
                    "channel": number,
                    "concept": agreement.concepts[concept],
                    "source": agreement.source,
                    "measure": agreement.measure,
                    "value": values[rank],
                    "rank": rank,
                    "margin": margin,
                    "chance": chance,
                    "false_discovery": None,
                    "fits": fits,
                    "named": able and chance is not None,
                }
                rows.append(row)
    return columns_of(INDEX["concepts"], rows)


def decide_names(columns: Mapping[str, list[Any]], rule: ClaimRule) -> None:
    """Decide, in place, which of the concepts of a whole job are names.

    With thousands of channels and several measures, many reach by chance what a single one would hardly reach. So a name needs a
    false discovery rate (Benjamini and Hochberg, 1995), over every channel and measure: of all best concepts that are as sure
    as it is, the share that permuted images would give.
    """
    first = [row for row, rank in enumerate(columns["rank"]) if rank == 0 and columns["chance"][row] is not None]
    chances = np.array([columns["chance"][row] for row in first])
    order = np.argsort(chances, kind="stable")
    rates = chances[order] * len(order) / np.arange(1, len(order) + 1)
    rates = np.minimum(np.minimum.accumulate(rates[::-1])[::-1], 1.0)
    for position, rate in zip(order.tolist(), rates.tolist(), strict=True):
        row = first[position]
        columns["false_discovery"][row] = rate
        columns["named"][row] = columns["named"][row] and rate <= rule.chance


def strongest_images(responses: np.ndarray) -> np.ndarray:
    """The images to which each channel responds most, strongest first: float (images, channels) to int64 (up to 9, channels)."""
    most = int(np.clip(len(responses) // 10, 1, _WINNERS))
    order: np.ndarray = np.argsort(-responses, axis=0, kind="stable")[:most]
    return order


def share_that_fits(applies: np.ndarray, winners: np.ndarray) -> np.ndarray:
    """The share of each channel's strongest images to which each concept applies: float64 (concepts, channels).

    Args:
        applies: bool (images, concepts). winners: as `strongest_images` returns them.
    """
    counts = np.zeros((applies.shape[1], winners.shape[1]))
    for images in winners:
        counts += applies[images].T
    return counts / len(winners)


def nearest_concepts(similarities: np.ndarray) -> np.ndarray:
    """Which concepts apply to each image: of those that stand out most, one in fifty, at least one: bool (images, concepts).

    A concept stands out by how far its similarity to an image is above its mean over all images, in standard deviations:
    some texts are near every image.

    Args:
        similarities: float64 (images, concepts).
    """
    spread = similarities.std(axis=0)
    differs = spread > 1e-9 * np.abs(similarities).max(initial=0)  # what is the same for all images differs by rounding alone
    standing = np.where(differs, similarities - similarities.mean(axis=0), 0) / np.where(differs, spread, 1)
    count = max(1, round(_APPLY * similarities.shape[1]))
    applies = np.zeros(similarities.shape, bool)
    np.put_along_axis(applies, np.argsort(-standing, axis=1, kind="stable")[:, :count], True, axis=1)
    return applies


def winner_vectors(vectors: np.ndarray, winners: np.ndarray) -> np.ndarray:
    """The mean embedding of each channel's strongest images less the mean of all: float64 (channels, width).

    Args:
        vectors: float64 (images, width), which count with length 1. winners: as `strongest_images` returns them.

    Returns: each of length 1, or zeros.
    """
    unit = normalised(vectors)
    return normalised(unit[winners].mean(axis=0) - unit.mean(axis=0))
