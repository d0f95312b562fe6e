"""The rows of index/directions.parquet: what each direction is made of, and what it keeps of the sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.directions.fitting import explained
from pipeline.directions.splitting import TwoClusters
from pipeline.store.direction_sets import DirectionSet

STRONGEST = 5  # channels of the base that are named for each direction
_OF_THEIR_OWN = ("split", "cav")  # methods that do not stand for the sample, so that they explain nothing of it


def direction_columns(
    directions: DirectionSet, vectors: np.ndarray, path: str, split: Sequence[TwoClusters] = ()
) -> dict[str, Any]:
    """The columns of index/directions.parquet for one set.

    Args:
        vectors: the sample that they were found in, float32 (n, channels).
        path: of the set in the job's folder.
        split: the channels that the set takes apart, in order.
    """
    count = directions.count
    active, energy = np.zeros(count, np.int64), np.zeros(count)
    for part in np.array_split(vectors, max(1, len(vectors) // 4096)):
        responses = directions.respond(part)
        active += (responses > 0).sum(axis=0)
        energy += (responses.astype(np.float64) ** 2).sum(axis=0)
    share = np.nan if directions.method in _OF_THEIR_OWN else explained(directions, vectors)
    order = np.argsort(-np.abs(directions.decoder), axis=1, kind="stable")[:, :STRONGEST]
    return {
        "layer": [directions.layer] * count,
        "channel": list(range(count)),
        "base": [directions.base] * count,
        "method": [directions.method] * count,
        "name": list(directions.labels) or [None] * count,
        "share_active": active / max(len(vectors), 1),
        "dead": energy == 0,
        "strength": np.sqrt(energy / max(len(vectors), 1)),
        "explained": [None if np.isnan(share) else share] * count,
        "vectors": [len(vectors)] * count,
        "strongest_channels": order.tolist(),
        "channel_weights": np.take_along_axis(directions.decoder, order, axis=1).astype(np.float64).tolist(),
        "path": [path] * count,
        "split_channel": [clusters.channel for clusters in split for _ in clusters.ranks] or [None] * count,
        "split_ranks": [list(ranks) for clusters in split for ranks in clusters.ranks] or [None] * count,
        "separation": [clusters.separation for clusters in split for _ in clusters.ranks] or [None] * count,
    }
