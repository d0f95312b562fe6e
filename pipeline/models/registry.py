"""The door to every network: a table of kinds."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.errors import UnknownName
from pipeline.models.network import Network
from pipeline.models.selection import select_layers
from pipeline.spec.model import ModelSpec

__all__ = ["KINDS", "open_network", "select_layers"]


def _keras(name: str, spec: ModelSpec) -> Network:
    from pipeline.models.keras.applications import open_application

    return open_application(name, spec)


def _file(path: str, spec: ModelSpec) -> Network:
    from pipeline.models.keras.keras_file import open_file

    return open_file(path, spec)


def _frozen(path: str, spec: ModelSpec) -> Network:
    from pipeline.models.graphs.frozen import open_frozen

    return open_frozen(path, spec)


def _savedmodel(path: str, spec: ModelSpec) -> Network:
    from pipeline.models.graphs.savedmodel import open_savedmodel

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
