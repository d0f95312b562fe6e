"""JobSpec: the TOML file that says what a job is, validated once, at the door."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator

from pipeline.errors import MissingInput, UnknownName, WrongSpec
from pipeline.spec.activations import ActivationsSpec
from pipeline.spec.data import DataSpec
from pipeline.spec.dream import DreamSpec
from pipeline.spec.featuremaps import FeaturemapsSpec
from pipeline.spec.filters import FiltersSpec
from pipeline.spec.gradcam import GradcamSpec
from pipeline.spec.model import ModelSpec
from pipeline.spec.patterns import PatternsSpec
from pipeline.spec.table import Table, a_list
from pipeline.store.remote import has_scheme

STAGES = ("activations", "filters", "featuremaps", "gradcam", "patterns", "dream", "report")

# The parts of a spec that name files: what stands before the path, by key.
_PATH_KEYS = {
    ("model", "source"): ("file:", "frozen:", "savedmodel:"),
    ("model", "weights"): ("",),
    ("model", "labels"): ("",),
    ("model", "custom"): ("",),
    ("data", "source"): ("folder:", "parquet:", "tar:", "list:"),
    ("data", "labels"): ("",),
    ("data", "data_dir"): ("",),
    ("dream", "files"): ("",),
    ("featuremaps", "files"): ("",),
    ("gradcam", "files"): ("",),
}
_NOT_A_PATH = {"imagenet", "none"}


class JobSpec(Table):
    """A whole job, as its TOML file says it."""

    name: str
    stages: Annotated[list[str], BeforeValidator(a_list), Field(min_length=1)] = ["activations"]
    model: ModelSpec
    data: DataSpec
    activations: ActivationsSpec = ActivationsSpec()
    filters: FiltersSpec = FiltersSpec()
    featuremaps: FeaturemapsSpec = FeaturemapsSpec()
    gradcam: GradcamSpec = GradcamSpec()
    patterns: PatternsSpec = PatternsSpec()
    dream: DreamSpec = DreamSpec()

    @field_validator("name")
    @classmethod
    def _a_folder_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
            raise ValueError("is the name of a folder: letters, digits, '.', '_' and '-', a letter or digit first")
        return value

    @field_validator("stages")
    @classmethod
    def _known_stages(cls, value: list[str]) -> list[str]:
        for stage in value:
            if stage not in STAGES:
                raise UnknownName.among(stage, STAGES, where="a stage")
        return list(dict.fromkeys(value))


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
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MissingInput(f"the spec {str(path)!r} cannot be read ({error.strerror}). Name a TOML file.") from None
    except UnicodeDecodeError:
        raise WrongSpec(f"{path} is not text in UTF-8. Name a TOML file.") from None
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise WrongSpec(f"{path} is not TOML: {error}.") from None
    given = [_parse_override(override) for override in overrides]
    # A path that is overridden may name a variable that is not set.
    for table, key in _PATH_KEYS:
        if any(isinstance(one.get(table), dict) and key in one[table] for one in given) and isinstance(tree.get(table), dict):
            tree[table].pop(key, None)
    _resolve_paths(tree, path.resolve().parent)
    for one in given:
        _merge(tree, one)
    return parse_spec(tree, where=str(path))


def parse_spec(tree: dict[str, Any], where: str = "the spec") -> JobSpec:
    """Validate a spec that is already a tree of tables. Raises: WrongSpec, UnknownName."""
    try:
        return JobSpec.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, where) from None


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, value = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise WrongSpec(f"--set {override!r} is not of the form section.key=value.")
    try:
        parsed: Any = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    tree: dict[str, Any] = {parts[-1]: parsed}
    for part in reversed(parts[:-1]):
        tree = {part: tree}
    _resolve_paths(tree, Path.cwd())
    return tree


def _merge(tree: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _resolve_paths(tree: dict[str, Any], folder: Path) -> None:
    """Make the paths in a tree absolute, in place."""
    for (table, key), prefixes in _PATH_KEYS.items():
        section = tree.get(table)
        value = section.get(key) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            continue
        if isinstance(value, str):
            section[key] = _resolved(value, prefixes, folder)
        elif isinstance(value, list):
            section[key] = [_resolved(one, prefixes, folder) if isinstance(one, str) else one for one in value]


def _resolved(value: str, prefixes: Sequence[str], folder: Path) -> str:
    prefix = next((prefix for prefix in prefixes if value.startswith(prefix)), None)
    return value if prefix is None or value in _NOT_A_PATH else prefix + _absolute(value[len(prefix) :], folder)


def _absolute(path: str, folder: Path) -> str:
    expanded = os.path.expanduser(os.path.expandvars(path))
    missing = re.search(r"\$\{?(\w+)\}?", expanded)
    if missing:
        raise WrongSpec(
            f"{path!r} names the environment variable {missing[1]}, which is not set. "
            f"Set it, such as {missing[1]}=/path, or name another with --set."
        )
    return os.path.normpath(folder / expanded) if expanded and not has_scheme(expanded) else expanded


def _explain(error: ValidationError, where: str) -> WrongSpec:
    """The first of pydantic's findings, as one line in our words."""
    first = error.errors()[0]
    if first["type"] == "value_error" and isinstance(first["ctx"]["error"], WrongSpec):
        return first["ctx"]["error"]
    place = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("function-", "literal[", "constrained")))
    if first["type"] == "extra_forbidden":
        table = _table_at(first["loc"][:-1])
        inside = ".".join(str(part) for part in first["loc"][:-1])
        return UnknownName.among(
            str(first["loc"][-1]), table.model_fields, where=f"a key of {f'[{inside}]' if inside else 'the spec'} in {where}"
        )
    if first["type"] == "missing" and isinstance(first["loc"][-1], str):
        return WrongSpec(f"{where} has no {place!r}. Add it; docs/spec.md tells what it means.")
    return WrongSpec(f"{place} = {first['input']!r} in {where}: {first['msg'].removeprefix('Value error, ')}.")


def _table_at(location: Sequence[int | str]) -> type[BaseModel]:
    """The table of the spec in which a finding lies."""
    table: type[BaseModel] = JobSpec
    for part in location:
        if isinstance(part, int):  # a place in a list of tables
            continue
        field = table.model_fields[part]
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        table = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return table
