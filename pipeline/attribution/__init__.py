"""What made a network decide: gradient-based maps of its evidence for a class, and whether they can be trusted."""

from __future__ import annotations

from pipeline.job import Job, Receipt


def check_gradcam(job: Job) -> None:
    """Find what cannot be explained before work starts. Raises: any WrongSpec."""
    from pipeline.attribution.stage import check

    check(job)


def gradcam(job: Job) -> Receipt:
    """The stage `gradcam`: classes, heat maps, guided gradients, and checks of them, for the images picked."""
    from pipeline.attribution.stage import explain

    return explain(job)
