"""The key `source` of [model] and [data]: a kind, a colon, and a text that the kind interprets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.errors import UnknownName, WrongSpec
from pipeline.spec.table import Table


@dataclass(frozen=True)
class Kind:
    """What a kind of network or of source declares to the spec.

    path: whether what stands behind the colon is a path, which is then relative to the spec's file.
    endings: how paths end that mean this kind where none is named; "/" for a folder.
    keys: the keys of its table that this kind takes and not all others do. A key that no kind names, all take.
    """

    path: bool = False
    keys: tuple[str, ...] = ()
    endings: tuple[str, ...] = ()


def guess_source(text: str, kinds: Mapping[str, Kind]) -> str | None:
    """What a path alone means, by its ending: "folder:photos" for the folder photos; None for what has no known one."""
    ending = "/" if os.path.isdir(os.path.expanduser(text)) or text.endswith("/") else text.lower()
    kind = next((name for name, kind in kinds.items() if kind.endings and ending.endswith(kind.endings)), None)
    return kind and f"{kind}:{text}"


def split_source(table: Table, name: str, kinds: Mapping[str, Kind]) -> tuple[str, str]:
    """The kind that a table's key `source` names, and the text behind the colon.

    Args:
        name: of the table, for errors: "model" or "data".

    Raises: UnknownName, for a kind that is not there; WrongSpec, for a key that this kind has no use for.
    """
    source: str = getattr(table, "source")  # noqa: B009
    kind, colon, rest = source.partition(":")
    if not colon or kind not in kinds:
        meant = guess_source(source, kinds) or ("folder:" + source if name == "data" and not colon else None)
        where = f"a kind of {name}.source ({source!r})"
        if meant:
            listed = ", ".join(f"{known}:" for known in sorted(kinds))
            raise UnknownName(f"{source!r} of {name}.source names no kind. Did you mean {meant}? (known: {listed})")
        raise UnknownName.among(f"{kind}:", [f"{known}:" for known in kinds], where=where)
    noun = {"model": "networks", "data": "sources"}[name]
    for key in sorted(table.model_fields_set):
        takers = [f"{taker}:" for taker, declared in kinds.items() if key in declared.keys]
        value = getattr(table, key)
        idle = not value and value == type(table).model_fields[key].default  # asks for nothing, as a spec written in full has it
        if takers and f"{kind}:" not in takers and not idle:
            raise WrongSpec(
                f"{name}.{key} is for {' and '.join(takers)} {noun}; {name}.source = {source!r} has no use for it. Leave it out."
            )
    return kind, rest
