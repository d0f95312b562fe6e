"""The table of aggregates: what the maps of many images say together, about each class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from pipeline.attribution.aggregates.channels import ChannelEvidence
from pipeline.attribution.aggregates.clusters import MapClusters
from pipeline.attribution.aggregates.places import EvidencePlaces
from pipeline.attribution.aggregates.subjects import Subjects
from pipeline.attribution.explainer import Explained


class Aggregate(Protocol):
    """Collects what the maps of one batch after another say; the order of the images does not matter."""

    def add(self, explained: Explained) -> None:
        """Take the maps of a batch."""

    def columns(self) -> dict[str, list[Any]]:
        """The table, from all images so far."""


# By the spec's name: the table in the index, and what collects it.
AGGREGATES: dict[str, tuple[str, Callable[[Subjects], Aggregate]]] = {
    "channels": ("evidence", ChannelEvidence),
    "places": ("evidence_places", EvidencePlaces),
    "clusters": ("evidence_clusters", MapClusters),
}
