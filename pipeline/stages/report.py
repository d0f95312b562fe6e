"""The stage `report`: the web page, from whatever the stages before it have left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.progress import counted
from pipeline.stages.stage import Outcome, Stage, sections_of

if TYPE_CHECKING:
    from pipeline.job import Job


def stage_after(stages: Sequence[Stage]) -> Stage:
    """The stage that shows some others on a page, and so depends on their tables and names the classes that they name."""

    def run(job: Job) -> Outcome:
        from pipeline.report.page import write_page

        with job.reporter.step("report", "layers") as advance:
            counts = write_page(job.folder, sections_of(stages), advance)
        size = f"page of {counted(counts['files'], 'file')}, {counts['bytes'] / 1e6:.1f} MB"
        channels = f"{counted(counts['channels'], 'channel')} on a " if counts["channels"] else "a "
        return {**counts, "summary": f"{channels}{size}"}

    tables = dict.fromkeys(table for stage in stages for table in stage.tables)
    return Stage("report", run, reads=("stages", *tables), names_classes=True, folders=("report",))
