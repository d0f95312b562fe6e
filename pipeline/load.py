"""The door of a job: its TOML file is read, paths in it become absolute, and it is validated, once."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import MissingInput, WrongSpec, one_line, quoted
from pipeline.models import registry as models
from pipeline.sources import registry as sources
from pipeline.spec.job_spec import JobSpec, validate
from pipeline.spec.paths import PathKinds, resolve_paths
from pipeline.spec.table import with_field_names
from pipeline.store.text import decoded

_PATH_KINDS: PathKinds = {
    "model": [name for name, kind in models.KINDS.items() if kind.path],
    "data": [name for name, kind in sources.KINDS.items() if kind.path],
}


def load_spec(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> JobSpec:
    """Read a job spec.

    Paths in the file are relative to the file, paths in `overrides` to the working directory; both may
    hold `~` and `${VARIABLE}`. Addresses with a scheme, such as s3://bucket/key, stay as they are.

    Args:
        path: the TOML file.
        overrides: `section.key=value` each, the value as TOML or, where it is not TOML, as a plain string.

    Raises: MissingInput, WrongSpec, UnknownName.
    """
    path = Path(path)
    return spec_of(_read(path), path.resolve().parent, overrides, str(path))


def spec_of(tree: dict[str, Any], folder: Path, overrides: Sequence[str] = (), where: str = "the spec") -> JobSpec:
    """The spec of a tree of tables whose relative paths are relative to a folder; the rest as `load_spec`."""
    tree = with_field_names(tree, JobSpec, where)
    changes = [with_field_names(_parse_override(override), JobSpec, "--set") for override in overrides]
    for change in changes:  # a path that is overridden may name a variable that is not set
        _remove(tree, change)
    resolve_paths(tree, JobSpec, folder, _PATH_KINDS)
    for change in changes:
        resolve_paths(change, JobSpec, Path.cwd(), _PATH_KINDS)
        _merge(tree, change)
    return parse_spec(tree, where)


def parse_spec(tree: dict[str, Any], where: str = "the spec") -> JobSpec:
    """Validate a spec that is already a tree of tables; paths in it stay as they are. Raises: WrongSpec, UnknownName."""
    return validate(tree, where)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(decoded(path.read_bytes()))
    except OSError as error:
        raise MissingInput(f"the spec {str(path)!r} cannot be read ({error.strerror}). Name a TOML file.") from None
    except UnicodeDecodeError:
        raise WrongSpec(f"{path} is not text in UTF-8 or marked UTF-16. Name a TOML file.") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, brackets thousands deep
        raise WrongSpec(f"{path} is not TOML: {one_line(error)}.") from None


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, value = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise WrongSpec(f"--set {quoted(override)} is not of the form section.key=value.")
    try:
        parsed: Any = tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):  # also of numbers of thousands of digits, and brackets thousands deep
        parsed = value.strip()
    tree: dict[str, Any] = {parts[-1]: parsed}
    for part in reversed(parts[:-1]):
        tree = {part: tree}
    return tree


def _remove(tree: dict[str, Any], change: dict[str, Any]) -> None:
    """Take the keys that a change sets out of a tree, so that only tables they share are left to merge."""
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _remove(tree[key], value)
        elif not isinstance(value, dict):
            tree.pop(key, None)


def _merge(tree: dict[str, Any], change: dict[str, Any]) -> None:
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value
