"""What a job works on: the network and the images of a spec, opened together, since each says how the other is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import UnusableData, WrongSpec
from pipeline.models.network import Network
from pipeline.models.registry import open_network
from pipeline.sources.companions import Companions, InputColumn
from pipeline.sources.fit import Fit
from pipeline.sources.images import Images
from pipeline.sources.picking import read_picked
from pipeline.sources.records import Records
from pipeline.sources.registry import open_source, sample_form, source_of
from pipeline.sources.source import Source
from pipeline.sources.windows import Windows
from pipeline.spec import JobSpec

if TYPE_CHECKING:
    from pipeline.models.other_inputs import Given

_LOOKED_AT = 64  # examples, of which the first that is whole says what inputs are held at


@dataclass(frozen=True)
class Inputs:
    """The network of a job, its images, and how these are resized to the network's input."""

    network: Network
    source: Source
    fit: Fit


def open_inputs(spec: JobSpec, fetch: bool = True, network: Network | None = None, records: Records | None = None) -> Inputs:
    """The network and the data of a spec.

    Args:
        fetch: whether a data set that is not there yet may be downloaded and prepared.
        network: the spec's own, where it is open already.
        records: the spec's own images, where they are open already.

    Raises: any WrongSpec.
    """
    network = network or open_network(spec.model)
    height, width, channels = network.input_shape
    fit = Fit(height, width, spec.data.resize)
    form = sample_form(spec.data, channels)
    if form is not None:
        as_samples = getattr(network, "of_samples", None)
        if as_samples is None:
            raise WrongSpec(f"{network.name} takes 8-bit pixels. Leave data.range and data.rgb out.")
        network = as_samples(form.ranges)
    source = open_source(spec.data, fit, fetch, channels) if records is None else source_of(records, spec.data, fit, channels)
    given: Mapping[str, Given] = getattr(network, "given", {})
    if any(value.kind not in ("constant", "same") for value in given.values()):
        network, source = _joined(spec, network, source, fit)
    return Inputs(network, source, fit)


def _joined(spec: JobSpec, network: Network, source: Source, fit: Fit) -> tuple[Network, Source]:
    """A network of several inputs that depend on the data, and the source that has what they are given."""
    from pipeline.models.image_network import ImageNetwork

    assert isinstance(network, ImageNetwork) and isinstance(source, (Images, Windows))
    given = network.given.values()
    held = {}
    for value in given:
        if value.kind == "file":
            held[value.input.name] = read_picked(value.name, source.decoder, fit)
    columns = {
        value.input.name: InputColumn(source.column(value.name), network.packing.shapes[value.input.name])
        for value in given
        if value.kind == "column"
    }
    sources = {
        value.input.name: _second(spec, value, source, fit, network.input_shape[2]) for value in given if value.kind == "source"
    }
    if not columns and not sources:
        return network.holding(held), source
    companions = Companions(source, fit, columns, sources, network.packing.pack)
    return network.holding({**held, **_first_values(companions)}), companions


def _second(spec: JobSpec, given: Given, source: Source, fit: Fit, channels: int) -> Source:
    """The source of an input's own images. Raises: WrongSpec, where it has another number of them than the data."""
    table = spec.data.model_copy(update={"source": given.name, "image": None, "label": None, "labels": None})
    second = open_source(table, fit, True, channels)
    if len(second) != len(source):
        raise WrongSpec(
            f"model.inputs.{given.input.name} is given {given.name}, of {len(second):,} examples, but data.source has "
            f"{len(source):,}. Name a source with an image for each."
        )
    return second


def _first_values(companions: Companions) -> dict[str, np.ndarray]:
    """What inputs are held at where a network is looked at as a function of its image: the values of the first whole example."""
    reason = ""
    for example in range(min(_LOOKED_AT, len(companions))):
        try:
            return companions.values(example)
        except UnusableData as error:
            reason = str(error.args[0])
    raise UnusableData(f"none of the first {min(_LOOKED_AT, len(companions))} examples can be given to the network: {reason}.")
