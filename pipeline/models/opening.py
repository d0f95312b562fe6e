"""The door to every network: a table of kinds, and globs over layer names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from pipeline.errors import UnknownLayer, UnknownName
from pipeline.models.network import LayerInfo, Network
from pipeline.sections.model import ModelSpec


def _keras(name: str, spec: ModelSpec) -> Network:
    from pipeline.models.applications import open_application

    return open_application(name, spec)


def _file(path: str, spec: ModelSpec) -> Network:
    from pipeline.models.files import open_file

    return open_file(path, spec)


def _frozen(path: str, spec: ModelSpec) -> Network:
    from pipeline.models.frozen import open_frozen

    return open_frozen(path, spec)


def _savedmodel(path: str, spec: ModelSpec) -> Network:
    from pipeline.models.savedmodel import open_savedmodel

    return open_savedmodel(path, spec)


# What stands before the colon of `model.source`. The kinds import Keras, so they are reached for on use alone.
KINDS: dict[str, Callable[[str, ModelSpec], Network]] = {
    "keras": _keras,
    "file": _file,
    "frozen": _frozen,
    "savedmodel": _savedmodel,
}


def open_network(spec: ModelSpec) -> Network:
    """The network that `[model]` names, its weights loaded.

    Raises: UnknownName, MissingInput, UnusableModel, WrongSpec.
    """
    kind, _, name = spec.source.partition(":")
    if kind not in KINDS:
        raise UnknownName.among(kind, KINDS, where=f"a kind of network (model.source = {spec.source!r})")
    return KINDS[kind](name, spec)


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
