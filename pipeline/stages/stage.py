"""Stage: what every file of this room declares."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.report.section import Section
from pipeline.spec.table import Table

if TYPE_CHECKING:
    from pipeline.job import Job

# What a stage writes into run.json: counts and times. The key `summary`, where there is one, is a sentence for people.
Outcome = dict[str, Any]


def _nothing(job: Job) -> None: ...


def _nothing_to_prepare(job: Job, again: bool) -> None: ...


@dataclass(frozen=True)
class Stage:
    """A step of a job. Each file of this room declares one as STAGE and imports TensorFlow only inside its functions.

    name: as the spec's key `stages` names it.
    run: does the work and writes the results into the job's folder. Returns: its entry in run.json. Raises: any ConvscopeError.
    table: its table of the spec, [name]; None where it has no keys.
    check: finds, before any stage runs, what of the spec does not fit the network or the data. Raises: any WrongSpec.
    prepare: is called before any stage of a run that includes this one; `again` says that it has results, and makes them anew.
    reads: the tables of the spec on which the results depend, beside [model], [data] and its own.
    names_classes: whether the results hold the names of the network's classes.
    index: the tables that it writes, by their names in `pipeline.store.tables.INDEX`.
    folders: what else it writes, as folders of the job's folder.
    section: what the page shows of it.
    """

    name: str
    run: Callable[[Job], Outcome]
    table: type[Table] | None = None
    check: Callable[[Job], None] = _nothing
    prepare: Callable[[Job, bool], None] = _nothing_to_prepare
    reads: tuple[str, ...] = ()
    names_classes: bool = False
    index: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    section: Section | None = None

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables of the spec on which the results depend, beside [model] and [data]."""
        return (*self.reads, *([] if self.table is None else [self.name]))


def sections_of(stages: Iterable[Stage]) -> dict[str, Section]:
    """What the page shows of each of some stages, by name."""
    return {stage.name: stage.section for stage in stages if stage.section is not None}
