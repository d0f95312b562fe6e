"""Paths in a spec: fields declare that they hold paths, and relative ones become absolute before the spec is validated."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from pipeline.errors import WrongSpec, shortened
from pipeline.store.places import is_endless
from pipeline.store.remote import has_scheme

PathKinds = Mapping[str, Collection[str]]  # by table, "model" or "data": the kinds of `source` whose rest is a path


@dataclass(frozen=True)
class HoldsPath:
    """Marks the text of a field as a path or an address.

    words: values that are not paths.
    source_of: for a path that follows a kind and a colon: the table of those kinds.
    """

    words: tuple[str, ...] = ()
    source_of: str | None = None


PathText = Annotated[str, HoldsPath()]


def resolve_paths(tree: dict[str, Any], table: type[BaseModel], folder: Path, kinds: PathKinds) -> None:
    """Make the paths in a tree of values absolute, in place; invalid values are left for validation to refuse.

    `~` and `${VARIABLE}` are expanded. Addresses with a scheme, such as s3://bucket/key, stay as they are.

    Args:
        table: what the tree is to become; each field that holds paths is marked with `HoldsPath`, at any depth.
        folder: what relative paths are relative to.

    Raises: WrongSpec, for a variable that is not set, and for pipes and devices.
    """
    for name, field in table.model_fields.items():
        if name not in tree:
            continue
        parts = [*field.metadata, *_parts(field.annotation)]
        for mark in parts:
            if isinstance(mark, HoldsPath):
                tree[name] = _each_text(tree[name], partial(_resolved, mark=mark, folder=folder, kinds=kinds))
        for inner in parts:
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                value = list(tree[name].values()) if _is_by_name(field.annotation, tree[name]) else tree[name]
                for part in value if isinstance(value, list) else [value]:
                    if isinstance(part, dict):
                        resolve_paths(part, inner, folder, kinds)


def _parts(annotation: Any) -> Iterator[Any]:
    """All parts of an annotation: the types in unions and lists, and their own annotations."""
    yield annotation
    for part in (*get_args(annotation), *getattr(annotation, "__metadata__", ())):
        yield from _parts(part)


def _is_by_name(annotation: Any, value: Any) -> bool:
    """Whether a value is a table whose keys are names of the user's own, each for a value or a table."""
    return isinstance(value, dict) and get_origin(annotation) is dict


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, list):
        return [_each_text(part, change) for part in value]
    return change(value) if isinstance(value, str) else value


def _resolved(text: str, mark: HoldsPath, folder: Path, kinds: PathKinds) -> str:
    if text in mark.words:
        return text
    if mark.source_of is None:
        return _absolute(text, folder)
    kind, colon, rest = text.partition(":")
    return f"{kind}:{_absolute(rest, folder)}" if colon and kind in kinds[mark.source_of] else text


def _absolute(path: str, folder: Path) -> str:
    expanded = os.path.expanduser(os.path.expandvars(path))
    missing = re.search(r"\$\{?(\w+)\}?", expanded)
    if missing:
        raise WrongSpec(
            f"{path!r} names the environment variable {missing[1]}, which is not set. "
            f"Set it, such as {missing[1]}=/path, or name another with --set."
        )
    if not expanded or has_scheme(expanded):
        return expanded
    absolute = os.path.normpath(folder / expanded)
    if is_endless(absolute):
        raise WrongSpec(f"{shortened(path)!r} is a pipe or a device, and what a spec names is read more than once. Name a file.")
    return absolute
