"""The stage `report`: the web page, from whatever the other stages have left."""

from __future__ import annotations

from pipeline.job import Job, Receipt
from pipeline.report.page import write_page


def report(job: Job) -> Receipt:
    """Make the page of a job. Raises: StoreFailed."""
    with job.reporter.step("report", "layers") as advance:
        counts = write_page(job.folder, advance)
    size = f"{counts['files']:,} files, {counts['bytes'] / 1e6:.1f} MB"
    return {**counts, "told": f"{counts['channels']:,} channels on a page of {size}"}
