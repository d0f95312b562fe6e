"""The targets of a job: what its spec asks to be explained, looked up in its network and its data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.attribution.asked_targets import Asked, check_targets, targets_of
from pipeline.attribution.targets import Classes, Target
from pipeline.job import Job
from pipeline.models.network import LOGITS
from pipeline.sources.picking import check_picks, pick
from pipeline.spec.gradcam import TargetSpec
from pipeline.spec.picks import Picks


def classes_of(job: Job, key: str = "gradcam.targets") -> Classes:
    """The classes of a job's network.

    Args:
        key: of the spec, by which they are asked for; for messages.

    Raises: any WrongSpec; UnusableModel, for a network without logits.
    """
    return Classes(job.count_classes(), job.class_names(), job.head(), key)


def check_job_targets(job: Job, classes: Classes, asked: Sequence[Asked]) -> None:
    """Find targets that the network or the data do not have before work starts. Raises: WrongSpec, UnknownName, MissingInput."""
    check_targets(classes, asked, job.source.labels)
    for target in asked:
        if isinstance(target, TargetSpec):
            check_picks(job.source, _picks_of(target), classes.key)


def targets_of_job(job: Job, classes: Classes, asked: Sequence[Asked]) -> tuple[Target, ...]:
    """What to explain for everything that is asked for. Raises: WrongSpec, UnknownName; MissingInput, UnusableData."""
    from pipeline.compiled.compile import compile_pass
    from pipeline.models.labels import logits_shape

    def embed(target: TargetSpec) -> np.ndarray:
        """The network's embedding of the image that a target names."""
        image = next(iter(pick(job.source, job.fit, _picks_of(target)))).given
        run = compile_pass(job.network, [LOGITS], 1, lambda maps: maps[LOGITS])
        return np.asarray(run(image[np.newaxis]))[0]

    height, width = (*logits_shape(job.network), 1, 1)[1:3] if classes.head.kind == "map" else (1, 1)
    return targets_of(classes, asked, embed, (height, width))


def _picks_of(target: TargetSpec) -> Picks:
    return Picks(files=[target.image] if target.image else [], examples=[] if target.example is None else [target.example])
