"""The stage `patterns`: for every channel that is asked for, the picture that fires it most."""

from __future__ import annotations

from pipeline.job import Job
from pipeline.patterns.contact_sheet import draw_sheet, remove_other_sheets
from pipeline.patterns.plan import check_patterns, chosen_layers, plan_batches, plan_sheets
from pipeline.patterns.results import PatternResult, dead_channels, index_columns, picture_rows, read_patches, summarise
from pipeline.report.pictures import pattern_layers
from pipeline.report.section import Section
from pipeline.spec.patterns import PatternsSpec
from pipeline.stages.stage import Outcome, Stage
from pipeline.store.tables import PATTERNS, write_crops, write_index


def patterns(job: Job) -> Outcome:
    """Make, measure and show the pictures of `[patterns]`.

    Finished batches, and the checkpoint of an unfinished one, stay in parts/patterns until all are done; a stage that was
    interrupted goes on from there.

    Raises: UnusableModel, for layers that no gradient reaches; StoreFailed.
    """
    from pipeline.ascent.measure import deterministic

    with deterministic():
        return _make(job)


def _make(job: Job) -> Outcome:
    from pipeline.ascent.measure import check_gradients
    from pipeline.patterns.runner import PatternRunner

    spec, parts = job.spec.patterns, job.folder / "parts" / "patterns"
    chosen = [layer.name for layer in chosen_layers(spec, job.layers)]
    dead = dead_channels(job.folder, chosen)
    sheets = plan_sheets(spec, job.layers, dead)
    check_gradients(job.network, list(dict.fromkeys(name for sheet in sheets for name in sheet.layers)))
    every: list[PatternResult] = []
    with job.reporter.step("patterns", "steps") as advance:
        runner = PatternRunner(job.of_image, spec, parts, advance, sum(len(sheet.patterns) for sheet in sheets), job.shown_bands)
        for sheet in sheets:
            patches = read_patches(job.folder, sheet.name)
            results = [result for batch in plan_batches(sheet.patterns, spec) for result in runner.make(batch)]
            results = [result.compared(patches) for result in results]
            write_crops(job.folder / "patterns" / f"{sheet.file}.parquet", picture_rows(results), PATTERNS)
            draw_sheet(job.folder / "mosaics" / "patterns", sheet, results, patches)
            every += [result.without_picture() for result in results]
    write_index(job.folder, "patterns", index_columns(spec, job.network, every))
    remove_other_sheets(job.folder, sheets)
    for path in [*parts.glob("*.npz")]:
        path.unlink()
    asked = range(max(layer.channels for layer in job.layers)) if spec.channels == "all" else spec.channels
    left_out = {layer: [channel for channel in asked if channel in of_layer] for layer, of_layer in dead.items()}
    return summarise(job.reporter, every, {layer: channels for layer, channels in left_out.items() if channels})


STAGE = Stage(
    "patterns",
    patterns,
    table=PatternsSpec,
    check=check_patterns,
    reads=("activations",),  # a pattern is compared with the channel's strongest patches
    index=("patterns",),
    folders=("patterns", "mosaics/patterns"),
    section=Section("the pattern each channel responds to", {"patterns": pattern_layers}),
)
