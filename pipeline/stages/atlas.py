"""The stage `atlas`: a map of what each layer sees, with an icon for each cell of its grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.ascent.objectives import direction
from pipeline.atlas.layout import Cell, cells_of, check_size, lay_out, require_umap, striking_channels
from pipeline.atlas.results import FOLDER, write_icons, write_points, write_projector
from pipeline.directions.sampling import SamplePlan, VectorSample, sample_vectors
from pipeline.errors import UnusableModel, WrongSpec
from pipeline.job import Job
from pipeline.models.network import LayerInfo
from pipeline.models.selection import select_among
from pipeline.patterns.plan import Pattern, plan_batches
from pipeline.progress import counted
from pipeline.report.atlas import atlases
from pipeline.report.section import Section
from pipeline.spec.atlas import AtlasSpec
from pipeline.spec.patterns import PatternsSpec
from pipeline.stages.stage import Outcome, Stage
from pipeline.store.columns import columns_of
from pipeline.store.files import keep_only
from pipeline.store.tables import INDEX, write_index

Icons = dict[tuple[int, int, int], np.ndarray]  # by grid, row and column


def run(job: Job) -> Outcome:
    """Sample vectors, lay them out, and write atlas/, the pictures of icons and index/atlas.parquet.

    Finished batches of icons, and the checkpoint of an unfinished one, stay in parts/atlas until all are done.

    Raises: WrongSpec, for a sample that is too small; StoreFailed.
    """
    spec, layers = job.spec.atlas, chosen_layers(job)
    plan = _sample_plan(job)
    with job.reporter.step("atlas: sample", "images") as advance:
        samples = sample_vectors(job.network, layers, job.readable, plan, advance)
    rows: list[dict[str, Any]] = []
    without: dict[str, str] = {}
    cells_by_layer: dict[str, list[Cell]] = {}
    for layer in layers:
        sample = samples[layer.name]
        job.reporter.say(f"atlas: {len(sample.vectors):,} vectors of {layer.name}: UMAP looks for their neighbours first")
        with job.reporter.step(f"atlas: UMAP of {layer.name}", "epochs") as advance:
            points = lay_out(sample.vectors, spec.neighbours, spec.seed, layer.name, advance)
        table = _points(sample, points)
        write_points(job.folder, layer.name, table)
        if spec.projector:
            write_projector(job.folder, layer.name, sample.vectors, table)
        cells = [cell for grid in spec.grids for cell in cells_of(points, sample.vectors, table["label"], grid, spec.least)]
        cells_by_layer[layer.name] = cells
        try:
            icons = _icons(job, layer, cells, sample.vectors.mean(axis=0)) if spec.icons else {}
        except UnusableModel as error:  # a network without gradients
            icons, without[layer.name] = {}, str(error.args[0])
            job.reporter.say(f"atlas: {layer.name} has no icons: {error.args[0]}")
        for grid in spec.grids:
            of_grid = [cell for cell in cells if cell.grid == grid]
            drawn = {(row, col): icon for (picture_of_cell, row, col), icon in icons.items() if picture_of_cell == grid}
            picture = write_icons(job.folder, layer.name, of_grid, drawn) if drawn else None
            striking = striking_channels(sample.vectors, of_grid)
            for cell, channel in zip(of_grid, striking, strict=True):
                picture_of_cell = picture if (cell.row, cell.col) in drawn else None
                rows.append(_row(layer.name, cell, picture_of_cell) | {"channel": channel})
    columns = columns_of(INDEX["atlas"], rows)
    write_index(job.folder, "atlas", columns)
    _clean(job, layers, columns["picture"])
    icons_made = sum(picture is not None for picture in columns["picture"])
    points_made = {name: len(sample.vectors) for name, sample in samples.items()}
    return {
        "layers": [layer.name for layer in layers],
        "vectors": points_made,
        "icons": icons_made,
        "without_icons": without,
        "summary": f"{counted(sum(points_made.values()), 'point')} of {counted(len(layers), 'layer')}, "
        f"{counted(icons_made, 'icon')}",
    }


def _sample_plan(job: Job) -> SamplePlan:
    return SamplePlan(job.spec.atlas.vectors, job.spec.atlas.per_image, job.spec.atlas.seed)


def _icons(job: Job, layer: LayerInfo, cells: Sequence[Cell], mean: np.ndarray) -> Icons:
    """A picture for each cell that raises the direction from the mean of all vectors to the mean of its own.

    Raises: UnusableModel, for a layer that no gradient reaches.
    """
    from pipeline.ascent.measure import check_gradients, deterministic
    from pipeline.patterns.runner import PatternRunner

    spec = job.spec.atlas
    ascent = PatternsSpec(steps=spec.steps, batch=spec.batch, seed=spec.seed, snapshot=spec.checkpoint)
    away = {(cell.grid, cell.row, cell.col): cell.mean - mean for cell in cells}
    patterns = {
        cell: Pattern(direction(layer.name, vector), 1, 0, name=f"cell {cell}")
        for cell, vector in away.items()
        if np.linalg.norm(vector) > 0
    }
    icons: Icons = {}
    with deterministic(), job.reporter.step(f"atlas: icons of {layer.name}", "steps") as advance:
        check_gradients(job.network, [layer.name])
        runner = PatternRunner(job.of_image, ascent, job.folder / "parts" / "atlas", advance, len(patterns), job.shown_bands)
        made = [result for batch in plan_batches(list(patterns.values()), ascent) for result in runner.make(batch)]
    for cell, result in zip(patterns, made, strict=True):
        if result.state == "done":
            icons[cell] = result.picture
    return icons


def _points(sample: VectorSample, points: np.ndarray) -> dict[str, Any]:
    """The columns of atlas/LAYER.parquet."""
    images = [sample.images[int(example)] for example in sample.examples]
    return {
        "example": sample.examples,
        "key": [key for key, _ in images],
        "label": [label for _, label in images],
        "row": sample.rows,
        "col": sample.cols,
        "x": points[:, 0],
        "y": points[:, 1],
    }


def _row(layer: str, cell: Cell, picture: str | None) -> dict[str, Any]:
    return {
        "layer": layer,
        "grid": cell.grid,
        "row": cell.row,
        "col": cell.col,
        "vectors": len(cell.members),
        "label": cell.label,
        "label_share": cell.label_share if cell.label is not None else None,
        "picture": picture,
    }


def _clean(job: Job, layers: Sequence[LayerInfo], pictures: Sequence[str | None]) -> None:
    """Remove what earlier runs left, and the finished batches."""
    from pipeline.store.files import file_name

    keep_only(job.folder / "mosaics" / "atlas", {job.folder / picture for picture in pictures if picture})
    stems = {file_name(layer.name) for layer in layers}
    suffixes = (".parquet", "-vectors.tsv", "-metadata.tsv") if job.spec.atlas.projector else (".parquet",)
    kept = {job.folder / FOLDER / f"{stem}{suffix}" for stem in stems for suffix in suffixes}
    for path in [*(job.folder / FOLDER).glob("*"), *(job.folder / "parts" / "atlas").glob("*.npz")]:
        if path not in kept:
            path.unlink()


def chosen_layers(job: Job) -> list[LayerInfo]:
    """The layers that get an atlas. Raises: UnknownLayer."""
    return select_among(job.layers, job.spec.atlas.layers, "atlas.layers")


def check(job: Job) -> None:
    """Raises: WrongSpec, UnknownLayer; UnusableModel, without UMAP."""
    for layer in chosen_layers(job):
        if layer.channels < 2:  # the cosine of two numbers is 1 or -1
            raise WrongSpec(f"atlas.layers: {layer.name!r} has one channel, and so no directions to lay out. Name other layers.")
        check_size(_sample_plan(job).size(layer, len(job.source)), job.spec.atlas.neighbours, layer.name)
    require_umap()


STAGE = Stage(
    "atlas",
    run,
    table=AtlasSpec,
    check=check,
    index=("atlas",),
    folders=(FOLDER, "mosaics/atlas"),
    section=Section("a map of what each layer sees", {"atlas": atlases}),
)
