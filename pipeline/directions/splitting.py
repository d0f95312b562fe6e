"""Channels taken apart: the two directions of a channel whose winners fall into two clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.store.direction_sets import DirectionSet

METHOD = "split"
_FEWEST = 2  # winners in a cluster


@dataclass(frozen=True, eq=False)
class TwoClusters:
    """A channel's winners in two clusters, by the directions of their vectors.

    ranks: of the winners in each, the larger cluster first. centres: float32 (2, channels), of length 1.
    separation: the mean silhouette of the winners, by cosine distance, -1 to 1: how far the clusters lie apart.
    """

    channel: int
    ranks: tuple[tuple[int, ...], tuple[int, ...]]
    centres: np.ndarray
    separation: float


def two_clusters(channel: int, winners: Mapping[int, np.ndarray], seed: int) -> TwoClusters | None:
    """The two clusters of a channel's winners; None where one of them would hold fewer than two.

    Args:
        winners: by rank, the layer's vector where the winner has its maximum: float32 (channels,).
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    ranks = [rank for rank, vector in sorted(winners.items()) if np.linalg.norm(vector) > 0]
    if len(ranks) < 2 * _FEWEST:
        return None
    units = np.stack([winners[rank] / np.linalg.norm(winners[rank]) for rank in ranks]).astype(np.float64)
    if len(np.unique(units.round(6), axis=0)) < 2 * _FEWEST:
        return None
    labels = KMeans(2, n_init=10, random_state=seed).fit(units).labels_
    sizes = np.bincount(labels, minlength=2)
    if sizes.min() < _FEWEST:
        return None
    order = sorted((0, 1), key=lambda label: (-int(sizes[label]), int(np.argmax(labels == label))))
    centres = np.stack([units[labels == label].mean(axis=0) for label in order])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    first, second = (tuple(rank for rank, cluster in zip(ranks, labels, strict=True) if cluster == label) for label in order)
    separation = float(silhouette_score(units, labels, metric="cosine"))
    return TwoClusters(channel, (first, second), centres.astype(np.float32), separation)


def split_set(layer: str, clusters: Sequence[TwoClusters], network: str) -> DirectionSet:
    """The centres of some channels' clusters as directions, two a channel, to which vectors respond by their cosine."""
    centres = np.concatenate([cluster.centres for cluster in clusters])
    labels = [f"channel {cluster.channel}, cluster {letter}" for cluster in clusters for letter in "AB"]
    none = np.zeros(len(centres), np.float32), np.zeros(centres.shape[1], np.float32)
    encoder = np.ascontiguousarray(centres.T)
    name = f"{METHOD}{len(centres)}"
    return DirectionSet(layer, name, METHOD, "cosine", encoder, none[0], centres, none[1], labels=labels, network=network)
