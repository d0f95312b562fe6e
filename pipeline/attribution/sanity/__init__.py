"""The table of sanity checks of maps: weight randomisation, deletion and insertion curves, and metrics."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from pipeline.attribution.explainer import Explained, Explainer
from pipeline.attribution.sanity.deletion import DeletionCurves
from pipeline.attribution.sanity.metrics import MapMetrics
from pipeline.attribution.sanity.similarity import RandomisationSimilarity


class SanityCheck(Protocol):
    """Collects what it finds of the maps of one batch after another."""

    columns: dict[str, list[Any]]

    def add(self, explained: Explained) -> None:
        """Check the maps of a batch."""

    def plot(self) -> bytes:
        """The result of the check as a plot, PNG."""


# As the spec names them, and as their table in the index is called.
CHECKS: dict[str, Callable[[Explainer], SanityCheck]] = {
    "curves": DeletionCurves,
    "randomisation": RandomisationSimilarity,
    "independent": partial(RandomisationSimilarity, cascading=False),
    "metrics": MapMetrics,
}
