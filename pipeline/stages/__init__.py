"""The stages of a job, in the order in which they run."""

from __future__ import annotations

from pipeline.stages import (
    activations,
    atlas,
    circuits,
    concepts,
    directions,
    dream,
    featuremaps,
    filters,
    gradcam,
    patterns,
    report,
)
from pipeline.stages.stage import Stage

_BEFORE_THE_PAGE = (
    activations.STAGE,
    filters.STAGE,
    featuremaps.STAGE,
    gradcam.STAGE,
    patterns.STAGE,
    dream.STAGE,
    concepts.STAGE,
    directions.STAGE,
    atlas.STAGE,
    circuits.STAGE,
)

STAGES: dict[str, Stage] = {stage.name: stage for stage in (*_BEFORE_THE_PAGE, report.stage_after(_BEFORE_THE_PAGE))}
