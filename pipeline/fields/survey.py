"""A survey of a network's fields: every layer's measures, and how much of its central unit's gradient lies where."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.compiled.energy import check_gradients, energy_of
from pipeline.errors import UnusableData
from pipeline.fields.effective import Places, effective_box
from pipeline.fields.solving import solve_in_groups
from pipeline.geometry import Box
from pipeline.job import Job
from pipeline.models.network import LayerInfo
from recfield import ReceptiveField

_IMAGES = 6  # of the data set, evenly spread
_CHANNELS = 12  # of a layer, evenly spread


@dataclass(frozen=True, eq=False)
class FieldSurvey:
    """What is known of one layer's fields.

    unit: row and col of the central unit.
    energy: float64 (height, width): the mean of the central unit's energy, which each gradient has as much of.
    effective: the smallest box with 95 % of it; None where there is none.
    gradients: how many were not zero, of how many.
    """

    layer: LayerInfo
    field: ReceptiveField
    unit: tuple[int, int]
    energy: np.ndarray
    effective: Box | None
    gradients: tuple[int, int]


def survey_fields(job: Job) -> Iterator[FieldSurvey]:
    """Solve the fields of a job's layers and look at the central units' gradients, for a few channels and images.

    Raises: FieldUnsolved; WrongSpec, for an operation without gradient; UnusableData, where no image can be read.
    """
    check_gradients(job.network, job.layers, "Without pictures: convscope layers SPEC")
    images = _images(job)
    for group in solve_in_groups(job.network, job.layers):
        for layer in (layer for layer in job.layers if layer.name in group):
            yield _survey(job, layer, group[layer.name], images)


def _images(job: Job) -> np.ndarray:
    """A few readable images, evenly spread over the data set, fitted to the network's input: uint8 (n, h, w, 3)."""
    found, reason = [], ""
    for example in np.unique(np.linspace(0, len(job.source) - 1, _IMAGES).astype(int)):
        try:
            for _, image in job.source.fetch([int(example)]):
                found.append(job.fit.apply(image.seen))
        except UnusableData as error:
            reason = str(error.args[0])
    if not found:
        raise UnusableData(f"not one of {_IMAGES} images can be read; the last: {reason}")
    return np.stack(found)


def _survey(job: Job, layer: LayerInfo, field: ReceptiveField, images: np.ndarray) -> FieldSurvey:
    rows, cols = field.boxes.shape[:2]
    unit = (rows // 2, cols // 2)
    channels = np.unique(np.linspace(0, layer.channels - 1, _CHANNELS).astype(int))
    asked = [(image, (*unit, channel)) for image in range(len(images)) for channel in channels]
    shown, units = images[[image for image, _ in asked]], np.array([one for _, one in asked])
    energies = energy_of(job.network, layer)(shown, units).astype(np.float64)
    totals = energies.sum(axis=(1, 2))
    heard = np.isfinite(totals) & (totals > 0)
    # Each gradient counts the same, so that a few loud channels do not drown the others.
    shares = energies[heard] / totals[heard, None, None]
    energy = shares.mean(axis=0) if heard.any() else np.zeros(energies.shape[1:])
    effective = effective_box(energy, field, Places.of(field, *energy.shape), unit)
    return FieldSurvey(layer, field, unit, energy, effective, (int(heard.sum()), len(asked)))
