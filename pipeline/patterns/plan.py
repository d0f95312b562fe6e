"""What `[patterns]` asks for: which pictures, of which objectives, and on which sheets they stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pipeline.ascent import objectives
from pipeline.ascent.objectives import Objective
from pipeline.errors import UnknownLayer, WrongSpec
from pipeline.models.labels import count_classes
from pipeline.models.network import LOGITS, LayerInfo, Network
from pipeline.spec.patterns import PatternsSpec
from pipeline.store.files import file_name

_OBJECTIVES = "+objectives"  # the sheet of the named ones; no file of a layer has a "+" in its name


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
    def climbs(self) -> Objective:
        """What the ascent raises."""
        return self.sign * self.objective if self.sign < 0 else self.objective


@dataclass(frozen=True)
class Sheet:
    """Pictures that stand together: of a layer, or of the named objectives."""

    name: str
    patterns: tuple[Pattern, ...]

    @property
    def file(self) -> str:
        """What its files are called."""
        return self.name if self.name == _OBJECTIVES else file_name(self.name)


def sheets(spec: PatternsSpec, layers: Sequence[LayerInfo]) -> list[Sheet]:
    """All pictures, in the order in which they are made: the variants of one channel and sign one after the other.

    Args:
        layers: those of the job.

    Raises: UnknownLayer, WrongSpec.
    """
    target = {"channel": objectives.channel, "neuron": objectives.neuron}[spec.target]
    found = []
    for layer in chosen_layers(spec, layers):
        numbers = range(layer.channels) if spec.channels == "all" else spec.channels
        patterns = [
            pattern for number in numbers for pattern in _pictures(spec, target(layer.name, number), layer.name, number, None)
        ]
        found.append(Sheet(layer.name, tuple(patterns)))
    named = [pattern for one in spec.objectives for pattern in _pictures(spec, one.objective(), None, None, one.name)]
    return [*found, Sheet(_OBJECTIVES, tuple(named))] if named else found


def check_patterns(spec: PatternsSpec, network: Network, layers: Sequence[LayerInfo]) -> None:
    """Hold `[patterns]` against the network, before any work is done.

    Args:
        layers: those of the job.

    Raises: UnknownLayer; WrongSpec, for a channel, class or direction that is not there, or for nothing to do;
        UnusableModel, for the logits of a network without any.
    """
    chosen = chosen_layers(spec, layers)
    if not chosen and not spec.objectives:
        raise WrongSpec("patterns.layers and patterns.objectives are both empty. Name a layer or an objective.")
    highest = -1 if spec.channels == "all" else max(spec.channels)
    for layer in chosen:
        if highest >= layer.channels:
            raise WrongSpec(
                f"patterns.channels names channel {highest}, but {layer.name} has {layer.channels} "
                f"(0 to {layer.channels - 1}). Name lower ones, or fewer layers."
            )
    named = {one.name: one.objective() for one in spec.objectives}
    known = {layer.name: layer for layer in network.layers()}
    if any(LOGITS in objective.layers for objective in named.values()):
        known[LOGITS] = LayerInfo(LOGITS, "", (1, 1, count_classes(network)))
    for name, objective in named.items():
        objective.check(known, f"{network.name} (patterns.objectives, {name!r})")


def chosen_layers(spec: PatternsSpec, layers: Sequence[LayerInfo]) -> list[LayerInfo]:
    """Those of the job's layers that the spec names, or all of them. Raises: UnknownLayer."""
    if spec.layers is None:
        return list(layers)
    names = [layer.name for layer in layers]
    matches = {pattern: {name for name in names if name == pattern or fnmatchcase(name, pattern)} for pattern in spec.layers}
    for pattern, matched in matches.items():
        if not matched:
            raise UnknownLayer.among(pattern, names, where="one of the job's layers (patterns.layers)", hint="See model.layers.")
    return [layer for layer in layers if any(layer.name in matched for matched in matches.values())]


def _pictures(
    spec: PatternsSpec, objective: Objective, layer: str | None, channel: int | None, name: str | None
) -> list[Pattern]:
    signs = {"positive": [1], "negative": [-1], "both": [1, -1]}[spec.sign]
    return [Pattern(objective, sign, variant, layer, channel, name) for sign in signs for variant in range(spec.variants)]
