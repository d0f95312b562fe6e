"""The plan of `[patterns]`: which pictures, of which objectives, on which sheets and in which batches."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from types import MappingProxyType

from pipeline.ascent import objectives
from pipeline.ascent.objectives import Objective
from pipeline.errors import WrongSpec
from pipeline.job import Job
from pipeline.models.network import LOGITS, LayerInfo
from pipeline.models.selection import select_among
from pipeline.spec.patterns import PatternsSpec
from pipeline.store.files import file_name

_OBJECTIVES = "+objectives"  # the sheet of the named objectives; no file of a layer has a "+" in its name


@dataclass(frozen=True)
class Pattern:
    """One picture to be made: of a channel of a layer, or of a named objective.

    sign: 1 where the objective is raised, -1 where it is lowered.
    variant: which of the pictures of one objective and sign.
    """

    objective: Objective
    sign: int
    variant: int
    layer: str | None = None
    channel: int | None = None
    name: str | None = None

    @property
    def raised(self) -> Objective:
        """The objective that the ascent raises."""
        return self.sign * self.objective if self.sign < 0 else self.objective


@dataclass(frozen=True)
class PatternSheet:
    """The pictures of one sheet: of a layer, or of the named objectives."""

    name: str
    patterns: tuple[Pattern, ...]

    @property
    def file(self) -> str:
        """The stem of its files."""
        return self.name if self.name == _OBJECTIVES else file_name(self.name)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of its objectives, each once."""
        return tuple(dict.fromkeys(name for pattern in self.patterns for name in pattern.objective.layers))


def plan_sheets(
    spec: PatternsSpec, layers: Sequence[LayerInfo], dead: Mapping[str, Collection[int]] = MappingProxyType({})
) -> list[PatternSheet]:
    """All pictures, in the order in which they are made: the variants of one channel and sign follow each other.

    Args:
        layers: those of the job.
        dead: channels that are left out, by layer: what would fire them is not known, and their patterns are noise.

    Raises: UnknownLayer, WrongSpec.
    """
    objective_of = {"channel": objectives.channel, "neuron": objectives.neuron}[spec.target]
    sheets = []
    for layer in chosen_layers(spec, layers):
        patterns: list[Pattern] = []
        for number in range(layer.channels) if spec.channels == "all" else spec.channels:
            if number in dead.get(layer.name, ()):
                continue
            patterns += _signs_and_variants(spec, Pattern(objective_of(layer.name, number), 1, 0, layer.name, number))
        if patterns:
            sheets.append(PatternSheet(layer.name, tuple(patterns)))
    named = [Pattern(table.objective(), 1, 0, name=table.name) for table in spec.objectives]
    if named:
        every = tuple(pattern for first in named for pattern in _signs_and_variants(spec, first))
        sheets.append(PatternSheet(_OBJECTIVES, every))
    return sheets


def plan_batches(patterns: Sequence[Pattern], spec: PatternsSpec) -> Iterator[list[Pattern]]:
    """Batches of one form, of nearly equal length; the variants of one pattern are in one batch."""
    for _, same in groupby(patterns, key=lambda pattern: pattern.objective.form):
        of_form = list(same)
        count = len(of_form) // spec.variants
        number = -(-count // (spec.batch // spec.variants))
        length = -(-count // number) * spec.variants
        yield from (of_form[first : first + length] for first in range(0, len(of_form), length))


def check_patterns(job: Job) -> None:
    """Check `[patterns]` against the network, before any work is done.

    Raises: UnknownLayer; WrongSpec, for an unknown channel, class or direction, or if there is nothing to do;
        UnusableModel, for the logits of a network without any.
    """
    spec, network = job.spec.patterns, job.network
    chosen = chosen_layers(spec, job.layers)
    if not chosen and not spec.objectives:
        raise WrongSpec("patterns.layers and patterns.objectives are both empty. Name a layer or an objective.")
    highest = -1 if spec.channels == "all" else max(spec.channels)
    for layer in chosen:
        if highest >= layer.channels:
            raise WrongSpec(
                f"patterns.channels names channel {highest}, but {layer.name} has {layer.channels} "
                f"(0 to {layer.channels - 1}). Name lower ones, or fewer layers."
            )
    named = {table.name: table.objective() for table in spec.objectives}
    known = {layer.name: layer for layer in network.layers()}
    if any(LOGITS in objective.layers for objective in named.values()):
        known[LOGITS] = job.logits_layer()
    for name, objective in named.items():
        objective.check(known, f"{network.name} (patterns.objectives, {name!r})")


def chosen_layers(spec: PatternsSpec, layers: Sequence[LayerInfo]) -> list[LayerInfo]:
    """The job's layers that the spec names, or all of them. Raises: UnknownLayer."""
    return select_among(layers, spec.layers, "patterns.layers")


def _signs_and_variants(spec: PatternsSpec, pattern: Pattern) -> list[Pattern]:
    signs = {"positive": [1], "negative": [-1], "both": [1, -1]}[spec.sign]
    return [replace(pattern, sign=sign, variant=variant) for sign in signs for variant in range(spec.variants)]
