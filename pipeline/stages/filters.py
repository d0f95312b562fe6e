"""The stage `filters`: every chosen kernel as a picture, and every filter in the index."""

from __future__ import annotations

from pipeline.filters.kernel_sheet import Limits
from pipeline.filters.results import FilterResults, KernelOrigin
from pipeline.filters.selection import choose, given_by, inputs_of
from pipeline.job import Job
from pipeline.report.pictures import kernels
from pipeline.report.section import Section
from pipeline.spec.filters import FiltersSpec
from pipeline.stages.stage import Outcome, Stage


def filters(job: Job) -> Outcome:
    """Draw the kernels and write index/filters.parquet. Raises: WrongSpec, as `check_filters` does; StoreFailed."""
    from pipeline.filters.colours import colour_inputs

    spec = job.spec.filters
    layers = choose(job.network, spec.layers, job.layers)
    gives = given_by(job.network, layers, job.layers)
    results = FilterResults(job.folder, Limits(spec.sort, spec.filters, spec.inputs))
    with job.reporter.step("filters", "layers") as advance:
        for done, layer in enumerate(layers, start=1):
            for kernel in job.network.kernels([layer.name])[layer.name]:
                origin = KernelOrigin(layer.name, gives[layer.name], inputs_of(job.network, layer.name, kernel, job.layers))
                results.add(origin, kernel, colour_inputs(job.of_image, layer.name, kernel))
            advance(done, len(layers))
    return results.write_index([layer.name for layer in layers])


def check_filters(job: Job) -> None:
    """Find before work starts what cannot be drawn. Raises: UnknownLayer, WrongSpec."""
    choose(job.network, job.spec.filters.layers, job.layers)


STAGE = Stage(
    "filters",
    filters,
    table=FiltersSpec,
    check=check_filters,
    index=("filters",),
    folders=("mosaics/filters",),
    section=Section("the learned kernels", {"kernels": kernels}),
)
