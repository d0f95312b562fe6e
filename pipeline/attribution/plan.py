"""ExplainPlan: which maps are made, of what, at which layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.attribution.methods.method import Method, MethodSettings, Quantity, Side
from pipeline.attribution.targets import Target

MapKey = tuple[str, str | None]  # the name of a method, and of the layer where the method looks at one
MERGED = "merged"  # in the place of a layer: the map of several together


@dataclass(frozen=True)
class ExplainPlan:
    """The targets to explain, and the methods and layers to explain them by.

    methods: each with a layer, or None where it looks at pixels alone.
    batch: images at a time.
    with_weights: whether the network is explained with other weights too.
    sides: of class activation maps and others that are drawn as heat: what speaks for the target, against it, or both.
    merged: whether the maps of several layers are merged into one more, method by method.
    channels: by layer, what is asked of each of its channels beside the maps.
    """

    methods: tuple[tuple[Method, str | None], ...]
    targets: tuple[Target, ...]
    batch: int
    settings: MethodSettings = field(default_factory=MethodSettings)
    with_weights: bool = False
    sides: Side = "for"
    merged: bool = False
    channels: Mapping[str, Quantity] = field(default_factory=dict)

    @classmethod
    def of(cls, methods: Iterable[Method], layers: Sequence[str], targets: Sequence[Target], batch: int) -> ExplainPlan:
        """Every method at every layer, method by method; one that looks at pixels alone, once."""
        pairs = [(method, layer) for method in methods for layer in (layers if method.looks_at == "layer" else [None])]
        return cls(tuple(pairs), tuple(targets), batch)

    @property
    def keys(self) -> list[MapKey]:
        """The maps that are made, by the name of the method and the layer; merged ones after the others."""
        return [*((method.name, layer) for method, layer in self.methods), *((name, MERGED) for name in self.to_merge)]

    @property
    def to_merge(self) -> dict[str, list[str]]:
        """The layers whose maps are merged, by the name of the method."""
        layers: dict[str, list[str]] = {}
        for method, layer in self.methods if self.merged else ():
            if layer is not None and method.draws != "colours":
                layers.setdefault(method.name, []).append(layer)
        return {name: several for name, several in layers.items() if len(several) > 1}

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """The quantities that the methods read from the graph, each once."""
        of_maps = (quantity for method, layer in self.methods for quantity in method.needs(layer))
        return tuple(dict.fromkeys([*of_maps, *self.channels.values()]))
