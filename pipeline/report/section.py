"""Section: what the page shows of a stage, as the stage declares it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pipeline.report.job_reader import JobReader, Row


@dataclass(frozen=True)
class Section:
    """What the page shows of a stage.

    shows: a noun phrase, for the list of what a page lacks where the stage has not run.
    views: the views of their own that its results have, as the page's scripts call them, with what reads their data from
        the job's folder; an empty list leaves a view out. Other results stand beside the channels.
    """

    shows: str
    views: Mapping[str, Callable[[JobReader], list[Row]]] = field(default_factory=dict)


Sections = Mapping[str, Section]  # by the name of the stage, in the order of the stages
