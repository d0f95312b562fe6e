"""Which layers a list of names and globs means."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from pipeline.errors import UnknownLayer
from pipeline.models.network import LayerInfo, Network


def select_layers(network: Network, patterns: Sequence[str]) -> list[LayerInfo]:
    """The layers that any of the names or globs (case counts) match: each once, in the network's order.

    The first output of an operation may be written `op:0`, as TensorFlow does.

    Raises: UnknownLayer, for a name or glob that matches nothing.
    """
    layers = network.layers()
    names = [layer.name for layer in layers]
    chosen: set[str] = set()
    for pattern in patterns:
        matches = _matches(pattern, names) or _matches(pattern.removesuffix(":0"), names)
        if not matches:
            raise UnknownLayer.among(pattern, names, where=f"in {network.name}", hint="List them: convscope layers SPEC")
        chosen |= matches
    return [layer for layer in layers if layer.name in chosen]


def _matches(pattern: str, names: Sequence[str]) -> set[str]:
    return {pattern} & set(names) or {name for name in names if fnmatchcase(name, pattern)}
