"""Section: what the page shows of a stage, as the stage declares it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.report.job_reader import JobReader, Row


@dataclass(frozen=True)
class Section:
    """What the page shows of a stage.

    shows: a noun phrase, for the list of what a page lacks where the stage has not run.
    view: the view of its own that the stage has, as the page's scripts call it; "" where its results stand beside the channels.
    rows: the data of that view, from the job's folder; an empty list leaves the view out.
    """

    shows: str
    view: str = ""
    rows: Callable[[JobReader], list[Row]] = lambda reader: []


Sections = Mapping[str, Section]  # by the name of the stage, in the order of the stages
