"""Which layers a list of names and globs means, and the table of all layers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import Any

from pipeline.errors import UnusableModel
from pipeline.models.network import LayerInfo, Network, UnreadableLayer, unknown_layer
from pipeline.store.files import share_files


def select_layers(network: Network, patterns: Sequence[str]) -> list[LayerInfo]:
    """The layers that any of the names or globs (case counts) match: each once, in the network's order.

    The first output of an operation may be written `op:0`, as TensorFlow does.

    Raises: UnknownLayer, for a name or glob that matches nothing; UnusableModel, where two layers' files would be one.
    """
    layers = network.layers()
    names = [layer.name for layer in layers]
    shared = share_files(names)
    if shared is not None:  # by chance one network in millions, or on purpose
        raise UnusableModel(f"the files of the layers {shared[0]!r} and {shared[1]!r} would have one name. Rename one of them.")
    chosen: set[str] = set()
    for pattern in patterns:
        matches = _matches(pattern, names) or _matches(pattern.removesuffix(":0"), names)
        if not matches:
            raise unknown_layer(network, pattern)
        chosen |= matches
    return [layer for layer in layers if layer.name in chosen]


def layer_columns(every: Sequence[LayerInfo | UnreadableLayer], chosen: Collection[str]) -> dict[str, list[Any]]:
    """The columns of index/layers.parquet: all layers of a network, whether the job looks at them, and why not if it cannot."""
    shapes = [layer.shape if isinstance(layer, LayerInfo) else (None, None, None) for layer in every]
    return {
        "layer": [layer.name for layer in every],
        "kind": [layer.kind for layer in every],
        "map_height": [shape[0] for shape in shapes],
        "map_width": [shape[1] for shape in shapes],
        "channels": [shape[2] for shape in shapes],
        "chosen": [isinstance(layer, LayerInfo) and layer.name in chosen for layer in every],
        "reason": [layer.reason if isinstance(layer, UnreadableLayer) else None for layer in every],
    }


def _matches(pattern: str, names: Sequence[str]) -> set[str]:
    return {pattern} & set(names) or {name for name in names if fnmatchcase(name, pattern)}
