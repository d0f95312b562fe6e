"""JobSpec: the TOML file that says what a job is, validated once, at the door."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, ValidationError, field_validator

from pipeline.errors import MissingInput, UnknownName, WrongSpec
from pipeline.store.remote import has_scheme

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

STAGES = ("activations",)
PREPROCESSING = ("auto", "none", "unit", "symmetric", "caffe", "torch", "standardize")

# The parts of a spec that name files: what stands before the path, by key.
_PATH_KEYS = {
    ("model", "source"): ("file:", "frozen:", "savedmodel:"),
    ("model", "weights"): ("",),
    ("model", "labels"): ("",),
    ("data", "source"): ("folder:", "parquet:", "tar:", "list:"),
    ("data", "labels"): ("",),
    ("data", "data_dir"): ("",),
}
_NOT_A_PATH = {"imagenet", "none"}


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _a_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _height_and_width(value: Any) -> Any:
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


Positive = Annotated[int, Field(gt=0, strict=True)]
Size = Annotated[tuple[Positive, Positive], BeforeValidator(_height_and_width)]


class ModelSpec(_Table):
    """`[model]`: the network and which of its layers to look at."""

    source: str
    weights: str = "imagenet"
    layers: Annotated[list[str], BeforeValidator(_a_list), Field(min_length=1)]
    preprocess: Literal["auto", "none", "unit", "symmetric", "caffe", "torch", "standardize"] = "auto"
    labels: str | None = None
    top: StrictBool = True
    size: Size | None = None
    inputs: dict[str, bool | int | float | str | list[Any]] = {}
    logits: str | None = None
    trusted: StrictBool = False


class WindowSpec(_Table):
    """`data.window`: slide a square over large images; each position is an example."""

    size: Positive
    stride: Positive


class DataSpec(_Table):
    """`[data]`: the images, and how they come to the network's input size."""

    source: str
    data_dir: str | None = None
    image: str | None = None
    label: str | None = None
    labels: str | None = None
    limit: Positive | None = None
    batch: Positive = 64
    resize: Literal["crop", "pad", "stretch"] = "crop"
    window: WindowSpec | None = None
    on_bad: Literal["skip", "fail"] = "skip"
    max_bad: Annotated[float, Field(ge=0, le=1)] = 0.01


class ActivationsSpec(_Table):
    """`[activations]`: the heaps, and how their winners are cropped and shown."""

    top_k: Annotated[int, Field(gt=0, le=1000, strict=True)] = 9
    channels: Literal["all"] | Annotated[list[Annotated[int, Field(ge=0, strict=True)]], Field(min_length=1)] = "all"
    crop: Literal["field", "channel", "image"] = "field"

    @field_validator("channels", mode="before")
    @classmethod
    def _all_or_numbers(cls, value: Any) -> Any:
        numbers = isinstance(value, list) and value and all(type(number) is int and number >= 0 for number in value)
        if value != "all" and not numbers:
            raise ValueError("is 'all' or a list of channel numbers, from 0")
        return value

    @field_validator("channels")
    @classmethod
    def _once_each(cls, value: Any) -> Any:
        if isinstance(value, list) and len(set(value)) != len(value):
            raise ValueError("a channel is named twice")
        return value


class JobSpec(_Table):
    """A whole job, as its TOML file says it."""

    name: str
    stages: Annotated[list[str], BeforeValidator(_a_list), Field(min_length=1)] = list(STAGES)
    model: ModelSpec
    data: DataSpec
    activations: ActivationsSpec = ActivationsSpec()

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
    _resolve_paths(tree, path.resolve().parent)
    for override in overrides:
        _merge(tree, _parse_override(override))
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
        if not isinstance(section, dict) or not isinstance(value, str) or value in _NOT_A_PATH:
            continue
        for prefix in prefixes:
            if value.startswith(prefix):
                section[key] = prefix + _absolute(value[len(prefix) :], folder)


def _absolute(path: str, folder: Path) -> str:
    expanded = os.path.expanduser(os.path.expandvars(path))
    missing = re.search(r"\$\{?(\w+)\}?", expanded)
    if missing:
        raise WrongSpec(f"{path!r} names the environment variable {missing[1]}, which is not set. Set it, or write the path.")
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
        field = table.model_fields[str(part)]
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        table = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return table
