"""What the tables of a spec share: their base, and the types of their keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, field_validator
from pydantic_core import core_schema

from pipeline.errors import WrongSpec


class Table(BaseModel):
    """A table of the spec: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def read_files(self) -> list[str]:
        """The files, other than data and weights, that it names and on whose content results depend."""
        return []

    @field_validator("*", mode="before")
    @classmethod
    def _no_zero_bytes(cls, value: Any) -> Any:
        # No file, layer or class has such a name, and the system's calls would raise errors of their own.
        if any(isinstance(text, str) and "\0" in text for text in (value if isinstance(value, list) else [value])):
            raise ValueError("holds a zero byte")
        return value


@dataclass(frozen=True)
class AlsoNamed:
    """Marks a field that a spec may also call by another name."""

    name: str


@dataclass(frozen=True, eq=False)
class Rewritten:
    """Rewrites a value of a field before it is validated.

    also: the JSON schema of what a spec may write therefore beside what the field itself takes; None for one item of a list.
    """

    rewrite: Callable[[Any], Any]
    also: dict[str, Any] | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self.rewrite, handler(source))

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        generated = handler(schema)
        lists = [part for part in (generated, *generated.get("anyOf", ())) if "items" in part]
        return {"anyOf": [lists[0]["items"] if self.also is None else self.also, generated]}


def with_field_names(tree: dict[str, Any], table: type[BaseModel], where: str, path: str = "") -> dict[str, Any]:
    """A copy of a tree of values in which every key, at any depth, has the name of its field.

    Args:
        table: what the tree is to become.
        where: what the tree is called, for the error.
        path: the tree's own key in a spec, such as "patterns."; empty for a whole spec.

    Raises: WrongSpec, for a key that is given under both of its names.
    """
    names = {
        mark.name: name for name, field in table.model_fields.items() for mark in field.metadata if isinstance(mark, AlsoNamed)
    }
    renamed: dict[str, Any] = {}
    for key, value in tree.items():
        name = names.get(key, key)
        if name in renamed:
            raise WrongSpec(f"{path}{name} and {path}{key} in {where} are two names of one key. Leave one of them out.")
        field = table.model_fields.get(name)
        for inner in inner_tables(field.annotation) if field else ():
            if isinstance(value, dict):
                value = with_field_names(value, inner, where, f"{path}{key}.")
            elif isinstance(value, list):
                value = [with_field_names(v, inner, where, f"{path}{key}.") if isinstance(v, dict) else v for v in value]
        renamed[name] = value
    return renamed


def inner_tables(annotation: Any) -> Iterator[type[BaseModel]]:
    """The tables in an annotation, such as `list[ObjectiveSpec]` or `ZoomSpec | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from inner_tables(part)


def a_list(value: Any) -> Any:
    """One text stands for a list of one."""
    return [value] if isinstance(value, str) else value


def height_and_width(value: Any) -> Any:
    """One number stands for a square."""
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


# The bounds keep what is computed from such numbers within 64 bits, and what is allocated within reason.
Positive = Annotated[int, Field(gt=0, le=2**53, strict=True)]
Side = Annotated[int, Field(gt=0, le=2**30, strict=True)]  # of a window, in source pixels
Batch = Annotated[int, Field(gt=0, le=2**20, strict=True)]
Size = Annotated[tuple[Side, Side], Rewritten(height_and_width, {"type": "integer", "minimum": 1})]
