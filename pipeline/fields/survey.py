"""A survey of a network's fields: the receptive field of every layer, and the energy of its central unit's gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.compiled.energy import check_gradients, energy_of
from pipeline.errors import UnusableData
from pipeline.fields.cache import FieldCache
from pipeline.fields.effective import UnitCentres, effective_box
from pipeline.fields.solving import solve_in_groups
from pipeline.geometry import Box
from pipeline.job import Job
from pipeline.models.network import LayerInfo
from recfield import ReceptiveField

_IMAGES = 6  # of the data set, evenly spread
_CHANNELS = 12  # of a layer, evenly spread


@dataclass(frozen=True, eq=False)
class FieldSurvey:
    """The fields of one layer.

    unit: row and col of the central unit.
    energy: float64 (height, width): the mean over gradients of the central unit's energy, each normalised to a sum of 1.
    effective: the smallest box with 95% of the energy; None where every gradient is zero.
    gradients: how many were not zero, and how many were computed.
    """

    layer: LayerInfo
    field: ReceptiveField
    unit: tuple[int, int]
    energy: np.ndarray
    effective: Box | None
    gradients: tuple[int, int]


def survey_fields(job: Job) -> Iterator[FieldSurvey]:
    """Solve the fields of a job's layers and look at the central units' gradients, for a few channels and images.

    Raises: FieldUnsolved; WrongSpec, for an operation without gradient; UnusableData, where no image can be read;
        TooManyBad, for the first that cannot, where the spec says so.
    """
    check_gradients(job.network, job.layers, "Without pictures: convscope layers SPEC")
    images = _images(job)
    for group in solve_in_groups(job.network, job.layers, FieldCache.of_job(job)):
        for layer in (layer for layer in job.layers if layer.name in group):
            yield _survey(job, layer, group[layer.name], images)


def _images(job: Job) -> np.ndarray:
    """A few readable images, evenly spread over the data set, fitted to the network's input: uint8 (n, h, w, 3)."""
    images = job.readable.of(np.unique(np.linspace(0, len(job.source) - 1, _IMAGES).astype(int)).tolist())
    if not images:
        key, reason = list(job.passed_over.images.items())[-1]
        raise UnusableData(f"none of {_IMAGES} images can be read; the last is {key!r}: {reason}. Mend the data.")
    return np.stack([image.given for image in images])


def _survey(job: Job, layer: LayerInfo, field: ReceptiveField, images: np.ndarray) -> FieldSurvey:
    rows, cols = field.boxes.shape[:2]
    unit = (rows // 2, cols // 2)
    channels = np.unique(np.linspace(0, layer.channels - 1, _CHANNELS).astype(int))
    # Every image with every channel.
    inputs = images.repeat(len(channels), axis=0)
    units = np.array([(*unit, channel) for _ in images for channel in channels])
    energies = energy_of(job.network, layer)(inputs, units).astype(np.float64)
    totals = energies.sum(axis=(1, 2))
    nonzero = np.isfinite(totals) & (totals > 0)
    # Each gradient has the same weight, so that a few strong channels do not hide the others.
    shares = energies[nonzero] / totals[nonzero, None, None]
    energy = shares.mean(axis=0) if nonzero.any() else np.zeros(energies.shape[1:])
    effective = effective_box(energy, field, UnitCentres.of(field, *energy.shape), unit)
    return FieldSurvey(layer, field, unit, energy, effective, (int(nonzero.sum()), len(units)))
