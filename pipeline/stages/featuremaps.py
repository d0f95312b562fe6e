"""The stage `featuremaps`: what every channel of a layer makes of one image, one picture a layer and image."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.featuremaps.results import FeatureMapResults, maps_of
from pipeline.job import Job
from pipeline.models.network import LayerInfo
from pipeline.models.selection import select_layers
from pipeline.report.pictures import feature_maps
from pipeline.report.section import Section
from pipeline.sources.picking import Picked, check_picks, count_picks, pick
from pipeline.spec.featuremaps import FeaturemapsSpec
from pipeline.stages.stage import Outcome, Stage


def featuremaps(job: Job) -> Outcome:
    """Draw the maps and write index/featuremaps.parquet.

    Raises: UnknownLayer, WrongSpec, MissingInput, as `check_featuremaps` does; UnusableData, for a named image that
    cannot be read; TooManyBad, for another where the spec says so; StoreFailed.
    """
    layers, spec = _layers(job), job.spec.featuremaps
    results = FeatureMapResults(job.folder, layers, spec)
    total = len(layers) * count_picks(job.source, spec)

    def images() -> Iterator[Picked]:
        return pick(job.source, job.fit, spec, passed_over=job.passed_over)

    with job.reporter.step("feature maps", "pictures") as advance:
        for layer, picked, name, maps in maps_of(job.network, layers, images):
            results.add(layer, picked, name, maps)
            advance(results.pictures, total)
    return results.write_index()


def check_featuremaps(job: Job) -> None:
    """Find before work starts which layers and images are not there. Raises: UnknownLayer, WrongSpec, MissingInput."""
    _layers(job)
    check_picks(job.source, job.spec.featuremaps, "[featuremaps]")


def _layers(job: Job) -> list[LayerInfo]:
    names = job.spec.featuremaps.layers
    return list(job.layers) if names is None else select_layers(job.network, names)


STAGE = Stage(
    "featuremaps",
    featuremaps,
    table=FeaturemapsSpec,
    check=check_featuremaps,
    index=("featuremaps",),
    folders=("mosaics/featuremaps",),
    section=Section("what each channel makes of an image", {"maps": feature_maps}),
)
