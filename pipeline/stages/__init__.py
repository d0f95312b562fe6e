"""The whole pipeline on one screen: a table of stages, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.dream.plan import check_dream
from pipeline.job import Job, Receipt
from pipeline.patterns.plan import check_patterns as _check_patterns
from pipeline.stages.activations import activations, check_activations
from pipeline.stages.dream import dream
from pipeline.stages.featuremaps import check_featuremaps, featuremaps
from pipeline.stages.filters import check_filters, filters
from pipeline.stages.gradcam import check as check_gradcam
from pipeline.stages.gradcam import explain as gradcam
from pipeline.stages.patterns import patterns
from pipeline.stages.report import report


def check_patterns(job: Job) -> None:
    """Raises: any WrongSpec."""
    _check_patterns(job.spec.patterns, job.network, job.layers)


@dataclass(frozen=True)
class Stage:
    """A step of a job.

    reads: the tables of the spec, beside [model] and [data], on which its results depend.
    names_classes: whether they name the network's classes.
    check: finds, before work starts, what of these tables does not fit the network or the data. Raises: any WrongSpec.
    """

    run: Callable[[Job], Receipt]
    reads: tuple[str, ...]
    check: Callable[[Job], None] = lambda job: None
    names_classes: bool = False


STAGES: dict[str, Stage] = {
    "activations": Stage(activations, ("activations",), check_activations),
    "filters": Stage(filters, ("filters",), check_filters),
    "featuremaps": Stage(featuremaps, ("featuremaps",), check_featuremaps),
    "gradcam": Stage(gradcam, ("gradcam",), check_gradcam, names_classes=True),
    "patterns": Stage(patterns, ("activations", "patterns"), check_patterns),  # pictures stand beside the patches that were found
    "dream": Stage(dream, ("dream",), check_dream, names_classes=True),
    "report": Stage(
        report, ("stages", "activations", "filters", "featuremaps", "gradcam", "patterns", "dream"), names_classes=True
    ),
}
