"""Job: what every stage is given, and Receipt: what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.models.labels import class_names, count_classes
from pipeline.models.network import LayerInfo, Network
from pipeline.progress import Reporter
from pipeline.sources.fit import Fit
from pipeline.sources.source import Source
from pipeline.spec import JobSpec
from pipeline.store.places import Place

# What a stage says of itself in run.json. The key `told`, where it stands, is a sentence for people.
Receipt = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What every stage is given: the spec, what it opened, and the folder for the results."""

    spec: JobSpec
    network: Network
    layers: tuple[LayerInfo, ...]
    source: Source
    fit: Fit
    folder: Place
    reporter: Reporter

    def count_classes(self) -> int:
        """How many logits the network has. Raises: UnusableModel, for a network without logits."""
        return count_classes(self.network)

    def class_names(self) -> tuple[str, ...] | None:
        """The name of each logit: from `model.labels`, else the data set's where there are as many; None where there are none.

        Raises: MissingInput, WrongSpec, UnusableModel for a network without logits.
        """
        return class_names(self.spec.model.labels, self.network, self.source.labels)
